package announce

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// What docs/services.md says of the time.
func TestAllKnowSoonThatANodeIsLostAndBack(t *testing.T) {
	for _, nodes := range []int{2, 3, 5, 40, 300} {
		r := newRing(t, nodes, uint64(nodes))
		r.never("at the start", 10*time.Second)
		var worst, back time.Duration
		for range 10 {
			name := r.names[r.random.IntN(nodes)]
			r.nodes[name].off = true
			worst = max(worst, r.within(name+" off", 4*time.Second, name))
			r.run(time.Duration(r.random.IntN(60_000)) * time.Millisecond)
			r.nodes[name].off = false
			back = max(back, r.within(name+" on again", 4*time.Second))
			r.run(time.Duration(r.random.IntN(5_000)) * time.Millisecond)
		}
		t.Logf("%d nodes: lost within %v, back within %v", nodes, worst, back)
	}
}

func TestAThirdOfTheNodesIsLostAtOnce(t *testing.T) {
	r := newRing(t, 300, 1)
	r.run(time.Minute) // all have answered all
	lost := r.names[:100]
	for _, name := range lost {
		r.nodes[name].off = true
	}
	t.Logf("known after %v", r.within("a third off", 20*time.Second, slices.Clone(lost)...))
	r.run(time.Minute)
	for _, name := range lost {
		r.nodes[name].off = false
	}
	t.Logf("all back after %v", r.within("a third on again", 20*time.Second))
}

// Each side of a split finds the other one lost.
func TestASplitIsSeenFromBothSides(t *testing.T) {
	r := newRing(t, 20, 1)
	r.run(5 * time.Second)
	left := map[string]bool{}
	for _, name := range r.names[:7] {
		left[name] = true
	}
	r.cut = func(from, to string) bool { return left[from] != left[to] }
	r.run(20 * time.Second)
	for _, name := range r.names {
		lost := r.nodes[name].watch.Lost()
		for _, other := range r.names {
			if lost[other] != (left[name] != left[other]) {
				t.Errorf("to %s, %s is lost: %v", name, other, lost[other])
			}
		}
	}
	r.cut = nil
	r.within("healed", 20*time.Second)
}

// A few that are cut off from many hear nobody's word, or only each other's: they find out by
// themselves, and must not need a second for every three nodes. Nor may they flood their link.
func TestWhoIsCutOffKnowsItSoon(t *testing.T) {
	for _, nodes := range []int{10, 300} {
		for _, few := range []int{1, 5} {
			r := newRing(t, nodes, 3)
			r.run(time.Minute) // all have answered all
			off := map[string]bool{}
			for _, name := range r.names[:few] {
				off[name] = true
				r.nodes[name].sent = 0
			}
			r.cut = func(from, to string) bool { return off[from] != off[to] }
			start := r.now
			for name := range off {
				for w := r.nodes[name].watch; len(w.Lost()) < nodes-few; r.run(100 * time.Millisecond) {
					if r.now.Sub(start) > 10*time.Second {
						t.Fatalf("%d of %d nodes are cut off: after 10 s only %d are lost to %s", few, nodes, len(w.Lost()), name)
					}
				}
			}
			took := r.now.Sub(start)
			sent := r.nodes[r.names[0]].sent
			t.Logf("%d of %d nodes are cut off: they know after %v, with %d datagrams each", few, nodes, took, sent)
			if most := 60 * nodes; sent > most {
				t.Errorf("%d of %d nodes are cut off: one sent %d datagrams, want at most %d", few, nodes, sent, most)
			}
			r.cut = nil
			r.within("healed", time.Duration(nodes)*time.Second/seldomBudget+5*time.Second)
		}
	}
}

