package returns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// network is other nodes, and what arrives of what they send.
type network struct {
	t      *testing.T
	now    time.Time
	watch  *Watch
	random *rand.Rand
	eats   map[string]bool // what these nodes send from others' addresses
	dead   map[string]bool // nodes that send nothing
	loss   float64         // of everything
	last   uint64
	came   map[uint64]bool
	asked  int
	steps  int
	told   []string // changes, in order
}

func newNetwork(t *testing.T, nodes int, mute ...netip.Prefix) *network {
	w := &network{t: t, now: time.Unix(1e9, 0), random: rand.New(rand.NewPCG(1, 2)),
		eats: map[string]bool{}, dead: map[string]bool{}, came: map[uint64]bool{}}
	w.watch = New(mute, func() uint64 { w.last++; return w.last })
	w.watch.Set(w.now, targets(nodes))
	return w
}

func name(i int) string { return fmt.Sprintf("node-%04d", i) }

func pods(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
}

func targets(nodes int) (out []Target) {
	for i := range nodes {
		out = append(out, Target{
			Pods: pods(i), Node: name(i), Own: netip.AddrFrom4([4]byte{172, 18, byte(i >> 8), byte(i)}),
			Served: netip.MustParseAddr("203.0.113.1"),
		})
	}
	return out
}

// run lets time pass.
func (w *network) run(d time.Duration) {
	next := w.now
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(often / 5) {
		if w.now.Before(next) {
			continue
		}
		w.steps++
		ask, changed := w.watch.Step(w.now, func(n uint64) bool {
			came := w.came[n]
			delete(w.came, n)
			return came
		})
		for _, q := range ask {
			w.asked++
			if w.random.Float64() >= w.loss && !w.dead[q.Node] && (q.From == q.Own || !w.eats[q.Node]) {
				w.came[q.Nonce] = true
			}
		}
		for _, c := range changed {
			w.told = append(w.told, fmt.Sprintf("%s mute=%v", c.Node, c.Mute))
		}
		next = w.now.Add(w.watch.Wait(w.now))
	}
}

// mute wants exactly these nodes to be mute.
func (w *network) mute(when string, want ...string) {
	w.t.Helper()
	var got []string
	for _, m := range w.watch.Mute() {
		got = append(got, m.Node)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s: mute are %v, want %v; told %v", when, got, want, w.told)
	}
}

func TestWhoseAnswersAreEatenIsMuteWithinSecondsUntilTheyArrive(t *testing.T) {
	w := newNetwork(t, 3)
	w.run(time.Minute)
	w.mute("all is well")
	w.eats[name(1)] = true
	w.run(7 * time.Second)
	w.mute("eaten", name(1))
	w.run(10 * time.Minute)
	w.mute("still eaten", name(1))
	delete(w.eats, name(1))
	w.run(7 * time.Second)
	w.mute("not eaten any more")
	if want := fmt.Sprint([]string{name(1) + " mute=true", name(1) + " mute=false"}); fmt.Sprint(w.told) != want {
		t.Errorf("told %v, want %v", w.told, want)
	}
}

// Who sends nothing at all is as it was.
func TestSilenceSaysNothingOfSources(t *testing.T) {
	w := newNetwork(t, 2, pods(1))
	w.dead[name(0)], w.dead[name(1)] = true, true
	w.eats[name(1)] = true
	w.run(time.Hour)
	w.mute("dead", name(1))
}

func TestLossAloneChangesNothing(t *testing.T) {
	w := newNetwork(t, 2)
	w.loss = 0.1
	w.run(6 * time.Hour)
	w.mute("a tenth is lost")
	if len(w.told) > 0 {
		t.Errorf("told %v", w.told)
	}
	w.eats[name(0)] = true
	w.run(time.Minute)
	w.mute("a tenth is lost, and one eaten", name(0))
}

