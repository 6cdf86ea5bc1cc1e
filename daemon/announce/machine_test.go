package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestEachAddressIsAnnouncedByOneNode(t *testing.T) {
	for _, nodes := range []int{1, 2, 3, 5, 12} {
		w := newWorld(t, nodes, 20, 1)
		w.run(5*time.Second, 0)
		w.check(fmt.Sprintf("%d nodes", nodes))
	}
}

// With any nodes alive, on any side, with daemons dead here and there and datagrams lost:
// when things have been as they are for a while, exactly one announces on each side.
func TestExactlyOneAnnouncesOnEachSideWhateverHappened(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, 2+int(seed%7), 12, seed)
		for turn := range 6 {
			for _, n := range w.nodes {
				switch w.random.IntN(5) {
				case 0:
					n.off, n.machine = true, nil
				case 1:
					if n.off {
						w.boot(n)
					}
				case 2:
					n.side = w.random.IntN(3)
				case 3:
					if !n.off && n.machine == nil {
						w.daemon(n)
					}
				case 4:
					n.machine = nil
				}
			}
			w.run(time.Duration(w.random.IntN(4000))*time.Millisecond, 0.1)
			w.run(40*time.Second, 0)
			w.check(fmt.Sprintf("seed %d, turn %d", seed, turn))
		}
	}
}

func TestDeathOfTheAnnouncerMovesItsAddressesWithinTwoSeconds(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(t, 4, 16, seed)
		w.run(5*time.Second, 0)
		before := map[netip.Addr][]string{}
		for _, a := range w.addrs {
			before[a] = w.announcing(0, a)
		}
		victim := w.nodes[seed%4]
		w.run(time.Duration(w.random.IntN(400))*time.Millisecond, 0)
		victim.off = true
		w.run(1400*time.Millisecond, 0)
		w.now = w.now.Add(-tick) // as of the last step
		victim.machine = nil
		w.check("after the death")
		for _, a := range w.addrs {
			if now := w.announcing(0, a); before[a][0] != victim.name && !slices.Equal(now, before[a]) {
				t.Errorf("%s moved from %v to %v, but %s died", a, before[a], now, victim.name)
			}
		}
	}
}

// All that are probed often die at once.
func TestDeathOfTheFirstNodesIsSeenByTheRest(t *testing.T) {
	w := newWorld(t, 12, 6, 3)
	w.run(5*time.Second, 0)
	var all []Node
	for _, n := range w.nodes {
		all = append(all, Node{Name: n.name})
	}
	last := w.nodes[0]
	for _, n := range w.nodes { // the one that is last for the first address
		if ahead, _ := Ahead(w.addrs[0], n.name, all); len(ahead) == len(all)-1 {
			last = n
		}
	}
	ahead, _ := Ahead(w.addrs[0], last.name, all)
	for _, n := range w.nodes {
		if slices.Contains(ahead[:8], n.name) {
			n.off, n.machine = true, nil
		}
	}
	w.run(30*time.Second, 0)
	w.check("8 of 12 dead")
}

func TestARestartOfTheDaemonMovesNothing(t *testing.T) {
	w := newWorld(t, 3, 12, 1)
	w.run(5*time.Second, 0)
	n := w.nodes[1]
	n.machine = nil
	for range 13 {
		w.run(time.Second, 0)
		for _, a := range w.addrs {
			if got := w.announcing(0, a); len(got) != 1 {
				t.Fatalf("%s is announced by %v", a, got)
			}
		}
	}
	told := n.tells
	n.tells = map[netip.Addr]int{}
	w.daemon(n)
	w.run(8*time.Second, 0)
	w.check("after the restart")
	for _, x := range w.nodes {
		if x.machine.Takeovers() != 0 {
			t.Errorf("%s has taken over %d addresses", x.name, x.machine.Takeovers())
		}
	}
	if len(told) == 0 || len(n.tells) != 0 {
		t.Errorf("told the link of %v before, of %v after the restart", told, n.tells)
	}
}

// What an idle daemon costs is how often it wakes up.
func TestNothingIsDoneWhileNothingIsDue(t *testing.T) {
	w := newWorld(t, 3, 8, 1)
	steps := func(n *simulated) int {
		was := n.steps
		w.run(10*time.Second, 0)
		return n.steps - was
	}
	w.run(20*time.Second, 0)
	each := int(10 * time.Second / Every)
	if got := steps(w.nodes[0]); got != each {
		t.Errorf("%d steps in 10 s while all is well, want %d, one each time others are asked", got, each)
	}
	w.nodes[1].off = true
	w.run(2*time.Second+youth, 0)
	if got := steps(w.nodes[0]); got != each {
		t.Errorf("%d steps in 10 s while a node is dead, want %d", got, each)
	}
}

// The dead daemon's node stops before others begin.
func TestANodeWithoutADaemonStopsBeforeOthersBegin(t *testing.T) {
	w := newWorld(t, 3, 12, 1)
	w.run(5*time.Second, 0)
	w.nodes[0].machine = nil
	for range 250 {
		w.run(Every/2, 0)
		for _, a := range w.addrs {
			if got := w.announcing(0, a); len(got) > 1 {
				t.Fatalf("%s is announced by %v", a, got)
			}
		}
	}
	w.check("after 25 s")
}

// A node that comes back takes over what is its own, and at no time is an address without
// an announcer.
func TestTheReturnOfANodeLeavesNoGap(t *testing.T) {
	w := newWorld(t, 3, 12, 5)
	w.run(5*time.Second, 0)
	n := w.nodes[2]
	n.off, n.machine = true, nil
	w.run(5*time.Second, 0)
	w.check("without it")
	w.boot(n)
	for range 90 {
		w.run(Every/2, 0)
		for _, a := range w.addrs {
			if len(w.announcing(0, a)) == 0 {
				t.Fatalf("%s is announced by nobody", a)
			}
		}
	}
	w.check("after its return")
	if len(n.tells) == 0 {
		t.Error("the link was not told")
	}
}

