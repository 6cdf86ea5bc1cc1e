package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/internal/reconcile"
)

// Stand is what an address of this node stands in for, as the source of what goes to
// a backend: the key of the map `own`.
type Stand struct {
	Nodes bool // towards other nodes, not towards pods
	// Ports: for other nodes, by having their node ports, too; not with Nodes.
	Ports bool
	IPv6  bool
}

// own is the typed table of the map `own`.
type own struct{ d *Datapath }

// Own is the table of this node's addresses that stand in for clients: where a backend
// would not answer the client through this node, and where client and backend are one.
func (d *Datapath) Own() reconcile.Target[Stand, netip.Addr] { return own{d} }

func (s Stand) index() uint32 {
	i := uint32(0)
	if s.Nodes {
		i += 2 // OWN_NODE in src/serve.h
	}
	if s.Ports {
		i += 4 // OWN_PORTS
	}
	if s.IPv6 {
		i++
	}
	return i
}

func (t own) Dump() (map[Stand]netip.Addr, error) {
	if err := t.d.repin(weftMapOwn); err != nil {
		return nil, err
	}
	rows := map[Stand]netip.Addr{}
	for _, s := range stands() {
		var a weftAddr
		if err := t.d.maps[weftMapOwn].Lookup(s.index(), &a); err != nil {
			return nil, fmt.Errorf("read map %s: %w", weftMapOwn, err)
		}
		if addr := addrFrom(a); addr.IsValid() {
			rows[s] = addr
		}
	}
	return rows, nil
}

func (t own) Set(s Stand, a netip.Addr) error {
	if a.IsValid() && a.Is6() != s.IPv6 {
		return errors.New("write map own: address of the other family")
	}
	return set(t.d, weftMapOwn, s.index(), toAddr(a))
}

func (t own) Delete(s Stand) error { return set(t.d, weftMapOwn, s.index(), weftAddr{}) }

func stands() []Stand {
	return []Stand{{}, {IPv6: true}, {Nodes: true}, {Nodes: true, IPv6: true}, {Ports: true}, {Ports: true, IPv6: true}}
}
