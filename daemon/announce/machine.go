// Package announce decides which addresses of load balancers a node announces on its link
// ([Machine]), and which other nodes are lost ([Watch]), going by what the other nodes answer
// to its probes; and knows the frames of that trade.
//
// Nothing in it reads a clock, sends or listens: package daemon does (announce*.go, lost.go).
// How nodes agree without talking about it is in docs/loadbalancer.md, and how they find out
// who is lost in docs/services.md.
package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// settle is how long a node has been well before it announces what it did not before.
	settle = 3 * time.Second
	// yieldAfter is how long a node that stands before this one has been well and has
	// announced an address before this one stops.
	yieldAfter = time.Second
	// unwillingAfter is how long a node lives without being ready to announce an address
	// before it is passed over.
	unwillingAfter = 3 * time.Second
	// lingerFor is how long a node goes on that is not wanted any more, so that the next
	// has announced the address.
	lingerFor = time.Second
	// prompt is how many nodes before this one are probed often, however many there are.
	prompt = 3
)

// tells is when the link is told of an address that this node has begun to announce, and
// retells when another node says that it has stopped to.
var (
	tells   = []time.Duration{0, 150 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 6 * time.Second}
	retells = []time.Duration{0, 300 * time.Millisecond, time.Second}
)

// Machine is one node's knowledge of who announces what. It is not safe for concurrent use.
type Machine struct {
	self  string
	nonce func() uint64
	start time.Time
	addrs map[netip.Addr]*address
	order []netip.Addr // of addrs
	peers map[string]*peer
	asked map[string]bool // those of peers that are asked now
	byIP  map[netip.Addr]string
	next  time.Time     // of Step
	wait  time.Duration // until then; 0: there is nothing to wait for

	takeovers uint64
}

// address is an address that this node announces or may.
type address struct {
	ahead  []string // the nodes that stand before this one, best first
	on     bool
	began  time.Time // of on
	until  time.Time // not zero: it is not ours any more, and ends then
	views  map[string]view
	due    []time.Time // when the link is to be told
	retold time.Time
}

// view is what a node said of an address.
type view struct {
	life    int // of the peer
	on      bool
	held    bool
	without time.Time // not held since
}

// New returns the machine of a node whose daemon starts now; adopted are the addresses that
// its predecessor announced and the kernel still does. They stay until Set was called, and
// after it if they still may. nonce returns numbers that nobody can guess.
func New(self string, now time.Time, adopted []netip.Addr, nonce func() uint64) *Machine {
	m := &Machine{
		self: self, nonce: nonce, start: now, addrs: map[netip.Addr]*address{},
		peers: map[string]*peer{}, byIP: map[netip.Addr]string{},
	}
	for _, a := range adopted {
		m.addrs[a] = &address{on: true, began: now, views: map[string]view{}}
	}
	m.sort()
	return m
}

func (m *Machine) sort() {
	m.order = slices.SortedFunc(maps.Keys(m.addrs), netip.Addr.Compare)
}

// Candidate is an address of this cluster as this node stands to it.
type Candidate struct {
	Ahead []string // the nodes before this one, best first; see Ahead
	May   bool     // this node may announce it; if not, Ahead means nothing
}

// Set says which addresses there are, and at which address each other node is probed. An
// address that is not there any more ends at once; one that is not this node's to announce
// any more, a moment later.
func (m *Machine) Set(now time.Time, addrs map[netip.Addr]Candidate, nodes map[string]netip.Addr) {
	for a, c := range addrs {
		x := m.addrs[a]
		switch {
		case x == nil && c.May:
			x = &address{views: map[string]view{}}
			m.addrs[a] = x
		case x == nil:
			continue
		}
		if !c.May {
			if x.until.IsZero() {
				x.until = now.Add(lingerFor)
			}
			x.ahead = nil
			continue
		}
		x.until, x.ahead = time.Time{}, c.Ahead
		maps.DeleteFunc(x.views, func(name string, _ view) bool { return !slices.Contains(c.Ahead, name) })
	}
	maps.DeleteFunc(m.addrs, func(a netip.Addr, x *address) bool {
		c, there := addrs[a]
		return !there || !c.May && !x.on
	})
	m.sort()
	for name, p := range m.peers {
		if at, ok := nodes[name]; !ok || at != p.addr {
			delete(m.peers, name)
			for _, x := range m.addrs {
				delete(x.views, name)
			}
		}
	}
	m.byIP = make(map[netip.Addr]string, len(nodes))
	for name, at := range nodes {
		m.byIP[at] = name
	}
	for _, x := range m.addrs {
		for _, name := range x.ahead {
			if m.peers[name] == nil && nodes[name].IsValid() {
				m.peers[name] = &peer{addr: nodes[name]}
			}
		}
	}
}

// Hear takes up a datagram that came from an address at a time.
func (m *Machine) Hear(now time.Time, from netip.Addr, d Datagram) {
	name, known := m.byIP[from]
	x := m.addrs[d.Addr]
	switch {
	case !known:
	case d.Kind == kindYield && x != nil && x.on && now.Sub(x.retold) >= retells[len(retells)-1]:
		x.retold = now
		x.tellAt(now, retells)
	case d.Kind == kindAnswer && m.peers[name] != nil:
		p := m.peers[name]
		r, ok := p.answered(d)
		if !ok || d.Silence > silenceLimit { // in the latter case its daemon is dead
			return
		}
		if p.hear(now, r); x == nil || !slices.Contains(x.ahead, name) {
			return
		}
		v := view{life: p.life, on: d.Flags&flagOn != 0, held: d.Flags&flagHeld != 0}
		if was := x.views[name]; !v.held {
			v.without = now
			if was.life == p.life && !was.without.IsZero() {
				v.without = was.without
			}
		}
		x.views[name] = v
	}
}

