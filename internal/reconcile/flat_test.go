package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFlatConverges does anything in any order, and then checks that one full sync ends in
// exactly the rows that are wanted, whatever happened before.
func TestFlatConverges(t *testing.T) {
	const rounds, steps, keys = 400, 80, 12
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := newFake()
		f.half = seed%2 == 0
		for k := range keys {
			if r.IntN(3) == 0 {
				f.rows[k] = "former"
			}
		}
		var target Target[int, string] = f
		switch seed % 3 {
		case 0:
			target = ranger{f}
		case 1:
			target = &checker{fake: f}
		}
		m := &flatModel{Flat: NewFlat("t", target), f: f, wants: rows{}}
		for range steps {
			m.step(t, r, keys)
		}
		clear(f.fail)
		f.dumpErr = nil
		m.AllowPrune()
		if err := errors.Join(m.Check(true), (Group{m}).Sync(false)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d := cmp.Diff(f.rows, m.wants); d != "" {
			t.Fatalf("seed %d: rows (-got +want):\n%s", seed, d)
		}
		if s := m.Stats(); s.Err != nil || s.Rows != len(m.wants) {
			t.Fatalf("seed %d: Stats() = %+v, want no error and %d rows", seed, s, len(m.wants))
		}
		m.Missing(func(k int, err error) { t.Errorf("seed %d: %d is missing: %v", seed, k, err) })
	}
}

// flatModel knows what is wanted, by the simplest means.
type flatModel struct {
	*Flat[int, string]
	f       *fake
	wants   rows
	allowed bool
}

func (m *flatModel) step(t *testing.T, r *rand.Rand, keys int) {
	k := r.IntN(keys)
	switch r.IntN(12) {
	case 0, 1, 2:
		v := string(rune('a' + r.IntN(3)))
		m.wants[k] = v
		m.Want(k, v)
	case 3, 4:
		delete(m.wants, k)
		m.Unwant(k)
	case 5:
		_ = m.Write()
	case 6:
		before := maps.Clone(m.f.rows)
		_ = m.Prune()
		if !m.allowed && !cmp.Equal(before, m.f.rows) {
			t.Fatalf("pruned before AllowPrune: %v, before %v", m.f.rows, before)
		}
		for k := range before {
			_, kept := m.f.rows[k]
			if _, wanted := m.wants[k]; wanted && !kept {
				t.Fatalf("pruned key %d, which is wanted", k)
			}
		}
	case 7:
		_ = m.Refresh()
	case 8:
		delete(m.f.rows, k)
	case 9:
		m.f.rows[k] = "drift"
	case 10:
		if m.f.fail[k] == nil {
			m.f.fail[k] = errFake
		} else {
			delete(m.f.fail, k)
		}
	case 11:
		if r.IntN(4) == 0 {
			m.allowed = true
			m.AllowPrune()
		}
		m.f.dumpErr = nil
		if r.IntN(3) == 0 {
			m.f.dumpErr = errFake
		}
	}
	for k, v := range m.wants {
		if got, ok := m.Wanted(k); !ok || got != v {
			t.Fatalf("Wanted(%d) = %q, %v, want %q", k, got, ok, v)
		}
	}
}

func TestFlatWritesOnlyWhatChanged(t *testing.T) {
	f := newFake()
	tab := NewFlat("t", f)
	for _, step := range []struct {
		name string
		do   func()
		sets int
	}{
		{"two", func() { tab.Want(1, "x"); tab.Want(2, "y") }, 2},
		{"same again", func() { tab.Want(1, "x"); tab.Want(2, "y") }, 0},
		{"one changed", func() { tab.Want(2, "z") }, 1},
		{"gone and back", func() { tab.Unwant(1); tab.Want(1, "x") }, 1},
		{"nothing that was there", func() { tab.Unwant(7) }, 0},
	} {
		step.do()
		ok(t, tab.Write())
		if got := f.takeSets(); got != step.sets {
			t.Errorf("%s: got %d sets, want %d", step.name, got, step.sets)
		}
	}
	tab.AllowPrune()
	ok(t, tab.Prune())
	want(t, f, rows{1: "x", 2: "z"})
	if len(f.deletes) != 0 {
		t.Errorf("got deletes %v, want none", f.deletes)
	}
}

func TestFlatPrunesAFormerLifeOnceAllowed(t *testing.T) {
	f := newFake()
	f.rows = rows{8: "former", 9: "former"}
	tab := NewFlat("t", f)
	ok(t, tab.Refresh())
	tab.Want(1, "x")
	tab.Want(8, "kept")
	ok(t, (Group{tab}).Sync(false))
	want(t, f, rows{1: "x", 8: "kept", 9: "former"})
	tab.AllowPrune()
	ok(t, tab.Prune())
	want(t, f, rows{1: "x", 8: "kept"})
	if n := tab.Stats().Repairs; n != 0 {
		t.Errorf("got %d repairs, want 0: a former life's rows are no damage", n)
	}
}

