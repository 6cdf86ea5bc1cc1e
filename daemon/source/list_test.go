package source

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

type numbered struct{ number, version int }

func byNumber(a, b *numbered) int { return cmp.Compare(a.number, b.number) }

func told(list []*numbered) string {
	var b strings.Builder
	for _, o := range list {
		fmt.Fprintf(&b, "%d.%d ", o.number, o.version)
	}
	return b.String()
}

// A list after random changes is what a plain one is, and former lists stay as they were;
// what differs between two is told as one after the other would tell it.
func TestListIsWhatChangesMakeIt(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	plain := map[int]*numbered{}
	sorted := func() []*numbered {
		var out []*numbered
		for _, o := range plain {
			out = append(out, o)
		}
		slices.SortFunc(out, byNumber)
		return out
	}
	var list List[numbered]
	most := 0
	for round := range 160 {
		before, was := list, sorted()
		n := random.IntN(4)
		if round%40 == 0 {
			n = 3000 // many at once, as when all are listed
		}
		gone := random.IntN(2)
		if round >= 100 {
			gone, n = 3, 80 // until it is nearly empty
		}
		changed := map[int]Change[numbered]{}
		for range n {
			c := Change[numbered]{&numbered{random.IntN(4000), round}, random.IntN(3) < gone}
			if c.Gone && len(was) > 0 && random.IntN(4) > 0 {
				c.Object = was[random.IntN(len(was))]
			}
			changed[c.Object.number] = c
		}
		var changes []Change[numbered]
		for _, c := range changed {
			changes = append(changes, c)
			if plain[c.Object.number] = c.Object; c.Gone {
				delete(plain, c.Object.number)
			}
		}
		slices.SortFunc(changes, func(a, b Change[numbered]) int { return byNumber(a.Object, b.Object) })
		list = list.With(changes, byNumber)

		want := sorted()
		if got := slices.Collect(list.All()); !slices.Equal(got, want) || list.Len() != len(want) {
			t.Fatalf("round %d: got %d objects %s\nwant %d %s", round, list.Len(), told(got), len(want), told(want))
		}
		if got := slices.Collect(before.All()); !slices.Equal(got, was) {
			t.Fatalf("round %d: the list before it changed, too", round)
		}
		var differ []string
		Differences(before, list, byNumber,
			func(o *numbered) { differ = append(differ, "-"+told([]*numbered{o})) },
			func(o *numbered) { differ = append(differ, "+"+told([]*numbered{o})) })
		var wantDiffer []string
		there, now := map[*numbered]bool{}, map[*numbered]bool{}
		for _, o := range was {
			there[o] = true
		}
		for _, o := range want {
			now[o] = true
		}
		both := append(slices.Clone(was), want...)
		slices.SortStableFunc(both, byNumber) // of equal ones the former first
		for _, o := range both {
			switch {
			case there[o] && !now[o]:
				wantDiffer = append(wantDiffer, "-"+told([]*numbered{o}))
			case now[o] && !there[o]:
				wantDiffer = append(wantDiffer, "+"+told([]*numbered{o}))
			}
		}
		if !slices.Equal(differ, wantDiffer) {
			t.Fatalf("round %d: differences, got %v, want %v", round, differ, wantDiffer)
		}
		for range 20 {
			number := random.IntN(4000)
			got := list.Find(func(o *numbered) int { return cmp.Compare(o.number, number) })
			if got != plain[number] {
				t.Fatalf("round %d: Find(%d): got %v, want %v", round, number, got, plain[number])
			}
		}
		for i, part := range list.parts {
			if len(part) == 0 || len(part) > partMost {
				t.Fatalf("round %d: part %d has %d objects", round, i, len(part))
			}
		}
		most = max(most, len(list.parts))
	}
	if most < 6 || list.Len() > 600 {
		t.Errorf("the list had at most %d parts and has %d objects in the end: not what this test is about", most, list.Len())
	}
}

// One change among 30,000 copies a part, not all; to find it looks at a part, too.
func TestListChangesCostWhatChanges(t *testing.T) {
	objects := make([]*numbered, 30000)
	for i := range objects {
		objects[i] = &numbered{number: i}
	}
	list := ListOf(objects)
	now := list.With([]Change[numbered]{{Object: &numbered{20000, 1}}}, byNumber)
	others := 0
	for i := range now.parts {
		if &now.parts[i][0] != &list.parts[i][0] {
			others++
		}
	}
	if others != 1 || len(now.parts) != len(list.parts) {
		t.Errorf("after one change %d of %d parts are others than before, want 1", others, len(now.parts))
	}
	compared := 0
	Differences(list, now, func(a, b *numbered) int { compared++; return byNumber(a, b) }, func(*numbered) {}, func(*numbered) {})
	if compared != 1 {
		t.Errorf("to find it %d objects were compared, want 1", compared)
	}
}
