package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flow is a translated flow that both ends have spoken in.
type Flow struct {
	Protocol Protocol
	Client   netip.AddrPort
	Service  netip.AddrPort // what the client sends to
	Source   netip.AddrPort // what the backend sees of the client
	Backend  netip.AddrPort
	Idle     time.Duration // since its client last sent something, rounded down to about a second
	Adopted  bool          // it began elsewhere: see [Datapath.Adopt]
}

// Timeouts say how long a flow may be silent, both ways, before it is forgotten. Ended is
// for those that have ended, in case the programs have not forgotten them by then.
type Timeouts struct {
	TCP, UDP, SCTP, Ended time.Duration
}

// DefaultTimeouts: TCP and SCTP outlast a keepalive every two hours (RFC 5382, REQ-5),
// UDP is that of the kernel's own conntrack (nf_conntrack_udp_timeout_stream); what has
// ended may still be under way for two minutes (RFC 9293, 2·MSL), but hardly for one.
var DefaultTimeouts = Timeouts{TCP: 124 * time.Minute, UDP: 2 * time.Minute, SCTP: 124 * time.Minute, Ended: time.Minute}

func (t Timeouts) of(k *weftTuple, v *weftFlow) time.Duration {
	if v.Flags&flowClosed != 0 {
		return t.Ended
	}
	switch Protocol(k.Proto) {
	case TCP:
		return t.TCP
	case SCTP:
		return t.SCTP
	}
	return t.UDP
}

// flowTick is the unit of a row's `seen`: 2^30 ns of uptime.
const flowTick = 1 << 30 * time.Nanosecond

// idleSince is how long it is ago that a packet passed, at an uptime; the programs count
// likewise, past zero, too. None if it passed since.
func idleSince(now time.Duration, seen uint32) time.Duration {
	return max(0, time.Duration(int32(uint32(now/flowTick)-seen))*flowTick+now%flowTick)
}

// uptime is the clock of the programs (bpf_ktime_get_coarse_ns).
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0 // cannot be
	}
	return time.Duration(t.Nano())
}

// scanFlows tells f of every row of `brief`, then of `live`: one that moves meanwhile is in one of
// them, or told twice.
func (d *Datapath) scanFlows(f func(*weftTuple, *weftFlow)) error {
	return errors.Join(d.scanBrief(f), scan(d, weftMapLive, func(k *weftTuple, v *weftFlow) {
		v.Flags |= flowLive
		f(k, v)
	}))
}

// served says whether a row is of what the clients of a live flow through a Service send.
func served(k *weftTuple, v *weftFlow) bool {
	return v.Flags&(flowReply|flowClosed|flowLive) == flowLive && !reserved(v) && !diverted(k, v)
}

// Collect tells f of every live flow through a Service and forgets those that have been silent too long.
// It reads the maps in small batches, or as they are in the kernel, so that no packet waits for it. It
// returns how many it has forgotten. f may be nil.
func (d *Datapath) Collect(timeouts Timeouts, f func(Flow)) (int, error) {
	now := uptime()
	idle := func(v *weftFlow) time.Duration { return idleSince(now, v.Seen) }
	var dead []weftTuple
	err := d.scanFlows(func(k *weftTuple, v *weftFlow) {
		silent := idle(v)
		switch {
		case v.Flags&(flowLive|flowClosed) == 0 || v.Flags&flowPassed != 0: // it goes when others need its place
		case silent > timeouts.of(k, v):
			dead = append(dead, *k)
		case served(k, v) && f != nil:
			f(flowOf(k, v, silent))
		}
	})
	if err != nil || len(dead) == 0 {
		return 0, err
	}
	b, err := d.openBrief()
	if err != nil {
		return 0, err
	}
	defer b.done()
	live := d.maps[weftMapLive]
	find := func(k *weftTuple) (v weftFlow, ok bool) {
		if v, at, _ := b.find(k); at != nil {
			return v, true
		}
		err := live.Lookup(k, &v)
		return v, err == nil
	}
	forgotten := 0
	var errs []error
	for _, k := range dead {
		v, ok := find(&k)
		if !ok || idle(&v) <= timeouts.of(&k, &v) {
			continue // gone already, or another
		}
		gone := map[weftTuple]weftFlow{k: v}
		other := otherOf(k, v)
		if back, ok := find(&other); ok && otherOf(other, back) == k { // else it is another flow's
			if idle(&back) <= timeouts.of(&other, &back) {
				continue // only this direction is silent
			}
			gone[other] = back
		}
		forgotten++
		for k, v := range gone {
			b.drop(&k, &v)
			errs = append(errs, drop(live, k))
		}
	}
	return forgotten, errors.Join(errs...)
}