func TestFlatCountsRepairsOnce(t *testing.T) {
	f := newFake()
	tab := NewFlat("t", steady{f})
	tab.AllowPrune()
	for k := range 5 {
		tab.Want(k, "x")
	}
	ok(t, (Group{tab}).Sync(true))
	for _, step := range []struct {
		name    string
		rows    rows
		repairs uint64
	}{
		{"nothing", rows{0: "x", 1: "x", 2: "x", 3: "x", 4: "x"}, 0},
		{"missing", rows{0: "x", 2: "x", 3: "x", 4: "x"}, 1},
		{"wrong and left over", rows{0: "y", 1: "x", 2: "x", 3: "x", 4: "x", 9: "z"}, 2},
		{"all gone", rows{}, 5},
	} {
		before := tab.Stats().Repairs
		f.rows = step.rows
		ok(t, tab.Refresh())
		ok(t, (Group{tab}).Sync(true)) // the second Refresh finds nothing new
		want(t, f, rows{0: "x", 1: "x", 2: "x", 3: "x", 4: "x"})
		if got := tab.Stats().Repairs - before; got != step.repairs {
			t.Errorf("%s: got %d repairs, want %d", step.name, got, step.repairs)
		}
	}
}

// A round is a byte: after 256 rounds a row that vanished must not look as just seen.
func TestFlatRoundsWrapAround(t *testing.T) {
	f := newFake()
	tab := NewFlat("t", f)
	tab.Want(1, "x")
	for range 600 {
		ok(t, (Group{tab}).Sync(true))
		delete(f.rows, 1)
	}
	ok(t, (Group{tab}).Sync(true))
	want(t, f, rows{1: "x"})
	if n := tab.Stats().Repairs; n != 600 {
		t.Errorf("got %d repairs, want 600", n)
	}
}

func TestFlatTellsWhatIsMissing(t *testing.T) {
	f := newFake()
	f.fail[2] = errFake
	tab := NewFlat("t", f)
	tab.AllowPrune()
	tab.Want(1, "x")
	tab.Want(2, "x")
	if err := tab.Write(); !errors.Is(err, errFake) {
		t.Fatalf("got %v, want %v", err, errFake)
	}
	tab.Want(3, "x")
	missing := map[int]error{}
	tab.Missing(func(k int, err error) { missing[k] = err })
	if len(missing) != 2 || missing[2] != errFake || missing[3] != nil {
		t.Errorf("got %v, want 2 with its error and 3 without", missing)
	}
	if err := tab.Stats().Err; !errors.Is(err, errFake) || !strings.Contains(err.Error(), "table t") {
		t.Errorf("Stats().Err = %v, want the error and the table's name", err)
	}
	tab.Unwant(2)
	ok(t, tab.Write())
	ok(t, tab.Stats().Err)
	if err := tab.Prune(); !errors.Is(err, errFake) {
		t.Errorf("Prune: got %v, want %v", err, errFake)
	}
	if err := tab.Stats().Err; !errors.Is(err, errFake) {
		t.Errorf("Stats().Err = %v, want %v", err, errFake)
	}
	delete(f.fail, 2)
	ok(t, tab.Prune())
	ok(t, tab.Stats().Err)
	want(t, f, rows{1: "x", 3: "x"})
}

func TestFlatConcurrently(t *testing.T) {
	f := newFake()
	tab := NewFlat("t", f)
	tab.AllowPrune()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 100 {
				tab.Want(i, fmt.Sprint(n))
				_ = tab.Write()
				tab.Unwant(i)
				_ = tab.Prune()
			}
		})
	}
	for range 50 {
		ok(t, Group{tab}.Sync(true))
		tab.Stats()
		tab.Missing(func(int, error) {})
	}
	wg.Wait()
	ok(t, Group{tab}.Sync(true))
	want(t, f, rows{})
}

func TestFlatKeepsRowsThatAreStillUsed(t *testing.T) {
	target := newFake()
	f := NewFlat("rules", target)
	f.AllowPrune()
	for _, k := range []int{1, 2} {
		f.Want(k, "row")
	}
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
	f.Unwant(1)
	f.Unwant(2)
	if err := f.PruneBut(func(k int) bool { return k == 1 }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]string{1: "row"}, target.rows); diff != "" {
		t.Errorf("rows while one is used (-want +got):\n%s", diff)
	}
	if err := f.Prune(); err != nil || len(target.rows) > 0 {
		t.Errorf("left are %v, %v", target.rows, err)
	}
}