// What is known of a node outlives its going and coming, another address of Services, and the
// daemon.
func TestWhatIsKnownStays(t *testing.T) {
	w := newNetwork(t, 2, pods(0))
	w.eats[name(0)] = true
	w.mute("from a former daemon", name(0))
	w.run(time.Minute)
	w.watch.Set(w.now, nil)
	w.mute("without any")
	moved := targets(2)
	moved[0].Served = netip.MustParseAddr("203.0.113.9")
	w.watch.Set(w.now, moved)
	w.mute("another address of Services", name(0))
	w.run(time.Minute)
	w.mute("a minute later", name(0))
	if len(w.told) > 0 {
		t.Errorf("told %v", w.told)
	}
}

// When the network begins to eat answers of all nodes, or stops to, that is known soon in
// large clusters, too.
func TestWhenTheNetworkChangesAllIsKnownSoon(t *testing.T) {
	const nodes = 2000
	for _, from := range []string{"the start", "later"} {
		w := newNetwork(t, nodes)
		if from == "later" {
			w.run(10 * time.Minute)
		}
		for _, eats := range []bool{true, false} {
			for i := range nodes {
				w.eats[name(i)] = eats
			}
			w.asked = 0
			w.run(25 * time.Second)
			want := 0
			if eats {
				want = nodes
			}
			t.Logf("%d packets a second", w.asked/25)
			if got := len(w.watch.Mute()); got != want || w.asked/25 > 3000 {
				t.Errorf("from %s, eats=%v: %d are mute after 25 s, want %d; %d packets a second", from, eats, got, want, w.asked/25)
			}
			w.run(3 * time.Minute)
			w.asked = 0
			w.run(time.Minute)
			if w.asked/60 > 45 {
				t.Errorf("from %s, eats=%v: %d packets a second afterwards", from, eats, w.asked/60)
			}
		}
	}
}

// However many nodes there are, few are asked at a time; without any, nobody.
func TestQuestionsAreFew(t *testing.T) {
	for nodes, most := range map[int]float64{0: 0, 1: 0.8, 30: 20, 1000: 45, 10000: 45} {
		w := newNetwork(t, nodes)
		w.run(time.Minute)
		first := float64(w.asked) / 60
		w.asked = 0
		w.run(10 * time.Minute)
		later := float64(w.asked) / 600
		t.Logf("%d nodes: %.1f packets a second in the first minute, %.1f later", nodes, first, later)
		if first > most || later > most || nodes > 0 && later == 0 {
			t.Errorf("%d nodes: %.1f packets a second in the first minute, %.1f later, want at most %.1f", nodes, first, later, most)
		}
	}
}

// A node's turn comes though the address that is tried changes all the time.
func TestChangesOfTheAddressKeepTheOrder(t *testing.T) {
	const nodes = 1000
	w := newNetwork(t, nodes)
	waiting := map[string]bool{}
	for i := range nodes {
		waiting[name(i)] = true
	}
	for round := range byte(40) {
		changed := targets(nodes)
		for i := range changed {
			changed[i].Served = netip.AddrFrom4([4]byte{203, 0, 113, round})
		}
		w.watch.Set(w.now, changed)
		for end := w.now.Add(2 * time.Second); w.now.Before(end); w.now = w.now.Add(often) {
			ask, _ := w.watch.Step(w.now, func(uint64) bool { return true })
			for _, q := range ask {
				delete(waiting, q.Node)
			}
		}
	}
	if len(waiting) > 0 {
		t.Errorf("%d of %d nodes are not asked in 80 s", len(waiting), nodes)
	}
}

// What an idle daemon costs is how often it wakes up.
func TestStepsAreFewWhereTargetsAre(t *testing.T) {
	for nodes, most := range map[int]int{1: 20, 2: 40, 1000: int(30 * time.Second / often)} {
		w := newNetwork(t, nodes)
		w.run(10 * time.Second)
		w.steps = 0
		if w.run(30 * time.Second); w.steps > most {
			t.Errorf("%d targets: %d steps in 30 s, want at most %d", nodes, w.steps, most)
		}
	}
	if w := newNetwork(t, 0); w.watch.Wait(w.now) != 0 {
		t.Errorf("without targets it waits for %s, want for ever", w.watch.Wait(w.now))
	}
}
