// Package returns finds out whether what another node sends from an address that is not its
// own arrives: answers of direct server return are such packets, and networks that check
// sources drop them.
//
// It is a program of questions: this node asks another to send two packets to it, one from an
// address of a Service and one from the other node's own address, by the way that answers
// take. If only the second comes, time after time, the other node is mute: it cannot answer
// clients itself. Nothing in the package reads a clock, sends or receives; package daemon does
// (returns*.go there).
package returns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

const (
	// often bounds how often [Watch.Step] is to be called.
	often = 250 * time.Millisecond
	// wait is how long a packet may take.
	wait = 500 * time.Millisecond
	// believed is how often in turn it must have been otherwise for a target to count as
	// mute, or not any more.
	believed = 6
	// usual is how often a target is asked, if there are few; if there are many, so many of
	// them a second.
	usual  = 3 * time.Second
	budget = 20
	// hurry is that number for hurryFor after one has changed: likely it is the network
	// that has, and so have others.
	hurry    = 200
	hurryFor = time.Minute
)

// Target is another node's pods of one family, which may answer clients.
type Target struct {
	Pods   netip.Prefix // by which it is known
	Node   string
	Local  netip.Addr // this node's address, and that node's, between which the tunnel is
	Remote netip.Addr
	To     netip.Addr // this node's address of the family, where packets are to come
	Own    netip.Addr // that node's
	Served netip.Addr // where clients ask: the source of answers
}

// Question makes a target send a packet with this number.
type Question struct {
	Target
	From  netip.Addr // the packet's source
	Nonce uint64
}

// Change is a target that has become mute, or is not any more.
type Change struct {
	Target
	Mute bool
}

// Watch is what a node knows of the others. It is not safe for concurrent use.
type Watch struct {
	nonce   func() uint64
	targets []*target
	mute    map[netip.Prefix]bool
	hurried time.Time // until then
}

type target struct {
	Target
	next   time.Time // when it is asked
	asked  time.Time // zero: no question is open
	served uint64    // numbers of the open questions
	own    uint64
	mute   bool
	other  int // how often in turn it was not as mute says
}

// New returns a watch to which these targets are mute, as a former daemon found out. nonce
// returns numbers that nobody can guess.
func New(mute []netip.Prefix, nonce func() uint64) *Watch {
	w := &Watch{nonce: nonce, mute: map[netip.Prefix]bool{}}
	for _, p := range mute {
		w.mute[p] = true
	}
	return w
}

// Set says whom to watch. What is known of one that is not there stays, until it is.
func (w *Watch) Set(now time.Time, targets []Target) {
	known := map[netip.Prefix]*target{}
	for _, t := range w.targets {
		known[t.Pods] = t
	}
	w.targets = w.targets[:0:0]
	fresh := 0
	for _, one := range targets {
		t := known[one.Pods]
		switch {
		case t != nil && t.Target != one && t.Node == one.Node: // asked in its turn
			t = &target{Target: one, mute: t.mute, other: t.other, next: t.next}
		case t == nil || t.Target != one:
			t = &target{Target: one, mute: w.mute[one.Pods], next: now.Add(time.Duration(fresh) * time.Second / budget)}
			fresh++
		}
		w.targets = append(w.targets, t)
	}
}

// Step takes up what has come, and returns what to ask now: of each target first for what is
// Served. returned says whether the packet of a number has come; it is asked at most once for
// each: never for those of targets that have changed or gone meanwhile.
func (w *Watch) Step(now time.Time, returned func(nonce uint64) bool) (ask []Question, changed []Change) {
	pace := time.Duration(budget)
	if now.Before(w.hurried) {
		pace = hurry
	}
	pause := max(usual, time.Duration(len(w.targets))*time.Second/pace)
	for _, t := range w.targets {
		if !t.asked.IsZero() && now.Sub(t.asked) >= wait {
			t.asked = time.Time{}
			own := returned(t.own) // first: it was asked for last
			if t.judge(returned(t.served), own) {
				w.mute[t.Pods] = t.mute
				changed = append(changed, Change{t.Target, t.mute})
			}
			t.next = now.Add(pause)
			if t.other > 0 {
				t.next = now
			}
		}
		if !t.asked.IsZero() || now.Before(t.next) {
			continue
		}
		t.asked, t.served, t.own = now, w.nonce(), w.nonce()
		ask = append(ask, Question{t.Target, t.Served, t.served}, Question{t.Target, t.Own, t.own})
	}
	if len(changed) > 0 {
		if now.After(w.hurried) {
			for i, t := range w.targets {
				if soon := now.Add(time.Duration(i) * time.Second / hurry); t.next.After(soon) {
					t.next = soon
				}
			}
		}
		w.hurried = now.Add(hurryFor)
	}
	return ask, changed
}

// Wait is how long it may take until the next Step; 0: for ever.
func (w *Watch) Wait(now time.Time) time.Duration {
	if len(w.targets) == 0 {
		return 0
	}
	soon := now.Add(usual)
	for _, t := range w.targets {
		at := t.next
		if !t.asked.IsZero() {
			at = t.asked.Add(wait)
		}
		if at.Before(soon) {
			soon = at
		}
	}
	return max(soon.Sub(now), often)
}

// judge takes up an answer. It says whether the target has changed.
func (t *target) judge(served, own bool) bool {
	switch {
	case !served && !own: // says nothing of sources
		return false
	case t.mute != served: // as it was
		t.other = 0
		return false
	}
	if t.other++; t.other < believed {
		return false
	}
	t.mute, t.other = !t.mute, 0
	return true
}

// Mute returns the targets that are mute, by node.
func (w *Watch) Mute() []Target {
	var out []Target
	for _, t := range w.targets {
		if t.mute {
			out = append(out, t.Target)
		}
	}
	slices.SortFunc(out, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), a.Pods.Compare(b.Pods))
	})
	return out
}
