package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// AdoptedFlow is a flow as [Datapath.Adopt] takes it.
type AdoptedFlow struct {
	Flow
	Generation              uint32 // of its backend
	Answered                bool   // both ends have spoken
	ClientDone, BackendDone bool   // who has sent FIN (TCP)
}

// flags are those of one of its rows, whose sender has sent FIN or has not.
func (f AdoptedFlow) flags(done bool) (flags uint32) {
	if done {
		flags = flowFIN
	}
	if f.ClientDone && f.BackendDone {
		flags |= flowClosed
	}
	return flags
}

// Adopt makes a flow one of ours that others have translated so far: from now on the
// programs give its packets these addresses. A flow that is known already, or whose place
// is another's, stays as it is; so it can be repeated.
func (d *Datapath) Adopt(f AdoptedFlow) error {
	seen := uint32(uptime() / flowTick)
	there := weftTuple{Src: toAddr(f.Client.Addr()), Dst: toAddr(f.Service.Addr()), Sport: f.Client.Port(), Dport: f.Service.Port(), Proto: uint8(f.Protocol)}
	row := weftFlow{
		Src: toAddr(f.Source.Addr()), Dst: toAddr(f.Backend.Addr()), Sport: f.Source.Port(), Dport: f.Backend.Port(),
		Generation: f.Generation, Seen: seen, Flags: f.flags(f.ClientDone),
	}
	back := otherOf(there, row)
	reply := weftFlow{
		Src: there.Dst, Dst: there.Src, Sport: there.Dport, Dport: there.Sport,
		Generation: f.Generation, Seen: seen, Flags: flowReply | f.flags(f.BackendDone),
	}
	if f.Answered {
		row.Flags |= flowAdopted
		reply.Flags |= flowAnswered | flowAdopted
	}
	for _, k := range []weftTuple{there, back} {
		if _, known, err := d.inBrief(&k); err != nil {
			return fmt.Errorf("adopt flow: %w", err)
		} else if known {
			return nil
		}
	}
	// Both ways are to change at once, or nearly so: marks before rows.
	mark := clientMark(back.Dst)
	if err := d.maps[weftMapClients].Put(&mark, &seen); err != nil {
		return fmt.Errorf("adopt flow: %w", err)
	}
	if there.Src == row.Src {
		mark = pairMark(row.Src, row.Dst)
		if err := d.maps[weftMapPairs].Put(&mark, &seen); err != nil {
			return fmt.Errorf("adopt flow: %w", err)
		}
	}
	if err := d.markPlace(there.Dst); err != nil {
		return fmt.Errorf("adopt flow: %w", err)
	}
	// Its replies first: they lead to the client that has sent what they answer. One that was not
	// answered is live, too: only programs write to `brief`.
	to := d.maps[weftMapLive]
	if err := to.Update(&back, &reply, ebpf.UpdateNoExist); errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("adopt flow: %w", err)
	}
	if err := to.Update(&there, &row, ebpf.UpdateNoExist); err != nil {
		gone := drop(to, back)
		if errors.Is(err, ebpf.ErrKeyExist) {
			return gone
		}
		return fmt.Errorf("adopt flow: %w", errors.Join(err, gone))
	}
	return nil
}

// Reserve keeps the tuple of a backend's replies from flows of ours: a connection of the
// node itself has it that others translate. It can be repeated, and holds as long as a
// flow that is silent.
func (d *Datapath) Reserve(p Protocol, backend, source netip.AddrPort) error {
	k := weftTuple{Src: toAddr(backend.Addr()), Dst: toAddr(source.Addr()), Sport: backend.Port(), Dport: source.Port(), Proto: uint8(p)}
	// A row of a client whose backend is nobody, and so never alive: no packet becomes that.
	v := weftFlow{Seen: uint32(uptime() / flowTick)}
	if err := d.maps[weftMapLive].Update(&k, &v, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("reserve tuple: %w", err)
	}
	return nil
}

// reserved says whether a row is one of [Datapath.Reserve].
func reserved(v *weftFlow) bool { return v.Dst == weftAddr{} }

// TakeOver says that no flow is netfilter's any more that should be ours: Services are
// served here from now on, and by the daemons that follow.
func (d *Datapath) TakeOver() error {
	if err := d.takenOver.Set(uint32(1)); err != nil {
		return fmt.Errorf("take Services over: %w", err)
	}
	return mkdir(servingDir(d.dir))
}

// ServesServices says whether a former daemon with these pins has taken Services over.
func ServesServices(dir string) bool { return exists(servingDir(dir)) }

// servingDir is an empty folder that is there while Services are served.
func servingDir(dir string) string { return filepath.Join(dir, "serving") }

// LeavePodsToPackets says whether connections that pods begin are translated packet by
// packet, as long as adopted ones live: at the socket, to the same backend, one could get
// the source port of such a one.
func (d *Datapath) LeavePodsToPackets(leave bool) error {
	var v uint32
	if leave {
		v = 1
	}
	if err := d.byPacket.Set(v); err != nil {
		return fmt.Errorf("leave pods' connections to the packets: %w", err)
	}
	return nil
}
