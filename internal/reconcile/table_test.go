package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type rows = map[int]string

func want(t *testing.T, f *fake, want rows) {
	t.Helper()
	if d := cmp.Diff(f.rows, want); d != "" {
		t.Errorf("rows (-got +want):\n%s", d)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteSetsOnlyWhatChanged(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	tab.Put("a", rows{1: "x", 2: "y"})
	ok(t, tab.Write())
	want(t, f, rows{1: "x", 2: "y"})
	f.takeSets()
	for _, step := range []struct {
		name  string
		owner string
		rows  rows
		sets  int
	}{
		{"same again", "a", rows{1: "x", 2: "y"}, 0},
		{"one changed", "a", rows{1: "x", 2: "z"}, 1},
		{"second owner of the same row", "b", rows{1: "x"}, 0},
		{"one more", "b", rows{1: "x", 3: "w"}, 1},
	} {
		tab.Put(step.owner, step.rows)
		ok(t, tab.Write())
		if got := f.takeSets(); got != step.sets {
			t.Errorf("%s: got %d sets, want %d", step.name, got, step.sets)
		}
	}
	want(t, f, rows{1: "x", 2: "z", 3: "w"})
}

func TestWantedIsWhatIsInForce(t *testing.T) {
	tab := New("t", newFake())
	tab.Put("b", rows{1: "x", 2: "y"})
	tab.Put("a", rows{1: "z"})
	for k, want := range map[int]string{1: "z", 2: "y", 3: ""} {
		if got, ok := tab.Wanted(k); got != want || ok != (want != "") {
			t.Errorf("%d: got %q, %v, want %q", k, got, ok, want)
		}
	}
	tab.Put("a", nil)
	if got, ok := tab.Wanted(1); got != "x" || !ok {
		t.Errorf("without the first owner: got %q, %v", got, ok)
	}
}

func TestNothingIsPrunedBeforeAllowPrune(t *testing.T) {
	f := newFake()
	f.rows = rows{9: "former life"}
	tab := New("t", f)
	ok(t, tab.Refresh())
	tab.Put("a", rows{1: "x"})
	ok(t, tab.Write())
	tab.Put("a", nil)
	ok(t, tab.Prune())
	want(t, f, rows{1: "x", 9: "former life"})
	if len(f.deletes) != 0 {
		t.Errorf("got deletes %v, want none", f.deletes)
	}
	tab.AllowPrune()
	ok(t, tab.Prune())
	want(t, f, rows{})
	if n := tab.Stats().Repairs; n != 0 {
		t.Errorf("got %d repairs, want 0: a former life's rows are no damage", n)
	}
}

func TestPruneOwner(t *testing.T) {
	f := newFake()
	f.rows = rows{7: "unknown to the table"}
	tab := New("t", f)
	tab.Put("a", rows{1: "x", 2: "x", 7: "unknown to the table"})
	tab.Put("b", rows{2: "x", 3: "x"})
	ok(t, tab.WriteOwner("b"))
	tab.Put("a", nil)
	tab.Put("b", rows{2: "x"})
	ok(t, tab.PruneOwner("a"))
	want(t, f, rows{2: "x", 3: "x"}) // 7 was never dumped, and goes all the same
	ok(t, tab.PruneOwner("a"))
	if d := cmp.Diff(len(f.deletes), 2); d != "" {
		t.Errorf("deletes %v, want 1 and 7 once each", f.deletes)
	}
	ok(t, tab.PruneOwner("b"))
	want(t, f, rows{2: "x"})

	tab.Put("c", rows{2: "x"})
	tab.Put("b", nil)
	tab.Put("c", nil)
	ok(t, tab.PruneOwner("b"))
	want(t, f, rows{2: "x"}) // c was the last
	tab.Put("d", rows{2: "x"})
	ok(t, tab.PruneOwner("c"))
	want(t, f, rows{2: "x"}) // d wants it again
}

func TestFailedRowsAreTriedAgain(t *testing.T) {
	for _, half := range []bool{false, true} {
		t.Run(fmt.Sprintf("half=%v", half), func(t *testing.T) {
			f := newFake()
			f.half = half
			f.fail[2] = errFake
			tab := New("t", f)
			tab.AllowPrune()
			tab.Put("a", rows{1: "x", 2: "x", 3: "x"})
			if err := tab.Write(); !errors.Is(err, errFake) {
				t.Fatalf("got %v, want %v", err, errFake)
			}
			if f.rows[1] != "x" || f.rows[3] != "x" {
				t.Errorf("rows %v: a bad one held up the others", f.rows)
			}
			if err := tab.Stats().Err; !errors.Is(err, errFake) || !strings.Contains(err.Error(), "table t") {
				t.Errorf("Stats().Err = %v, want the error and the table's name", err)
			}
			if err := tab.WriteOwner("a"); !errors.Is(err, errFake) {
				t.Errorf("WriteOwner: got %v, want %v", err, errFake)
			}
			delete(f.fail, 2)
			ok(t, tab.Write())
			want(t, f, rows{1: "x", 2: "x", 3: "x"})
			ok(t, tab.Stats().Err)

			f.fail[1] = errFake
			tab.Put("a", nil)
			if err := tab.Prune(); !errors.Is(err, errFake) {
				t.Errorf("Prune: got %v, want %v", err, errFake)
			}
			want(t, f, rows{1: "x"})
			delete(f.fail, 1)
			ok(t, tab.Prune())
			want(t, f, rows{})
			ok(t, tab.Stats().Err)
		})
	}
}

func TestRefreshFindsDrift(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	tab.AllowPrune()
	tab.Put("a", rows{1: "x", 2: "x", 3: "x"})
	ok(t, tab.Refresh())
	ok(t, tab.Write())
	delete(f.rows, 1)
	f.rows[2] = "damaged"
	f.rows[8] = "left over"
	ok(t, tab.Refresh())
	ok(t, tab.Refresh()) // counts nothing twice
	if n := tab.Stats().Repairs; n != 3 {
		t.Errorf("got %d repairs, want 3", n)
	}
	f.takeSets()
	ok(t, tab.Write())
	ok(t, tab.Prune())
	want(t, f, rows{1: "x", 2: "x", 3: "x"})
	if n := f.takeSets(); n != 2 {
		t.Errorf("got %d sets, want 2", n)
	}
	f.dumpErr = errFake
	if err := tab.Refresh(); !errors.Is(err, errFake) {
		t.Errorf("got %v, want %v", err, errFake)
	}
	if err := tab.Stats().Err; !errors.Is(err, errFake) {
		t.Errorf("Stats().Err = %v, want %v", err, errFake)
	}
	f.dumpErr = nil
	ok(t, tab.Refresh())
	ok(t, tab.Stats().Err)
}

func TestRefreshOwner(t *testing.T) {
	g := &getter{fake: newFake()}
	for name, target := range map[string]Target[int, string]{"with Get": g, "without": newFake()} {
		t.Run(name, func(t *testing.T) {
			f, _ := target.(*fake)
			if f == nil {
				f = g.fake
			}
			tab := New("t", target)
			tab.Put("a", rows{1: "x", 2: "x"})
			tab.Put("b", rows{3: "x"})
			ok(t, tab.Write())
			delete(f.rows, 1)
			delete(f.rows, 3)
			ok(t, tab.RefreshOwner("a"))
			ok(t, tab.WriteOwner("a"))
			want(t, f, rows{1: "x", 2: "x"})
			if f.dumps != 0 {
				t.Errorf("got %d dumps, want none", f.dumps)
			}
		})
	}
	if g.gets != 2 {
		t.Errorf("got %d gets, want 2", g.gets)
	}
}

func TestConflicts(t *testing.T) {
	perms := [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c", "a"}}
	for _, order := range perms {
		f := newFake()
		tab := New("t", f)
		for _, o := range order {
			tab.Put(o, rows{1: o, 2: "same"})
		}
		ok(t, tab.Write())
		want(t, f, rows{1: "a", 2: "same"})
		wantC := []Conflict{
			{Table: "t", Key: "1", Winner: "a", Loser: "b"},
			{Table: "t", Key: "1", Winner: "a", Loser: "c"},
		}
		if d := cmp.Diff(tab.Conflicts(), wantC); d != "" {
			t.Errorf("order %v: conflicts (-got +want):\n%s", order, d)
		}
		tab.Put("a", nil)
		tab.Put("c", rows{1: "b"})
		ok(t, tab.Write())
		want(t, f, rows{1: "b", 2: "same"})
		if c := tab.Conflicts(); len(c) != 0 {
			t.Errorf("got conflicts %v, want none", c)
		}
	}
}

func TestWriteOwnerCostFollowsTheChange(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	many := rows{}
	for i := range 10000 {
		many[i] = "x"
		f.fail[i] = errFake // all pending, and failing: a scan would try them
	}
	tab.Put("many", many)
	tab.Put("one", rows{10001: "x"})
	ok(t, tab.WriteOwner("one"))
	if n := f.takeSets(); n != 1 {
		t.Errorf("got %d sets, want 1", n)
	}
	tab.Put("one", nil)
	ok(t, tab.PruneOwner("one"))
	if n := len(f.deletes); n != 1 {
		t.Errorf("got %d deletes, want 1", n)
	}
}

func TestPutCopies(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	mine := rows{1: "x"}
	tab.Put("a", mine)
	mine[2] = "y"
	tab.Put("a", mine)
	ok(t, tab.Write())
	want(t, f, rows{1: "x", 2: "y"})
}

func TestErrorsAreBounded(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	r := rows{}
	for i := range 100 {
		r[i] = "x"
		f.fail[i] = fmt.Errorf("row %d: %w", i, errFake)
	}
	tab.Put("a", r)
	err := tab.Write()
	if got, want := err.Error(), "and 92 more"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to contain %q", got, want)
	}
	if n := strings.Count(err.Error(), "\n"); n != maxErrors {
		t.Errorf("got %d lines, want %d", n+1, maxErrors+1)
	}
}

func TestConcurrentOwners(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	tab.AllowPrune()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			owner := fmt.Sprint("pod:", i)
			for range 50 {
				tab.Put(owner, rows{i: "x", 100: "shared"})
				if err := tab.WriteOwner(owner); err != nil {
					t.Error(err)
				}
				tab.Put(owner, nil)
				if err := tab.PruneOwner(owner); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 50 {
		ok(t, Group{tab}.Sync(true))
		tab.Stats()
		tab.Conflicts()
	}
	wg.Wait()
	ok(t, Group{tab}.Sync(true))
	want(t, f, rows{})
}

// steady tells the rows of a fake once each.
type steady struct{ *fake }

func (s steady) Range(f func(int, string)) error {
	for k, v := range s.rows {
		f(k, v)
	}
	return s.dumpErr
}

func TestRefreshByRangeFindsWhatDiffers(t *testing.T) {
	f := newFake()
	tab := New("t", steady{f})
	tab.Put("a", rows{1: "x", 2: "y", 3: "z"})
	tab.AllowPrune()
	ok(t, (Group{tab}).Sync(true))
	for _, step := range []struct {
		name    string
		rows    rows
		repairs uint64
	}{
		{"nothing", rows{1: "x", 2: "y", 3: "z"}, 0},
		{"missing", rows{1: "x", 3: "z"}, 1},
		{"wrong", rows{1: "x", 2: "w", 3: "z"}, 1},
		{"left over", rows{1: "x", 2: "y", 3: "z", 4: "v"}, 1},
		{"one for the other", rows{1: "x", 2: "y", 4: "z"}, 2},
		{"all gone", rows{}, 3},
		{"nothing again", rows{1: "x", 2: "y", 3: "z"}, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			before := tab.Stats().Repairs
			f.rows = step.rows
			ok(t, (Group{tab}).Sync(true))
			want(t, f, rows{1: "x", 2: "y", 3: "z"})
			if got := tab.Stats().Repairs - before; got != step.repairs {
				t.Errorf("got %d repairs, want %d", got, step.repairs)
			}
		})
	}
}

func TestRangeThatBreaksOffSaysNothingOfTheRest(t *testing.T) {
	f := newFake()
	tab := New("t", steady{f})
	tab.Put("a", rows{1: "x", 2: "y"})
	ok(t, tab.Write())
	f.rows, f.dumpErr = rows{1: "drift"}, errFake
	if err := tab.Refresh(); !errors.Is(err, errFake) {
		t.Fatalf("got error %v, want %v", err, errFake)
	}
	f.takeSets()
	ok(t, tab.Write())
	if got := f.takeSets(); got != 1 {
		t.Errorf("got %d sets, want 1: of the row that was seen", got)
	}
}

func BenchmarkRefreshOfWhatIsRight(b *testing.B) {
	f := newFake()
	all := rows{}
	for k := range 2000 {
		all[k] = "x"
	}
	tab := New("t", steady{f})
	tab.Put("a", all)
	_ = tab.Write()
	b.ReportAllocs()
	for b.Loop() {
		_ = tab.Refresh()
	}
}