// A split ends with one announcer, which tells the link again: others have told it lies.
func TestASplitHealsWithinSeconds(t *testing.T) {
	w := newWorld(t, 5, 12, 7)
	w.run(5*time.Second, 0)
	for i, n := range w.nodes {
		n.side = i % 2
	}
	w.run(4*time.Second, 0)
	w.check("split")
	for _, n := range w.nodes {
		n.side, n.tells = 0, map[netip.Addr]int{}
	}
	w.run(2*time.Second, 0)
	w.check("healed")
	told, yields := 0, 0
	for _, n := range w.nodes {
		told, yields = told+len(n.tells), yields+n.yields
	}
	if told == 0 || yields == 0 {
		t.Errorf("link told of %d addresses after %d yields", told, yields)
	}
}

func TestANodeThatMayNoMoreLeavesItsAddresses(t *testing.T) {
	w := newWorld(t, 3, 12, 9)
	w.run(5*time.Second, 0)
	w.allowed = func(_ netip.Addr, name string) bool { return name != "node-1" }
	for _, n := range w.nodes {
		w.set(n)
	}
	w.run(200*time.Millisecond, 0)
	for _, a := range w.addrs {
		if len(w.announcing(0, a)) == 0 {
			t.Errorf("%s is announced by nobody", a)
		}
	}
	w.run(5*time.Second, 0)
	w.check("one excluded")
	w.allowed = func(netip.Addr, string) bool { return false }
	for _, n := range w.nodes {
		w.set(n)
	}
	w.run(2*time.Second, 0)
	w.check("all excluded")
}

// A first node that lives but has no link for an address is passed over.
func TestANodeThatCannotAnnounceIsPassedOver(t *testing.T) {
	w := newWorld(t, 3, 8, 2)
	for _, n := range w.nodes {
		n.off = n.name == "node-0" // it gets no addresses, but answers
	}
	n := w.nodes[0]
	n.machine = New(n.name, w.now, nil, w.random.Uint64)
	n.off = false
	w.run(10*time.Second, 0)
	for _, a := range w.addrs {
		if got := w.announcing(0, a); len(got) != 1 || got[0] == "node-0" {
			t.Errorf("%s is announced by %v", a, got)
		}
	}
}

func TestAnAddressThatIsGoneEndsAtOnce(t *testing.T) {
	w := newWorld(t, 1, 4, 2)
	w.run(5*time.Second, 0)
	gone := w.addrs[1]
	w.addrs = slices.Delete(w.addrs, 1, 2)
	w.set(w.nodes[0])
	if held := w.nodes[0].machine.Held(); len(held) != 3 {
		t.Errorf("held %v without %s", held, gone)
	}
}

// Strangers, old answers and answers about something else say nothing.
func TestOnlyAnswersToQuestionsCount(t *testing.T) {
	a, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.2")
	now := time.Unix(1e9, 0)
	nonce := uint64(41)
	fresh := func() *Machine {
		m := New("b", now, nil, func() uint64 { nonce++; return nonce })
		m.Set(now, map[netip.Addr]Candidate{a: {Ahead: []string{"a"}, May: true}}, map[string]netip.Addr{"a": other})
		return m
	}
	good := func(n uint64) Datagram {
		return Datagram{Kind: kindAnswer, Nonce: n, Addr: a, Flags: flagHeld | flagOn}
	}
	for _, c := range []struct {
		name  string
		from  netip.Addr
		edit  func(*Datagram)
		alive bool
	}{
		{"an answer", other, func(*Datagram) {}, true},
		{"a stranger's", netip.MustParseAddr("10.0.0.3"), func(*Datagram) {}, false},
		{"of another number", other, func(d *Datagram) { d.Nonce++ }, false},
		{"about another address", other, func(d *Datagram) { d.Addr = a.Next() }, false},
		{"a question", other, func(d *Datagram) { d.Kind = kindQuestion }, false},
		{"a dead daemon's", other, func(d *Datagram) { d.Silence = silenceLimit + 1 }, false},
		{"one that never lived", other, func(d *Datagram) { d.Silence = neverHeard }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := fresh()
			for at := now; at.Before(now.Add(5 * time.Second)); at = at.Add(Every / 2) {
				for _, q := range m.Step(at).Send {
					d := good(q.Nonce)
					c.edit(&d)
					m.Hear(at, c.from, d)
				}
			}
			if on := m.Held()[a]; on == c.alive {
				t.Errorf("announces: %v", on)
			}
		})
	}
}

// A daemon that got no time for seconds does not take the others for dead.
func TestAStarvedDaemonTakesNothingOver(t *testing.T) {
	w := newWorld(t, 3, 12, 4)
	w.run(5*time.Second, 0)
	for range 5 {
		w.now = w.now.Add(4 * time.Second) // for all
		w.run(200*time.Millisecond, 0)
	}
	for _, n := range w.nodes {
		if n.machine.Takeovers() != 0 {
			t.Errorf("%s has taken over %d", n.name, n.machine.Takeovers())
		}
	}
}

func TestWithoutAddressesNobodyIsAsked(t *testing.T) {
	w := newWorld(t, 5, 0, 1)
	for _, n := range w.nodes {
		if do := n.machine.Step(w.now); len(do.Send) > 0 {
			t.Errorf("%s sends %v", n.name, do.Send)
		}
	}
}
