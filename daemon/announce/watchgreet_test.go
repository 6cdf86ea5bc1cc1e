package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestWhoWaitsLongestIsGreeted compares who is greeted, among nodes of which some answer and some
// come to be missing, with those that a look at all of them names. Where some greet this one or
// are said to be lost, who is asked for that anyway may have another's turn, but as many are
// greeted, and none too soon.
func TestWhoWaitsLongestIsGreeted(t *testing.T) {
	for seed := range uint64(10) {
		r, talk := rand.New(rand.NewPCG(seed, 0)), seed%2 == 1
		nonces := uint64(0)
		w := NewWatch("self", func() uint64 { nonces++; return nonces })
		nodes := map[string]netip.Addr{}
		for i := range 10 + r.IntN(60) {
			nodes[fmt.Sprint("n", i)] = netip.AddrFrom4([4]byte{10, 0, byte(i), 1})
		}
		w.Set(nodes)
		now := time.Unix(1_000_000, 0)
		for range 1000 {
			var due []*other
			for _, n := range w.ring {
				if !n.heard && !now.Before(n.next) {
					due = append(due, n)
				}
			}
			slices.SortStableFunc(due, func(a, b *other) int { return a.next.Compare(b.next) })
			var want []string
			for _, n := range due[:min(greetAtOnce, len(due))] {
				want = append(want, n.name)
			}
			slices.Sort(want)
			queue, at := w.due, w.dueAt
			var got []string
			for name := range w.greeted(now) {
				got = append(got, name)
			}
			w.due, w.dueAt = queue, at // Step asks it again
			slices.Sort(got)
			soon := slices.ContainsFunc(got, func(name string) bool { n := w.nodes[name]; return n.heard || now.Before(n.next) })
			if soon || len(got) != len(want) || !talk && !slices.Equal(got, want) {
				t.Fatalf("seed %d at %s: %v are greeted, want %v", seed, now, got, want)
			}
			send, _ := w.Step(now)
			for _, m := range send {
				if m.Datagram.Kind == kindQuestion && r.IntN(40) == 0 {
					w.Hear(now, m.To, Datagram{Kind: kindAnswer, Nonce: m.Datagram.Nonce, Addr: m.Datagram.Addr})
				}
			}
			from := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(70)), 1})
			switch what := r.IntN(60); {
			case what == 0 && talk:
				w.Hear(now, from, hello)
			case what == 1 && talk:
				w.Hear(now, from, Datagram{Kind: kindLook, Addr: netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(70)), 1})})
			case what == 2:
				delete(nodes, fmt.Sprint("n", r.IntN(len(nodes))))
				w.Set(nodes)
			}
			now = now.Add([]time.Duration{Every / 2, calm / 2, calm, time.Minute}[r.IntN(4)])
		}
	}
}
