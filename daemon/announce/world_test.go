package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is a cluster of machines on a network that is made of their datagrams, with a
// clock that only [world.run] moves.
type world struct {
	t     testing.TB
	now   time.Time
	nodes []*simulated
	addrs []netip.Addr
	// allowed says who may announce an address; nil: all.
	allowed func(a netip.Addr, node string) bool
	random  *rand.Rand
}

// simulated is a node: its datapath, and the daemon's machine while there is a daemon.
type simulated struct {
	name    string
	ip      netip.Addr
	side    int // who is on another one does not hear it
	off     bool
	machine *Machine  // nil: the daemon is dead
	next    time.Time // its next step
	steps   int
	rows    map[netip.Addr]bool
	beat    time.Time
	yields  int // that came
	tells   map[netip.Addr]int
}

func newWorld(t testing.TB, nodes, addrs int, seed uint64) *world {
	w := &world{t: t, now: time.Unix(1e9, 0), random: rand.New(rand.NewPCG(seed, seed))}
	for i := range addrs {
		if i%2 == 0 {
			w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		} else {
			w.addrs = append(w.addrs, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}))
		}
	}
	for i := range nodes {
		n := &simulated{name: fmt.Sprintf("node-%d", i), ip: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		w.nodes = append(w.nodes, n)
	}
	for _, n := range w.nodes {
		w.boot(n)
	}
	return w
}

// boot is a node's start from nothing.
func (w *world) boot(n *simulated) {
	n.off, n.rows, n.beat, n.tells = false, map[netip.Addr]bool{}, time.Time{}, map[netip.Addr]int{}
	w.daemon(n)
}

// daemon starts the node's daemon.
func (w *world) daemon(n *simulated) {
	var adopted []netip.Addr
	if w.now.Sub(n.beat) < 15*time.Second {
		for _, a := range w.addrs {
			if n.rows[a] {
				adopted = append(adopted, a)
			}
		}
	}
	n.machine = New(n.name, w.now, adopted, w.random.Uint64)
	w.set(n)
	n.next = w.now
}

func (w *world) set(n *simulated) {
	var all []Node
	ips := map[string]netip.Addr{}
	for _, x := range w.nodes {
		all = append(all, Node{Name: x.name})
		if x != n {
			ips[x.name] = x.ip
		}
	}
	want := map[netip.Addr]Candidate{}
	for _, a := range w.addrs {
		may := slices.DeleteFunc(slices.Clone(all), func(x Node) bool { return w.allowed != nil && !w.allowed(a, x.Name) })
		ahead, is := Ahead(a, n.name, may)
		want[a] = Candidate{Ahead: ahead, May: is}
	}
	n.machine.Set(w.now, want, ips)
	n.next = w.now
}

// answers is what the node's program says to a question.
func (n *simulated) answers(now time.Time, d Datagram) Datagram {
	silent := now.Sub(n.beat)
	d.Kind, d.Silence, d.Flags = kindAnswer, silent, 0
	if n.beat.IsZero() {
		d.Silence = neverHeard
	}
	on, held := n.rows[d.Addr]
	if held {
		d.Flags |= flagHeld
	}
	if on && silent < 15*time.Second {
		d.Flags |= flagOn
	}
	return d
}

// tick is how exactly steps are at their time.
const tick = Every / 20

// run moves the clock. A datagram takes no time, or is lost with a chance.
func (w *world) run(d time.Duration, loss float64) {
	lost := func() bool { return loss > 0 && w.random.Float64() < loss }
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(tick) {
		for _, n := range w.nodes {
			if n.off || n.machine == nil || w.now.Before(n.next) {
				continue
			}
			do := n.machine.Step(w.now)
			n.steps++
			if n.next = w.now.Add(n.machine.Wait()); n.machine.Wait() == 0 {
				n.next = w.now.Add(Every)
			}
			n.rows = n.machine.Held()
			n.beat = w.now
			for _, a := range do.Tell {
				n.tells[a]++
			}
			for _, m := range do.Send {
				for _, to := range w.nodes {
					if to.ip != m.To || to.off || to.side != n.side || lost() {
						continue
					}
					if m.Kind == kindQuestion {
						if !lost() {
							n.machine.Hear(w.now, to.ip, to.answers(w.now, m.Datagram))
						}
					} else if to.machine != nil {
						to.yields++
						to.machine.Hear(w.now, n.ip, m.Datagram)
					}
				}
			}
		}
	}
}

// announcing is who answers on the link of a side for an address.
func (w *world) announcing(side int, a netip.Addr) []string {
	var out []string
	for _, n := range w.nodes {
		if !n.off && n.side == side && n.rows[a] && w.now.Sub(n.beat) < 15*time.Second {
			out = append(out, n.name)
		}
	}
	return out
}

// best is who should: the first of those that are well.
func (w *world) best(side int, a netip.Addr) []string {
	var well []Node
	for _, n := range w.nodes {
		if !n.off && n.side == side && n.machine != nil && (w.allowed == nil || w.allowed(a, n.name)) {
			well = append(well, Node{Name: n.name})
		}
	}
	for _, n := range well {
		if ahead, _ := Ahead(a, n.Name, well); len(ahead) == 0 {
			return []string{n.Name}
		}
	}
	return nil
}

// check says of every side and address whether exactly the right one announces it.
func (w *world) check(when string) {
	w.t.Helper()
	for side := range 3 {
		for _, a := range w.addrs {
			if got, want := w.announcing(side, a), w.best(side, a); !slices.Equal(got, want) {
				w.t.Fatalf("%s: side %d, %s: announced by %v, want %v", when, side, a, got, want)
			}
		}
	}
}