func (x *address) tellAt(now time.Time, after []time.Duration) {
	x.due = x.due[:0]
	for _, d := range after {
		x.due = append(x.due, now.Add(d))
	}
}

// Message is a datagram for a node.
type Message struct {
	To netip.Addr
	Datagram
}

// Do is what is to be done now, in the order of the fields.
type Do struct {
	Began []netip.Addr // this node announces these from now on
	Ended []Ended      // and these no more
	Tell  []netip.Addr // tell the link of these
	Send  []Message
}

// Ended is an address that this node stops to announce, and for whom; "": nobody.
type Ended struct {
	Addr netip.Addr
	For  string
}

// Step decides what follows from what is known at a time. It is to be called after
// [Machine.Wait], after Hear was called for all that has come.
func (m *Machine) Step(now time.Time) Do {
	var do Do
	m.next = now.Add(idle)
	for name := range m.asked {
		if p := m.peers[name]; p != nil {
			p.expire(now)
		}
	}
	for _, a := range m.order {
		m.decide(now, a, m.addrs[a], &do)
	}
	m.order = slices.DeleteFunc(m.order, func(a netip.Addr) bool { return m.addrs[a] == nil })
	for _, a := range m.order {
		x := m.addrs[a]
		if n := len(x.due); n > 0 && x.on {
			x.due = slices.DeleteFunc(x.due, func(at time.Time) bool { return !at.After(now) })
			if len(x.due) < n {
				do.Tell = append(do.Tell, a)
			}
		}
	}
	m.probe(now, &do)
	m.wait = m.untilNext(now)
	return do
}

// decide begins or ends one address.
func (m *Machine) decide(now time.Time, a netip.Addr, x *address, do *Do) {
	end := func(to string) {
		x.on, x.due = false, nil
		do.Ended = append(do.Ended, Ended{a, to})
	}
	if !x.until.IsZero() {
		if x.on && !now.Before(x.until) {
			end("")
		}
		if !x.on {
			delete(m.addrs, a)
		}
		return
	}
	blocked, another := false, ""
	for _, name := range x.ahead {
		p := m.peers[name]
		if p == nil || p.state == dead {
			continue
		}
		v, said := x.views[name]
		said = said && v.life == p.life && p.state == alive
		if said && !v.held {
			if now.Sub(v.without) >= unwillingAfter {
				continue
			}
			m.until(now, v.without.Add(unwillingAfter))
		}
		blocked = true
		if said && v.on {
			m.until(now, p.well.Add(yieldAfter))
			if now.Sub(p.well) >= yieldAfter {
				another = name
			}
		}
		if another != "" || !x.on {
			break
		}
	}
	switch {
	case x.on && another != "":
		end(another)
		do.Send = append(do.Send, Message{m.peers[another].addr, Datagram{Kind: kindYield, Addr: a}})
	case !x.on && !blocked && now.Sub(m.start) >= settle:
		x.on, x.began = true, now
		x.tellAt(now, tells)
		do.Began = append(do.Began, a)
		if len(x.ahead) > 0 {
			m.takeovers++
		}
	}
}

// probe asks the nodes that must be asked now. If few stand before this one for an address,
// all of them, often. If many do, seldom those next before it until one is alive, so that
// somebody notices whoever dies. While it announces, the first few often, and all others.
func (m *Machine) probe(now time.Time, do *Do) {
	often, rarely := map[string][]netip.Addr{}, map[string][]netip.Addr{}
	for _, a := range m.order {
		x := m.addrs[a]
		first := 0
		if len(x.ahead) <= prompt || x.on {
			first = min(prompt, len(x.ahead))
		}
		for _, name := range x.ahead[:first] {
			often[name] = append(often[name], a)
		}
		for _, name := range slices.Backward(x.ahead[first:]) {
			rarely[name] = append(rarely[name], a)
			if p := m.peers[name]; p != nil && p.state != dead && !x.on {
				break
			}
		}
	}
	wait := max(seldom, time.Duration(len(rarely))*time.Second/seldomBudget)
	asked := make(map[string]bool, len(often)+len(rarely))
	for _, of := range []map[string][]netip.Addr{often, rarely} {
		for name := range of {
			asked[name] = m.peers[name] != nil
		}
	}
	for name := range m.asked { // what was known of others is void until they are asked again
		if p := m.peers[name]; p != nil && !asked[name] {
			*p = peer{addr: p.addr, life: p.life}
		}
	}
	m.asked = asked
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		p := m.peers[name]
		if p == nil {
			continue
		}
		about, every := append(often[name], rarely[name]...), Every
		if len(often[name]) == 0 && (p.missed == 0 || p.state == dead) {
			every = wait
		}
		if p.next.After(now.Add(every + Every)) { // it was asked less often
			p.next = now
		}
		if now.Before(p.next) {
			continue
		}
		p.next = m.nextAsk(now, p, every)
		for _, d := range p.ask(now, m.about(name, p, about), m.nonce) {
			do.Send = append(do.Send, Message{p.addr, d})
		}
	}
}

// about chooses what a node is asked about: what it matters for now, else one after the
// other.
func (m *Machine) about(name string, p *peer, all []netip.Addr) []netip.Addr {
	var urgent []netip.Addr
	for i := range all {
		a := all[(p.turn+i)%len(all)]
		x := m.addrs[a]
		if v := x.views[name]; x.on || v.life != p.life || !v.held {
			if urgent = append(urgent, a); len(urgent) == urgentMost {
				break
			}
		}
	}
	p.turn++
	if len(urgent) > 0 {
		p.turn += len(urgent) - 1
		return urgent
	}
	return all[p.turn%len(all) : p.turn%len(all)+1]
}