// FlowRoom is how many live flows there is room for at least, each in both directions.
func (d *Datapath) FlowRoom() int { return int(d.maps[weftMapLive].MaxEntries()) / 2 }

// BackendFlows counts, by backend, the flows that go through a Service on this node: the
// live ones that are translated per packet, and the sockets that are connected.
func (d *Datapath) BackendFlows() (map[Place]int, error) {
	counts := map[Place]int{}
	err := d.scanFlows(func(k *weftTuple, v *weftFlow) {
		if served(k, v) {
			counts[Place{addrFrom(v.Dst), v.Dport, Protocol(k.Proto)}]++
		}
	})
	if err != nil {
		return nil, err
	}
	err = scan(d, weftMapSockets, func(_ *uint64, v *weftConnected) {
		counts[Place{addrFrom(v.Backend), v.BackendPort, Protocol(v.Proto)}]++
	})
	return counts, err
}

// FLOW_REPLY and so on in src/live.h.
const (
	flowReply    = 1 << 0
	flowAnswered = 1 << 1
	flowFIN      = 1 << 2
	flowClosed   = 1 << 3
	flowAdopted  = 1 << 4
	flowPassed   = 1 << 6
	flowLive     = 1 << 7
)

func drop(m *ebpf.Map, k weftTuple) error {
	if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget flow: %w", err)
	}
	return nil
}

// diverted says whether a row is of a connection to a backend itself, which got another
// source port: see src/direct.h.
func diverted(k *weftTuple, v *weftFlow) bool { return k.Dst == v.Dst && k.Dport == v.Dport }

// otherOf is the key of a flow's other row.
func otherOf(k weftTuple, v weftFlow) weftTuple {
	return weftTuple{Src: v.Dst, Dst: v.Src, Sport: v.Dport, Dport: v.Sport, Proto: k.Proto}
}

func flowOf(k *weftTuple, v *weftFlow, idle time.Duration) Flow {
	at := func(a weftAddr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addrFrom(a), port) }
	return Flow{
		Protocol: Protocol(k.Proto), Client: at(k.Src, k.Sport), Service: at(k.Dst, k.Dport),
		Source: at(v.Src, v.Sport), Backend: at(v.Dst, v.Dport), Idle: idle, Adopted: v.Flags&flowAdopted != 0,
	}
}

// Unmark lets packets pass without a look at the flows that are to addresses which are no
// longer clients of translated flows, or to backends that have no longer flows of their
// senders. A mark that was set meanwhile stays, and one that is missing is set. Nor do they look for
// flows in `live` that cannot be there.
func (d *Datapath) Unmark() error {
	start := uint32(uptime() / flowTick)
	clients, pairs := map[uint32]bool{}, map[uint32]bool{}
	use := func(k *weftTuple, v *weftFlow) {
		if v.Flags&flowReply == 0 {
			if diverted(k, v) {
				clients[clientMark(k.Dst)] = true
			}
			return
		}
		clients[clientMark(k.Dst)] = true
		if k.Dst == v.Dst {
			pairs[pairMark(k.Dst, k.Src)] = true
		}
	}
	if err := d.scanFlows(use); err != nil {
		return err
	}
	return errors.Join(d.unmark(weftMapClients, clients, start), d.unmark(weftMapPairs, pairs, start), d.unmarkMoved())
}

func (d *Datapath) unmark(name string, used map[uint32]bool, start uint32) error {
	marks := d.maps[name]
	var errs []error
	err := scan(d, name, func(k *uint32, v *uint32) {
		var mark uint32
		if used[*k] {
			mark = start
		}
		if (*v == 0) == (mark == 0) || *v >= start {
			return
		}
		if err := marks.Put(k, &mark); err != nil {
			errs = append(errs, fmt.Errorf("write map %s: %w", name, err))
		}
	})
	return errors.Join(append(errs, err)...)
}

// clientMark is the index of an address in `clients`: client_of in src/flow.h.
func clientMark(a weftAddr) uint32 { return uint32(mix(words(a)) >> 50) }

// pairMark is that of two in `pairs`: pair_of.
func pairMark(client, backend weftAddr) uint32 {
	first, second := words(client)
	return uint32(mix(mix(mix(words(backend)), first), second) >> 49)
}
