package announce

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// oneIsCutOff has the first node's link cut for so long, and says what it took for lost
// meanwhile and until all have answered again. back is how much later than the link each other
// node is there again.
func oneIsCutOff(t *testing.T, r *ring, d time.Duration, back map[string]time.Duration) {
	t.Helper()
	cutOff := r.names[0]
	w := r.nodes[cutOff].watch
	for _, n := range w.nodes { // not all that it watches have their turn in one step
		n.next = r.now.Add(time.Duration(r.random.IntN(20)) * 50 * time.Millisecond)
	}
	r.run(2 * calm)
	again := r.now.Add(d)
	r.cut = func(from, to string) bool {
		return (from == cutOff || to == cutOff) && r.now.Before(again.Add(max(back[from], back[to])))
	}
	const soon = 4 * time.Second
	for end := again.Add(soon); r.now.Before(end); r.run(50 * time.Millisecond) {
		if lost := w.Lost(); len(lost) > 0 && !w.CutOff() {
			t.Fatalf("%d nodes, one cut off for %v, %v after its return: it takes %v for lost", len(r.names), d,
				r.now.Sub(again), slices.Sorted(maps.Keys(lost)))
		}
	}
	if w.CutOff() {
		t.Fatalf("%d nodes, one cut off for %v: it still takes all for lost %v after its return", len(r.names), d, soon)
	}
	r.cut = nil
	r.within("back", 4*time.Second)
}

// Who finds that another does not answer may be cut off itself, and not know yet that nobody
// does. However long that lasts: it must not take away the backends of some nodes, to which
// datagrams go through it, as it would be back before they are.
func TestWhoIsCutOffTakesNobodyForLostBeforeAll(t *testing.T) {
	for _, nodes := range []int{3, 4, 5, 12} {
		r := newRing(t, nodes, uint64(nodes))
		r.run(20 * time.Second)
		for d := 500 * time.Millisecond; d <= 4*time.Second; d += Every / 2 {
			for range 20 { // the questions' phases
				oneIsCutOff(t, r, d, nil)
				r.run(time.Duration(r.random.IntN(20)) * 50 * time.Millisecond)
			}
		}
	}
}

// Where the kernel has to find out again at which MAC the others are, it asks for each once a second.
func TestWhoIsBackWaitsForNeighboursThatAnswerLater(t *testing.T) {
	for _, nodes := range []int{3, 4, 5, 12} {
		r := newRing(t, nodes, uint64(nodes))
		r.run(20 * time.Second)
		for d := 1500 * time.Millisecond; d <= 4*time.Second; d += Every / 2 {
			for range 20 {
				back := map[string]time.Duration{}
				for _, name := range r.names[1:] {
					back[name] = time.Duration(r.random.IntN(20)) * 50 * time.Millisecond
				}
				oneIsCutOff(t, r, d, back)
				r.run(time.Duration(r.random.IntN(20)) * 50 * time.Millisecond)
			}
		}
	}
}

// after is the other nodes, as they come after one in its ring.
func (r *ring) after(name string) (names []string) {
	for _, n := range r.nodes[name].watch.ring {
		names = append(names, n.name)
	}
	return names
}

// knowing has all nodes know all others, which takes time: ten a second.
func (r *ring) knowing() *ring {
	for _, n := range r.nodes {
		for _, other := range n.watch.nodes {
			other.heard, other.state = true, alive
		}
		n.watch.fresh = 0
	}
	r.run(2*time.Second + time.Duration(r.random.IntN(1000))*time.Millisecond)
	return r
}

// Many that die at once, as those in one rack, leave some whose watched nodes are all dead, as
// are those that watch next.
func TestARackIsLostSoon(t *testing.T) {
	for _, c := range []struct {
		nodes, dead int
		inRing      bool // next to each other
		most        time.Duration
	}{
		{4, 1, false, 2300 * time.Millisecond}, {4, 2, false, 2300 * time.Millisecond},
		{100, 10, false, 3500 * time.Millisecond}, {100, 10, true, 5 * time.Second}, {100, 50, true, 12 * time.Second},
	} {
		var worst time.Duration
		for seed := range uint64(20) {
			r := newRing(t, c.nodes, seed).knowing()
			order := slices.Clone(r.names)
			r.random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			if c.inRing {
				order = append(r.after(order[0]), order[0])
			}
			lost := order[:c.dead]
			for _, name := range lost {
				r.nodes[name].off = true
			}
			worst = max(worst, r.within("off", c.most, slices.Clone(lost)...))
		}
		t.Logf("%d of %d nodes, next to each other %v: lost within %v", c.dead, c.nodes, c.inRing, worst)
	}
}

// Where datagrams are lost by chance, a witness that misses one must not have more asked, which
// miss some too: all would ask all, and each would take some for lost.
func TestLostDatagramsDoNotHaveAllAskAll(t *testing.T) {
	const nodes = 50
	for _, one := range []bool{true, false} {
		r := newRing(t, nodes, 11).knowing()
		bad := r.names[0]
		r.cut = func(from, to string) bool {
			return (!one || from == bad || to == bad) && r.random.IntN(100) < 20
		}
		r.nodes[bad].sent = 0
		some, steps := 0, 0
		start := r.now
		for ; r.now.Sub(start) < 3*time.Minute; r.run(50 * time.Millisecond) {
			if steps++; len(r.nodes[bad].watch.Lost()) > 0 {
				some++
			}
		}
		sent := float64(r.nodes[bad].sent) / r.now.Sub(start).Seconds()
		t.Logf("on one link only %v: it sends %.1f datagrams a second, some are lost to it for %d %%", one, sent, 100*some/steps)
		if sent > 45 || some > steps/5 {
			t.Errorf("on one link only %v: want at most 45 datagrams a second, and 20 %%", one)
		}
		r.cut = nil
		r.within("nothing is lost any more", 4*time.Second)
	}
}

// A lost node is asked once a second, and more seldom if many are. It is back sooner where
// anything else comes from it; but what comes may be forged, and is not believed.
func TestASignOfALostNodeHasItAskedAtOnce(t *testing.T) {
	r := newRing(t, 300, 1).knowing()
	for _, name := range r.names[:100] {
		r.nodes[name].off = true
	}
	r.within("a third off", 20*time.Second, slices.Clone(r.names[:100])...)
	self, name := r.nodes[r.names[200]], r.names[0]
	at := map[time.Time]bool{}
	for end := r.now.Add(2 * time.Second); r.now.Before(end); r.run(50 * time.Millisecond) {
		if self.watch.Hear(r.now, r.ips[name], Datagram{Kind: kindAnswer, Nonce: r.random.Uint64(), Addr: r.ips[name]}) {
			self.next = r.now
		}
		for _, asked := range self.watch.nodes[name].rounds {
			at[asked.at] = true
		}
	}
	if most := int(2*time.Second/Every) + 2; len(at) > most || len(at) < 5 {
		t.Errorf("within 2 s in which something comes from it, it is asked %d times, want at most %d", len(at), most)
	}
	if !self.watch.Lost()[name] {
		t.Fatal("a forged datagram made a lost node be back")
	}
	r.nodes[name].off = false
	start := r.now
	for self.watch.Lost()[name] {
		if self.watch.Hear(r.now, r.ips[name], Datagram{Kind: kindYield, Addr: r.ips[name]}) {
			self.next = r.now
		}
		if r.run(50 * time.Millisecond); r.now.Sub(start) > 2*Every {
			t.Fatalf("a lost node that sends is not back after %v", r.now.Sub(start))
		}
	}
}
