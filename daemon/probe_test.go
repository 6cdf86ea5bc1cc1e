package daemon

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/overlay"
)

// Where a filter keeps the questions from a node by which nodes watch each other, and nothing
// else, the overlay must not be said to be at fault: who believes it looks at the wrong port.
func TestALostNodeIsNoProblemOfTheOverlay(t *testing.T) {
	well := reach{at: time.Now(), result: overlay.ProbeResult{Reachable: true}}
	for _, tc := range []struct {
		name   string
		lost   bool
		result reach
		want   string // the problem of the overlay
		shown  string
	}{
		{"well", false, well, "", "ok"},
		{"lost, but the overlay works", true, well, "", "no answer"},
		{"lost, and no answer through the overlay", true, reach{at: time.Now()}, problemUnreachable, "no answer"},
		{"no answer through the overlay", false, reach{at: time.Now()}, problemUnreachable, "no answer"},
	} {
		n := &node{book: newBook(nil, nil), problems: newProblems(slog.New(slog.DiscardHandler)), services: newServices(Config{}, &tables{}, nil)}
		e := &entry{node: overlay.Node{Name: "b"}}
		n.book.entries["b"] = e
		n.lose(map[string]bool{"b": tc.lost}, false)
		n.learn([]overlay.ProbeTarget{{Name: "b"}}, []reach{tc.result})
		got := ""
		for _, p := range n.problems.all() {
			got += p.What
		}
		if got != tc.want || e.reach.String() != tc.shown {
			t.Errorf("%s: problems %q, shown as %q, want %q, %q", tc.name, got, e.reach, tc.want, tc.shown)
		}
	}
}

// TestProbesGoToWhomWasNotAskedForLongest compares who is probed next, among nodes of which some
// did not answer and some cannot be probed, with the same said in another way.
func TestProbesGoToWhomWasNotAskedForLongest(t *testing.T) {
	now := time.Now()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		b := newBook(nil, nil)
		b.self.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}
		var list []*entry
		for i := range r.IntN(30) {
			e := &entry{node: overlay.Node{Name: fmt.Sprintf("n-%02d", i)}}
			b.entries[e.node.Name] = e
			if r.IntN(10) == 0 {
				continue
			}
			e.rows = []overlay.Peer{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i), 0}), 24)}}
			if r.IntN(4) > 0 {
				e.reach = reach{at: now.Add(time.Duration(r.IntN(8)) * time.Second), result: overlay.ProbeResult{Reachable: r.IntN(3) > 0}}
			}
			list = append(list, e)
		}
		slices.SortFunc(list, func(x, y *entry) int {
			return cmp.Or(x.reach.at.Compare(y.reach.at), cmp.Compare(x.node.Name, y.node.Name))
		})
		var bad, rest []string
		for _, e := range list {
			if len(bad) < 2 && !e.reach.at.IsZero() && !e.reach.ok() {
				bad = append(bad, e.node.Name)
			} else {
				rest = append(rest, e.node.Name)
			}
		}
		want := append(bad, rest...)
		want = want[:min(overlay.MaxProbes, len(want))]
		var got []string
		for _, target := range b.choose() {
			got = append(got, target.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: %v are probed, want %v", seed, got, want)
		}
	}
}
