package announce

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// ring is a cluster whose nodes watch each other, with a clock that only run moves.
type ring struct {
	t      testing.TB
	now    time.Time
	names  []string
	ips    map[string]netip.Addr
	nodes  map[string]*ringNode
	random *rand.Rand
	// cut says whether a datagram is lost; nil: none is.
	cut func(from, to string) bool
}

// ringNode is a node: its datapath, and the watch of its daemon.
type ringNode struct {
	off     bool // the machine is
	mute    bool // its datapath answers no questions
	stalled bool // its daemon gets no CPU
	watch   *Watch
	next    time.Time
	inbox   []func(time.Time) // what has come and was not read
	sent    int
}

func newRing(t testing.TB, nodes int, seed uint64) *ring {
	r := &ring{
		t: t, now: time.Unix(1e9, 0), ips: map[string]netip.Addr{}, nodes: map[string]*ringNode{},
		random: rand.New(rand.NewPCG(seed, seed)),
	}
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		r.names = append(r.names, name)
		r.ips[name] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	}
	for _, name := range r.names {
		r.boot(name)
	}
	return r
}

// boot is a node's start from nothing.
func (r *ring) boot(name string) {
	w := NewWatch(name, r.random.Uint64)
	others := maps.Clone(r.ips)
	delete(others, name)
	w.Set(others)
	r.nodes[name] = &ringNode{watch: w, next: r.now.Add(time.Duration(r.random.IntN(1000)) * time.Millisecond)}
}

func (r *ring) run(d time.Duration) {
	byIP := map[netip.Addr]string{}
	for name, ip := range r.ips {
		byIP[ip] = name
	}
	passes := func(from, to string) bool {
		return r.nodes[to] != nil && !r.nodes[from].off && !r.nodes[to].off && (r.cut == nil || !r.cut(from, to))
	}
	for end := r.now.Add(d); r.now.Before(end); r.now = r.now.Add(50 * time.Millisecond) {
		for _, name := range r.names {
			n := r.nodes[name]
			if n.off || n.stalled || r.now.Before(n.next) {
				continue
			}
			for _, read := range n.inbox {
				read(r.now)
			}
			n.inbox = nil
			send, _ := n.watch.Step(r.now)
			n.next = r.now.Add(n.watch.Wait())
			n.sent += len(send)
			for _, m := range send {
				to := byIP[m.To]
				if !passes(name, to) {
					continue
				}
				other, d := r.nodes[to], m.Datagram
				if d.Kind != kindQuestion {
					from := r.ips[name]
					other.inbox = append(other.inbox, func(at time.Time) { other.watch.Hear(at, from, d) })
				} else if !other.mute && passes(to, name) {
					d.Kind, d.Silence = kindAnswer, neverHeard // daemons do not matter
					n.inbox = append(n.inbox, func(at time.Time) { n.watch.Hear(at, m.To, d) })
				}
			}
		}
	}
}

// within runs until all that are on say that the lost are these, and not longer than d. It
// returns how long that took.
func (r *ring) within(what string, d time.Duration, lost ...string) time.Duration {
	r.t.Helper()
	start := r.now
	slices.Sort(lost)
	for {
		wrong := ""
		for _, name := range r.names {
			if got := slices.Sorted(maps.Keys(r.nodes[name].watch.Lost())); !r.nodes[name].off && !slices.Equal(got, lost) {
				wrong = fmt.Sprintf("%s: to %s are lost %v, want %v", what, name, got, lost)
				break
			}
		}
		if wrong == "" {
			return r.now.Sub(start)
		}
		if r.now.Sub(start) >= d {
			r.t.Fatalf("%s, after %v", wrong, d)
		}
		r.run(100 * time.Millisecond)
	}
}

// never runs, and fails when somebody is lost to somebody.
func (r *ring) never(what string, d time.Duration) {
	r.t.Helper()
	for end := r.now.Add(d); r.now.Before(end); r.run(time.Second) {
		for _, name := range r.names {
			if lost := r.nodes[name].watch.Lost(); len(lost) > 0 {
				r.t.Fatalf("%s: to %s are lost %v", what, name, lost)
			}
		}
	}
}