// When the first other one answers again, all are as if they had missed a question: connections
// from outside that come back to this node go on to the same backends.
func TestWhoWasCutOffForgetsWhatItKnewOfOthers(t *testing.T) {
	for _, nodes := range []int{3, 20} {
		r := newRing(t, nodes, 2)
		r.run(10 * time.Second)
		name, gone := r.names[0], r.names[1]
		w := r.nodes[name].watch
		r.cut = func(from, to string) bool { return from == name || to == name }
		r.run(15 * time.Second)
		if !w.CutOff() || len(w.Lost()) != nodes-1 {
			t.Fatalf("%d nodes: cut off: %v, lost are %v", nodes, w.CutOff(), w.Lost())
		}
		if nodes > 3 { // one really dies meanwhile
			r.nodes[gone].off = true
			r.run(10 * time.Second)
		}
		r.cut = nil
		for former := w.Lost(); w.CutOff(); r.run(50 * time.Millisecond) {
			if now := w.Lost(); len(now) > 0 && len(now) < len(former) {
				t.Fatalf("%d nodes: some are still lost: %v", nodes, now)
			}
		}
		if len(w.Lost()) > 0 {
			t.Fatalf("%d nodes: when the first answers, others are lost: %v", nodes, w.Lost())
		}
		if nodes > 3 {
			r.within("and one that is really off", 4*time.Second, gone)
		} else {
			r.never("back", 10*time.Second)
		}
	}
}

// Neither lost datagrams nor a daemon without a CPU are a lost node.
func TestNobodyIsLostWithoutCause(t *testing.T) {
	r := newRing(t, 50, 7)
	r.cut = func(string, string) bool { return r.random.IntN(100) < 2 }
	r.never("2 % of all datagrams lost", 5*time.Minute)
	r.cut = nil
	for i := range 10 {
		r.nodes[r.names[i]].stalled = true
	}
	r.run(30 * time.Second)
	for i := range 10 {
		r.nodes[r.names[i]].stalled = false
	}
	r.never("after daemons had no CPU", 10*time.Second)
	// One way from one node to another is shut: it is lost to that one alone.
	a := r.names[0]
	b := r.nodes[a].watch.ring[0].name
	r.cut = func(from, to string) bool { return from == a && to == b }
	r.run(10 * time.Second)
	for _, name := range r.names {
		if got := r.nodes[name].watch.Lost(); len(got) > 0 != (name == a) || name == a && !got[b] {
			t.Errorf("to %s are lost %v", name, got)
		}
	}
}

// A node whose probes are kept from all, or that has no datapath, is not lost.
func TestWhoNeverAnsweredIsNotLost(t *testing.T) {
	r := newRing(t, 30, 3)
	for i := range 5 {
		r.nodes[r.names[i]].mute = true
	}
	r.never("five are mute", time.Minute)
	name := r.names[10]
	r.nodes[name].off = true
	r.within("another is off", 4*time.Second, name)
}

// When all nodes have just started none has answered all others yet: it is still watched.
func TestEachIsWatchedSoonAfterTheStart(t *testing.T) {
	for i := range 30 {
		r := newRing(t, 100, uint64(i))
		r.run(2 * time.Second)
		r.nodes[r.names[i]].off = true
		r.within(r.names[i]+" off", 4*time.Second, r.names[i])
	}
}

// A node that joins is known before its datapath is there, which need not be long before it dies.
func TestWhoHasJustComeIsLostToo(t *testing.T) {
	for _, nodes := range []int{2, 4, 50} {
		r := newRing(t, nodes, 3)
		name := r.names[1]
		r.nodes[name].mute, r.nodes[name].stalled = true, true // it has no daemon yet
		r.run(20*time.Second + time.Duration(r.random.IntN(5000))*time.Millisecond)
		r.boot(name)
		r.run(3 * time.Second)
		r.nodes[name].off = true
		r.within(name+" off", 4*time.Second, name)
	}
}

// If it has answered others, their word counts, for a while and until they take it back.
func TestTheWordOfOthersCountsForAWhile(t *testing.T) {
	const nodes = 30
	r := newRing(t, nodes, 3)
	name, far := r.names[0], r.names[1]
	for _, other := range r.names { // far is a node that does not watch name
		if other != name && !slices.Contains(r.after(other)[:6], name) {
			far = other
		}
	}
	lost := func(when string, want bool) {
		t.Helper()
		if got := r.nodes[far].watch.Lost()[name]; got != want {
			t.Fatalf("%s: %s is lost to %s: %v, want %v", when, name, far, got, want)
		}
	}
	r.cut = func(from, to string) bool { return from == far && to == name }
	r.run(10 * time.Second)
	lost("at the start", false)
	r.nodes[name].off = true
	r.run(5 * time.Second)
	lost("off", true)
	r.nodes[name].off = false
	r.run(5 * time.Second)
	lost("on again", false)
	r.nodes[name].off = true
	r.run(5 * time.Second)
	lost("off again", true)
	r.run(wordFor)
	lost("long off", false)
}

