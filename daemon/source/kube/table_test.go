package kube

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

func nodeTable() *table[source.Node] {
	return newTable(source.ProblemNode, "node", nameOfNode, func(n *source.Node) string { return n.Problem })
}

// What the table says after each of many changes is what a plain map says.
func TestTableIsAsAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	table, want := nodeTable(), map[string]*source.Node{}
	pick := func() string { return fmt.Sprintf("node-%d", random.IntN(40)) }
	mk := func(n string) *source.Node {
		return &source.Node{Name: n, Labels: map[string]string{"v": fmt.Sprint(random.IntN(3))}}
	}
	put := func(n string) {
		o := mk(n)
		same := want[n] != nil && want[n].Labels["v"] == o.Labels["v"]
		if changed := table.put(name{"", n}, o, nil); changed == same {
			t.Fatalf("put %s: changed %v, same %v", n, changed, same)
		}
		if !same {
			want[n] = o
		}
	}
	for step := range 20000 {
		switch r := random.IntN(100); {
		case r < 60:
			put(pick())
		case r < 80:
			n := pick()
			if changed := table.remove(name{"", n}); changed != (want[n] != nil) {
				t.Fatalf("remove %s: changed %v", n, changed)
			}
			delete(want, n)
		case r < 82: // a listing, of which something is missing and something new
			table.begin()
			there := map[string]bool{}
			for range 30 {
				n := pick()
				there[n] = true
				put(n)
			}
			if random.IntN(3) == 0 { // it breaks off
				continue
			}
			table.end()
			maps.DeleteFunc(want, func(n string, _ *source.Node) bool { return !there[n] })
		default:
			got := table.current()
			names := slices.Sorted(maps.Keys(want))
			if len(got) != len(names) {
				t.Fatalf("step %d: %d objects, want %d", step, len(got), len(names))
			}
			for i, n := range names {
				if got[i] != want[n] {
					t.Fatalf("step %d: object %d is %v, want %v", step, i, got[i], want[n])
				}
			}
		}
	}
}

func TestListsThatWereGivenOutDoNotChange(t *testing.T) {
	table := nodeTable()
	put := func(n string) { table.put(name{"", n}, &source.Node{Name: n}, nil) }
	for _, n := range []string{"b", "d", "f"} {
		put(n)
	}
	before := table.current()
	kept := slices.Clone(before)
	put("a")
	put("e")
	table.remove(name{"", "d"})
	if got := table.current(); len(got) != 4 || !slices.Equal(before, kept) {
		t.Errorf("got %d objects; the former list: %v, want %v", len(got), before, kept)
	}
}

func TestManyProblemsAreFew(t *testing.T) {
	table := nodeTable()
	table.begin()
	for i := range 1000 {
		n := fmt.Sprintf("node-%03d", i)
		table.put(name{"", n}, nil, errors.New(n+": bad"))
	}
	table.end()
	got := table.problems()
	if len(got) != maxProblems+1 || got[0].Text != "node: node-000: bad" || got[maxProblems].Text != "node: 992 more" {
		t.Errorf("%d problems: %v", len(got), got)
	}
}
