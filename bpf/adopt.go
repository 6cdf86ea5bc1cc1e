package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

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
// is another's, stays as it is; so it can be repeated. One whose Backend is its Service, and
// whose Source its Client, the programs leave to those others.
func (d *Datapath) Adopt(f AdoptedFlow) error {
	seen := uint32(uptime() / flowTick)
	there := weftTuple{Src: toAddr(f.Client.Addr()), Dst: toAddr(f.Service.Addr()), Sport: f.Client.Port(), Dport: f.Service.Port(), Proto: uint8(f.Protocol)}
	a := weftAdopted{
		There: there,
		Row: weftFlow{
			Src: toAddr(f.Source.Addr()), Dst: toAddr(f.Backend.Addr()), Sport: f.Source.Port(), Dport: f.Backend.Port(),
			Generation: f.Generation, Seen: seen, Flags: f.flags(f.ClientDone),
		},
		Reply: weftFlow{
			Src: there.Dst, Dst: there.Src, Sport: there.Dport, Dport: there.Sport,
			Generation: f.Generation, Seen: seen, Flags: flowReply | f.flags(f.BackendDone),
		},
	}
	a.Back = otherOf(there, a.Row)
	write := d.adoptNew
	if f.Answered {
		a.Reply.Flags |= flowAnswered
		write = d.adoptLive
		if !diverted(&a.There, &a.Row) {
			a.Row.Flags |= flowAdopted
			a.Reply.Flags |= flowAdopted
		}
	}
	known, err := d.known(&a.There, &a.Back)
	if err == nil && !known {
		err = d.markAdopted(&a) // both ways are to change at once, or nearly so: marks before rows
		if err == nil {
			err = write(&a)
		}
	}
	if err != nil {
		return fmt.Errorf("adopt flow: %w", err)
	}
	return nil
}

// known says whether one of these tuples has a row.
func (d *Datapath) known(tuples ...*weftTuple) (bool, error) {
	for _, k := range tuples {
		if _, ok, err := d.inBrief(k); ok || err != nil {
			return ok, err
		}
		var v weftFlow
		if err := d.maps[weftMapLive].Lookup(k, &v); err == nil {
			return true, nil
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, fmt.Errorf("look up in map %s: %w", weftMapLive, err)
		}
	}
	return false, nil
}

// markAdopted has the programs look for the rows of a flow.
func (d *Datapath) markAdopted(a *weftAdopted) error {
	mark := clientMark(a.Back.Dst)
	if err := d.maps[weftMapClients].Put(&mark, &a.Row.Seen); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapClients, err)
	}
	if a.There.Src == a.Row.Src {
		mark = pairMark(a.Row.Src, a.Row.Dst)
		if err := d.maps[weftMapPairs].Put(&mark, &a.Row.Seen); err != nil {
			return fmt.Errorf("write map %s: %w", weftMapPairs, err)
		}
	}
	return d.markPlace(a.There.Dst)
}

// adoptLive writes a flow that both ends have spoken in.
func (d *Datapath) adoptLive(a *weftAdopted) error {
	// Its replies first: they lead to the client that has sent what they answer.
	if err := d.putLive(&a.Back, &a.Reply); errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := d.putLive(&a.There, &a.Row); err != nil {
		gone := drop(d.maps[weftMapLive], a.Back)
		if errors.Is(err, ebpf.ErrKeyExist) {
			return gone
		}
		return errors.Join(err, gone)
	}
	return nil
}

// adoptProgram is in no link: [Datapath.Adopt] runs it.
const adoptProgram = "adopt"

// adoptTries is how often a flow is tried whose place in `brief` is being written to.
const adoptTries = 100

// adoptNew writes one that is half-open, to where a flood pushes out its like.
func (d *Datapath) adoptNew(a *weftAdopted) error {
	in, err := binary.Append(make([]byte, 14), native, a)
	if err != nil {
		return err
	}
	for i := range adoptTries {
		if i > 0 {
			time.Sleep(time.Millisecond) // a processor may be taken away from who writes
		}
		why, err := d.adopter.Run(&ebpf.RunOptions{Data: in})
		switch {
		case err != nil:
			return fmt.Errorf("run program %s: %w", adoptProgram, err)
		case weftReason(why) == weftReasonOK || weftReason(why) == weftReasonNOT_OURS:
			return nil
		case weftReason(why) != weftReasonDROP_FLOWS_BUSY:
			return fmt.Errorf("run program %s: it returned %d", adoptProgram, why)
		}
	}
	return fmt.Errorf("write map %s: others are writing there, tried %d times", weftMapBrief, adoptTries)
}

// Reserve keeps the tuple of a backend's replies from flows of ours: a connection of the
// node itself has it that others translate. It can be repeated, and holds as long as a
// flow that is silent.
func (d *Datapath) Reserve(p Protocol, backend, source netip.AddrPort) error {
	k := weftTuple{Src: toAddr(backend.Addr()), Dst: toAddr(source.Addr()), Sport: backend.Port(), Dport: source.Port(), Proto: uint8(p)}
	// A row of a client whose backend is nobody, and so never alive: no packet becomes that.
	v := weftFlow{Seen: uint32(uptime() / flowTick)}
	if err := d.putLive(&k, &v); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
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
