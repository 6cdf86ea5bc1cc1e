package announce

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// watched is how many nodes that answer a node watches, so that each is watched by as
	// many others, however large the cluster is.
	watched = 3
	// calm is how often a watched node is asked that answers. One that has missed a
	// question is asked every [Every].
	calm = time.Second
	// greetAtOnce is how many nodes are greeted in one step that were not yet: only who has
	// answered once can be lost.
	greetAtOnce = 5
	// greetEvery is how often one is greeted again that has not answered, and greetSeldom how
	// often any of them, if there are many.
	greetEvery  = 8 * time.Second
	greetSeldom = time.Second
	// helloFor is how long one is asked every second that has greeted this node.
	helloFor = 10 * time.Second
	// wordFor is how long another's word counts that a node is lost which has never
	// answered this one. The cluster knows by then.
	wordFor = 2 * time.Minute
)

// Watch is one node's knowledge of which others are lost: they answered once and do not any
// more. Each node watches the next ones in a ring and tells all others when one stops to
// answer, or answers again; these believe it when they have asked that node themselves. It is
// not safe for concurrent use.
//
// A node whose daemon is dead is not lost: its datapath answers, and its pods are served. Nor
// is one that has never answered anybody: what asks may be kept from it, not what pods send.
type Watch struct {
	self   string
	nonce  func() uint64
	nodes  map[string]*other
	byIP   map[netip.Addr][]string // a machine that was set up anew may have two names for a while
	ring   []*other                // the others, from the one after this node on
	fresh  int                     // how many have never answered
	due    []*other                // of these, who is to be greeted next; some may have been asked since
	dueAt  time.Time               // when one is of those that are not in due
	asked  map[string]struct{}     // those that are, or that may still answer
	lost   map[string]bool         // replaced when it changes
	stale  bool                    // some of lost are not there any more
	silent int                     // those that are dead and not lost
	blind  time.Time               // when this node seemed to be cut off last
	cutOff bool                    // all who have answered are lost, and more than one has
	wait   time.Duration           // until the next Step; 0: there is nobody to watch
}

// other is another node as it is watched.
type other struct {
	peer
	name  string
	heard bool      // it has answered once
	hello time.Time // when it greeted this one
	told  time.Time // when another said that it is lost; zero: nobody did, or it was wrong
	sign  time.Time // when anything came from it while it was dead
	lost  bool
	mine  bool // this node watched it when it was lost, so it tells when it is back
}

// NewWatch returns what a node knows at its daemon's start: nobody is lost. nonce returns
// numbers that nobody can guess.
func NewWatch(self string, nonce func() uint64) *Watch {
	return &Watch{
		self: self, nonce: nonce, nodes: map[string]*other{}, byIP: map[netip.Addr][]string{},
		asked: map[string]struct{}{}, lost: map[string]bool{},
	}
}

// Set says which other nodes there are, and at which address each is asked.
func (w *Watch) Set(nodes map[string]netip.Addr) {
	for name, n := range w.nodes {
		if at, ok := nodes[name]; !ok || at != n.addr {
			delete(w.nodes, name)
			delete(w.asked, name)
			w.stale = w.stale || n.lost
		}
	}
	w.byIP = make(map[netip.Addr][]string, len(nodes))
	w.ring, w.fresh = make([]*other, 0, len(nodes)), 0
	w.due, w.dueAt = nil, time.Time{}
	for name, at := range nodes {
		n := w.nodes[name]
		if n == nil {
			n = &other{peer: peer{addr: at}, name: name}
			w.nodes[name] = n
		}
		if !n.heard {
			w.fresh++
		}
		w.byIP[at] = append(w.byIP[at], name)
		w.ring = append(w.ring, n)
	}
	own := hash(w.self)
	place := make(map[string]uint64, len(nodes))
	for name := range nodes {
		place[name] = hash(name) - own // how far it is on the ring, which has 2^64 places
	}
	slices.SortFunc(w.ring, func(a, b *other) int {
		return cmp.Or(cmp.Compare(place[a.name], place[b.name]), cmp.Compare(a.name, b.name))
	})
	w.wait = 0
	if len(w.ring) > 0 {
		w.wait = Every / 2
	}
}