func TestStrangersAndLiarsLoseNobody(t *testing.T) {
	r := newRing(t, 10, 5)
	r.run(5 * time.Second)
	n := r.nodes[r.names[0]]
	look := Datagram{Kind: kindLook, Addr: r.ips[r.names[1]]}
	for range 100 {
		n.watch.Hear(r.now, netip.MustParseAddr("192.0.2.1"), look)
		n.watch.Hear(r.now, r.ips[r.names[2]], look)
		n.watch.Hear(r.now, r.ips[r.names[2]], Datagram{Kind: kindLook, Addr: netip.MustParseAddr("192.0.2.1")})
		n.watch.Hear(r.now, r.ips[r.names[3]], Datagram{Kind: kindAnswer, Nonce: r.random.Uint64(), Addr: r.ips[r.names[3]]})
		r.never("after lies", time.Second)
	}
}

// A node that leaves the cluster, or has another address, is not lost any more.
func TestWhoLeavesIsNotLost(t *testing.T) {
	r := newRing(t, 3, 5)
	r.run(5 * time.Second)
	r.nodes["node-1"].off, r.nodes["node-2"].off = true, true
	r.within("two are off", 4*time.Second, "node-1", "node-2")
	w := r.nodes["node-0"].watch
	w.Set(map[string]netip.Addr{"node-2": netip.MustParseAddr("10.0.9.9")})
	r.run(time.Second)
	if got := w.Lost(); len(got) > 0 {
		t.Errorf("lost are %v", got)
	}
	w.Set(nil)
	if w.Step(r.now); w.Wait() != 0 {
		t.Errorf("alone, it waits %v for a step", w.Wait())
	}
}

// What the docs say of the traffic.
func TestWatchingCostsLittleHoweverLargeTheClusterIs(t *testing.T) {
	for _, c := range []struct {
		nodes       int
		mute, third bool // nobody answers; a third is off
		most        float64
	}{
		{2, false, false, 1}, {3, false, false, 2}, {10, false, false, 3}, {200, false, false, 3},
		{200, true, false, 1}, {300, false, true, 23},
	} {
		r := newRing(t, c.nodes, 1)
		for _, name := range r.names {
			r.nodes[name].mute = c.mute
		}
		r.run(time.Minute)
		for i, name := range r.names {
			r.nodes[name].off = c.third && i%3 == 0
		}
		r.run(30 * time.Second)
		sent := 0
		for _, n := range r.nodes {
			n.sent = 0
		}
		const measured = 30
		r.run(measured * time.Second)
		for _, n := range r.nodes {
			sent += n.sent
		}
		got := float64(sent) / measured / float64(c.nodes)
		t.Logf("%d nodes, mute %v, a third off %v: %.1f datagrams a second and node", c.nodes, c.mute, c.third, got)
		if got > c.most*1.05 {
			t.Errorf("want at most %.0f", c.most)
		}
	}
}

// A machine that is in the cluster by two names, as one that was set up anew, is not lost by
// either of them while it answers.
func TestTwoNamesOfOneAddressAreOneMachine(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	now := time.Unix(1e9, 0)
	var number uint64
	w := NewWatch("self", func() uint64 { number++; return number })
	run := func(off bool) {
		for range 100 {
			send, _ := w.Step(now)
			now = now.Add(50 * time.Millisecond)
			for _, m := range send {
				if d := m.Datagram; d.Kind == kindQuestion && !off {
					d.Kind = kindAnswer
					w.Hear(now, m.To, d)
				}
			}
			now = now.Add(w.Wait())
		}
	}
	w.Set(map[string]netip.Addr{"former": a})
	run(false)
	for range 20 { // maps have no order
		w.Set(map[string]netip.Addr{"former": a, "new": a, "other": netip.MustParseAddr("10.0.0.2")})
		run(false)
		if got := w.Lost(); len(got) > 0 {
			t.Fatalf("lost are %v", got)
		}
	}
	run(true)
	if got := w.Lost(); len(got) != 3 {
		t.Errorf("off, lost are %v", got)
	}
}
