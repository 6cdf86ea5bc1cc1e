package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// AllowedFlow is a flow that the policies of a pod of this node have let pass. Between two
// such pods there are two, one of each.
type AllowedFlow struct {
	Local, Remote netip.AddrPort // the pod's end and the other, as policies see it: a backend, never a Service
	Protocol      Protocol       // without ports, these are 0
	PodOpened     bool           // the pod has begun it, not the other end
	Always        bool           // no policy forbids it: the other end is the pod's node, or the pod itself
	Idle          time.Duration  // since a packet passed, rounded down to about a second
}

// ALLOWED_BY_POD and so on in src/allowednew.h.
const (
	allowedByPod    = 1 << 0
	allowedAnswered = 1 << 1
	allowedClosed   = 1 << 4
	allowedAlways   = 1 << 5
	allowedLive     = 1 << 6
)

// CollectAllowed tells f of every flow of isolated pods that both ends have spoken in, and
// forgets those that have been silent too long. It returns how many it has forgotten. f may
// be nil.
func (d *Datapath) CollectAllowed(timeouts Timeouts, f func(AllowedFlow)) (int, error) {
	now := uptime()
	silent := func(k *weftTuple, v *weftAllowed) bool {
		idle := idleSince(now, v.Seen)
		if idle > timeouts.ofAllowed(k, v) {
			return true
		}
		if f != nil && v.Flags&allowedClosed == 0 {
			f(AllowedFlow{
				Local:  netip.AddrPortFrom(addrFrom(k.Src), k.Sport),
				Remote: netip.AddrPortFrom(addrFrom(k.Dst), k.Dport), Protocol: Protocol(k.Proto),
				PodOpened: v.Flags&allowedByPod != 0, Always: v.Flags&allowedAlways != 0, Idle: idle,
			})
		}
		return false
	}
	forgotten, err := forget(d, weftMapAllowed, silent)
	if f != nil { // the programs know themselves what is silent there
		err = errors.Join(err, d.scanAllowedNew(func(k *weftTuple, v *weftAllowed) {
			if v.Flags&allowedLive != 0 {
				silent(k, v)
			}
		}))
	}
	return forgotten, err
}

func (t Timeouts) ofAllowed(k *weftTuple, v *weftAllowed) time.Duration {
	if v.Flags&allowedClosed != 0 {
		return t.Ended
	}
	return t.of(k, &weftFlow{})
}

// AllowedRoom is how many flows of isolated pods there is room for; one between two such
// pods counts twice.
func (d *Datapath) AllowedRoom() int { return int(d.maps[weftMapAllowed].MaxEntries()) }

// AllowedFull is how often, since this daemon loaded the programs, a flow found no room
// among those that nothing is pushed out of; until it does, others that are new may push it
// out, and what it does then is judged as new.
func (d *Datapath) AllowedFull() (uint64, error) {
	var n uint64
	if err := d.allowedFull.Get(&n); err != nil {
		return 0, fmt.Errorf("read how often allowed flows found no room: %w", err)
	}
	return n, nil
}

// AdoptAllowed takes up flows of a pod that began before it was isolated. Each is judged by
// its next packet, as one that its opener has begun; one that the node or the pod itself
// has opened to the pod always passes. What the programs know already stays, so it can be
// repeated. Flows without room are left out, with [ErrFull]. Idle and Always are not read.
func (d *Datapath) AdoptAllowed(pod netip.Addr, flows []AllowedFlow) error {
	var revision uint32
	if err := d.revision.Get(&revision); err != nil {
		return fmt.Errorf("adopt flows of a pod: %w", err)
	}
	var errs []error
	for _, f := range flows {
		if f.Local.Addr() != pod {
			errs = append(errs, fmt.Errorf("adopt flow of %s: it ends at %s", pod, f.Local))
			continue
		}
		errs = append(errs, d.adoptAllowed(f, revision-1))
	}
	return errors.Join(errs...)
}

func (d *Datapath) adoptAllowed(f AllowedFlow, revision uint32) error {
	k := weftTuple{
		Src: toAddr(f.Local.Addr()), Dst: toAddr(f.Remote.Addr()),
		Sport: f.Local.Port(), Dport: f.Remote.Port(), Proto: uint8(f.Protocol),
	}
	v := weftAllowed{Revision: revision, Seen: uint32(uptime() / flowTick), Flags: allowedAnswered | allowedLive}
	if f.PodOpened {
		v.Flags |= allowedByPod
	}
	remote, known, err := endpoints{d}.Get(f.Remote.Addr())
	if err != nil {
		return err
	}
	if k.Src == k.Dst || known && remote.Flags&EndpointHost != 0 && !f.PodOpened {
		v.Flags |= allowedAlways
	}
	if _, known, err := d.inAllowedNew(&k); err != nil {
		return fmt.Errorf("adopt flow %s with %s: %w", f.Local, f.Remote, err)
	} else if known {
		return nil
	}
	err = d.maps[weftMapAllowed].Update(&k, &v, ebpf.UpdateNoExist)
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("adopt flow %s with %s: %w", f.Local, f.Remote, ErrFull)
	case err != nil && !errors.Is(err, ebpf.ErrKeyExist):
		return fmt.Errorf("adopt flow %s with %s: %w", f.Local, f.Remote, err)
	}
	return nil
}