// Lost is the names of the nodes that are. It is another map after each change.
func (w *Watch) Lost() map[string]bool { return w.lost }

// CutOff says that all others are lost, which is rather this node. What it knows of them is
// void when the first one answers again.
func (w *Watch) CutOff() bool { return w.cutOff }

// Wait is how long it may take until the next Step; 0: for ever.
func (w *Watch) Wait() time.Duration { return w.wait }

// Hear takes up a datagram that came from an address at a time; soon says that the next Step
// need not wait.
func (w *Watch) Hear(now time.Time, from netip.Addr, d Datagram) (soon bool) {
	if len(w.byIP[from]) == 0 {
		return false
	}
	for _, name := range w.byIP[from] {
		if n := w.nodes[name]; n.lost || n.heard && n.state == dead { // whatever it sends, it may be back
			n.sign, soon = now, true
		}
	}
	switch d.Kind {
	case kindAnswer:
		for _, name := range w.byIP[from] {
			n := w.nodes[name]
			if r, ok := n.answered(d); ok {
				n.hear(now, r)
				r.batch.answered++
				if !n.heard {
					w.fresh--
				}
				n.heard, n.told = true, time.Time{}
			}
		}
	case kindLook:
		hello := d.Addr == hello.Addr
		if hello {
			d.Addr = from
		} else if d.Addr == from {
			return soon
		}
		for _, about := range w.byIP[d.Addr] {
			n := w.nodes[about]
			w.asked[about], soon = struct{}{}, true
			w.askAt(n, now)
			if hello {
				n.hello = now
				continue
			}
			if d.Flags&flagOn != 0 {
				n.told = time.Time{}
			} else if n.told = now; !n.lost {
				n.missed = max(n.missed, missable-1) // others have missed some
			}
		}
	}
	return soon
}

// hello asks a node to ask the sender: it has just come.
var hello = Datagram{Kind: kindLook, Flags: flagOn, Addr: netip.IPv6Unspecified()}

// Step says what is to be sent now. It is to be called after [Watch.Wait], after Hear was
// called for all that has come; changed says that Lost is another.
func (w *Watch) Step(now time.Time) (send []Message, changed bool) {
	near, greeted := w.near(), w.greeted(now)
	for _, of := range []map[string]bool{near, greeted} {
		for name := range of {
			w.asked[name] = struct{}{}
		}
	}
	switch {
	case len(near) > 0:
		w.wait = calm / 2
	case len(w.ring) > 0: // who has never answered is missed by nobody
		w.wait = calm
	default:
		w.wait = 0
	}
	changed, w.stale = w.stale, false
	names := slices.Sorted(maps.Keys(w.asked))
	w.expire(now, names)
	turned := w.turn(now, names)
	changed = changed || len(turned) > 0
	for _, name := range turned {
		n := w.nodes[name]
		if n.mine = n.mine && !n.lost || near[name]; n.mine {
			send = append(send, w.tell(name, n)...)
		}
	}
	b, unproven := &batch{}, 0
	for _, name := range names {
		n := w.nodes[name]
		every := w.every(now, n, near[name], greeted[name])
		switch {
		case every == 0 && len(n.rounds) == 0:
			delete(w.asked, name)
			continue
		case every == Every, every == calm && !n.heard, n.unproven():
			w.wait = Every / 2
		}
		if n.next.After(now.Add(every)) { // it was asked less often
			w.askAt(n, now)
		}
		if every == 0 || now.Before(n.next) {
			continue
		}
		if n.next.IsZero() && !n.heard {
			send = append(send, Message{n.addr, hello})
		}
		w.askAt(n, now.Add(every))
		send = w.ask(send, now, n, b)
		if n.unproven() {
			unproven++
		}
	}
	send = w.witness(send, now, unproven, b)
	if changed {
		w.count(now)
	}
	return send, changed
}

