package reconcile

import "testing"

// What an owner leaves to another is written with it: else the target goes on holding a row
// that may refer to what is deleted next.
func TestWriteOwnerWritesWhatTheOwnerLeftToAnother(t *testing.T) {
	for _, c := range []struct {
		name string
		now  rows // of a, who had 1 and 2
	}{
		{"it is gone", nil},
		{"it wants something else", rows{2: "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			tab := New("t", f)
			tab.Put("a", rows{1: "a", 2: "a"})
			tab.Put("b", rows{1: "b", 3: "b"})
			ok(t, tab.Write())
			want(t, f, rows{1: "a", 2: "a", 3: "b"})
			tab.Put("a", c.now)
			f.takeSets()
			ok(t, tab.WriteOwner("a"))
			ok(t, tab.PruneOwner("a"))
			now := rows{1: "b", 3: "b"}
			for k, v := range c.now {
				now[k] = v
			}
			want(t, f, now)
			if n := f.takeSets(); n != 1 {
				t.Errorf("got %d sets, want 1", n)
			}
		})
	}
}

// Nothing is kept of what was left once it is written.
func TestWhatWasLeftIsForgottenWhenItIsWritten(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	tab.Put("b", rows{1: "b"})
	for _, write := range []func() error{tab.Write, func() error { return tab.WriteOwner("a") }} {
		tab.Put("a", rows{1: "a"})
		ok(t, tab.Write())
		tab.Put("a", nil)
		ok(t, write())
		want(t, f, rows{1: "b"})
		if len(tab.left) != 0 {
			t.Errorf("left: %v, want none", tab.left)
		}
	}
}

// A row that goes with what it hangs on, before its owner gives it up, is no damage: it is
// neither counted nor written again. What another owner has is, and so is this one's if it
// stays after all.
func TestRowsOfWhoIsLeavingAreNotRepaired(t *testing.T) {
	f := newFake()
	tab := New("t", f)
	tab.AllowPrune()
	tab.Put("a", rows{1: "a"})
	tab.Put("b", rows{2: "b"})
	ok(t, tab.Refresh())
	ok(t, tab.Write())
	f.takeSets()
	look := func(when string, repairs uint64, sets int) {
		t.Helper()
		delete(f.rows, 1)
		ok(t, tab.Refresh())
		ok(t, tab.Write())
		if got, n := tab.Stats().Repairs, f.takeSets(); got != repairs || n != sets {
			t.Errorf("%s: %d repairs and %d sets, want %d and %d", when, got, n, repairs, sets)
		}
	}
	tab.Leaving("a", true)
	look("leaving", 0, 0)
	delete(f.rows, 2)
	look("leaving, and another's row is removed", 1, 1)
	tab.Leaving("a", false)
	look("it stays", 2, 1)
	tab.Leaving("a", true)
	look("leaving again", 2, 0)
	tab.Put("a", nil)
	ok(t, tab.PruneOwner("a"))
	look("gone", 2, 0)
	tab.Put("a", rows{1: "a"})
	ok(t, tab.Write())
	want(t, f, rows{1: "a", 2: "b"})
	f.takeSets()
	look("back", 3, 1)
}
