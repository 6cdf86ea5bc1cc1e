package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/weftnet/weft/internal/reconcile"
)

// peers is the typed table of the map `peers`.
type peers struct {
	table[weftPrefix, weftPeer, netip.Prefix, Peer]
}

// Peers is the table of other nodes' pod prefixes; the longest that matches an
// address is its row. IPv4 prefixes are keyed as such, not as ::ffff:0:0/96+n. Its
// Set returns [ErrFull] if there is no room.
func (d *Datapath) Peers() reconcile.Target[netip.Prefix, Peer] {
	return peers{table[weftPrefix, weftPeer, netip.Prefix, Peer]{d, weftMapPeers, toPrefix, prefixFrom, toPeer, weftPeer.row}}
}

func (t peers) Set(p netip.Prefix, v Peer) error {
	if err := v.check(p); err != nil {
		return err
	}
	return t.table.Set(p, v)
}

func (t peers) SetAll(prefixes []netip.Prefix, values []Peer) (int, error) {
	for i, p := range prefixes {
		if err := values[i].check(p); err != nil {
			n, setErr := t.table.SetAll(prefixes[:i], values[:i])
			return n, cmp.Or(setErr, err)
		}
	}
	return t.table.SetAll(prefixes, values)
}

func toPeer(v Peer) weftPeer {
	row := weftPeer{
		Remote: toAddr(v.Remote), Local: toAddr(v.Local), NextHop: toAddr(v.NextHop),
		Ifindex: v.LinkIndex, Mtu: v.MTU, Flags: v.Flags,
	}
	row.Mac.B = v.MAC
	row.SrcMac.B = innerSource(v.Local)
	return row
}

func (v weftPeer) row() Peer {
	return Peer{
		Remote: addrFrom(v.Remote), Local: addrFrom(v.Local), NextHop: addrFrom(v.NextHop),
		MAC: v.Mac.B, LinkIndex: v.Ifindex, MTU: v.Mtu, Flags: v.Flags,
	}
}

// check says what is wrong with a row. A row without a link is complete: its packets
// are left to the stack.
func (v Peer) check(p netip.Prefix) error {
	if err := v.wrong(p); err != nil {
		return fmt.Errorf("write map %s: row %s: %w", weftMapPeers, p, err)
	}
	return nil
}

func (v Peer) wrong(p netip.Prefix) error {
	if !p.IsValid() || !v.Remote.IsValid() || v.Remote.Is4() != v.Local.Is4() {
		return fmt.Errorf("no tunnel from %s to %s", v.Local, v.Remote)
	}
	sent := v.Remote // the destination of what goes to the next hop
	if v.Flags&PeerDirect != 0 {
		sent = p.Addr()
	}
	// IPv4 may go through an IPv6 neighbour (RFC 8950), not the other way round.
	if v.LinkIndex != 0 && (!v.NextHop.IsValid() || sent.Is6() && v.NextHop.Is4()) {
		return fmt.Errorf("no way to %s by %s", sent, v.NextHop)
	}
	return nil
}

func toPrefix(p netip.Prefix) weftPrefix {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return weftPrefix{Bits: uint32(bits), Addr: p.Addr().As16()}
}

func prefixFrom(p weftPrefix) netip.Prefix {
	a := netip.AddrFrom16(p.Addr)
	if a.Is4In6() && p.Bits >= 96 {
		return netip.PrefixFrom(a.Unmap(), int(p.Bits)-96)
	}
	return netip.PrefixFrom(a, int(p.Bits))
}

// innerSource is the inner source MAC of what this node encapsulates. It is not the
// address of the receiving VXLAN device (0e:57…), from which the kernel would drop
// the frame as its own (vxlan_set_mac in drivers/net/vxlan/vxlan_core.c).
func innerSource(local netip.Addr) [6]byte {
	b := local.As16()
	h := fnv.New32a()
	h.Write(b[:])
	mac := [6]byte{0x0a, 0x57}
	binary.BigEndian.PutUint32(mac[2:], h.Sum32())
	return mac
}

// Nodes is the table of other nodes' addresses, with this node's address towards each; an
// invalid one if the overlay does not use it. These nodes may pass on to this one what came
// to them from outside. Its Set returns [ErrFull] if there is no room.
func (d *Datapath) Nodes() reconcile.Target[netip.Addr, netip.Addr] {
	return table[weftAddr, weftAddr, netip.Addr, netip.Addr]{d, weftMapNodes, toAddr, addrFrom, toAddr, addrFrom}
}