// ask sends a node a question, as one of those that are asked now.
func (w *Watch) ask(send []Message, now time.Time, n *other, b *batch) []Message {
	for _, d := range n.peer.ask(now, []netip.Addr{n.addr}, w.nonce) {
		send = append(send, Message{n.addr, d})
	}
	n.rounds[len(n.rounds)-1].batch = b
	b.asked++
	return send
}

// count makes lost anew.
func (w *Watch) count(now time.Time) {
	lost, heard, gone := map[string]bool{}, 0, 0
	for name, n := range w.nodes {
		if n.heard {
			heard++
		}
		if n.lost {
			lost[name] = true
			if n.heard {
				gone++
			}
		}
	}
	if w.cutOff && gone < heard { // it is back: the others are taken for having missed one question
		w.blind = now
		for name := range lost {
			n := w.nodes[name]
			n.lost, n.mine, n.state, n.missed, n.seen, n.rounds, n.told = false, false, alive, 1, 0, nil, time.Time{}
			w.askAt(n, now)
			w.wait = Every / 2
			w.asked[name] = struct{}{}
		}
		lost = map[string]bool{}
	}
	w.lost, w.cutOff = lost, heard > 1 && gone == heard
}

// near is the nodes that this one watches: the next ones that miss nothing, and those before them
// that do.
func (w *Watch) near() map[string]bool {
	near, well := make(map[string]bool, watched), 0
	if w.fresh == len(w.ring) {
		return near
	}
	for _, n := range w.ring {
		if !n.heard || n.lost {
			continue
		}
		near[n.name] = true
		if n.missed == 0 {
			well++
		}
		if well == watched {
			break
		}
	}
	return near
}

// greeted is the nodes to be asked whether they are there: those that wait longest, and of these
// first whom this node is to watch, so that at a start, too, each node is watched soon.
func (w *Watch) greeted(now time.Time) map[string]bool {
	out := make(map[string]bool, greetAtOnce)
	for w.fresh > 0 && len(out) < greetAtOnce {
		if len(w.due) == 0 && !now.Before(w.dueAt) {
			w.findDue(now)
		}
		if len(w.due) == 0 {
			break
		}
		n := w.due[0]
		w.due = w.due[1:]
		if !n.heard && !now.Before(n.next) {
			out[n.name] = true
		}
	}
	return out
}

// findDue looks through the ring, which may be long: it is not done at each step.
func (w *Watch) findDue(now time.Time) {
	w.due, w.dueAt = nil, now.Add(greetEvery)
	for _, n := range w.ring {
		switch {
		case n.heard:
		case !now.Before(n.next):
			w.due = append(w.due, n)
		case n.next.Before(w.dueAt):
			w.dueAt = n.next
		}
	}
	slices.SortStableFunc(w.due, func(a, b *other) int { return a.next.Compare(b.next) })
}

// askAt says when a node is to be asked next.
func (w *Watch) askAt(n *other, at time.Time) {
	if n.next = at; !n.heard && at.Before(w.dueAt) {
		w.dueAt = at
	}
}

// every is how often a node is asked; 0: it is not.
func (w *Watch) every(now time.Time, n *other, near, greeted bool) time.Duration {
	switch {
	case n.state == dead && now.Sub(n.sign) < calm: // zero is long ago
		return Every
	case n.lost:
		return max(calm, time.Duration(len(w.lost))*time.Second/seldomBudget)
	case n.state == dead && n.heard:
		return max(Every, time.Duration(w.silent)*time.Second/silentBudget)
	case n.state != dead && n.missed > 0 && (n.heard || !n.told.IsZero()):
		return Every
	case near, !n.heard && now.Sub(n.hello) < helloFor:
		return calm
	case greeted:
		return max(greetEvery, time.Duration(w.fresh)*greetSeldom)
	}
	return 0
}

// tell tells all others that a node is lost, or is not any more.
func (w *Watch) tell(about string, n *other) []Message {
	d := Datagram{Kind: kindLook, Addr: n.addr}
	if !n.lost {
		d.Flags = flagOn
	}
	var out []Message
	for _, o := range w.ring {
		if o.name != about && !(o.heard && o.state == dead) {
			out = append(out, Message{o.addr, d})
		}
	}
	return out
}
