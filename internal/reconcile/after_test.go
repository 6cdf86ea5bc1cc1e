package reconcile

import (
	"errors"
	"testing"
)

// TestWhatRefersWaitsForWhatFails has owners want backends, and rows that say how many they
// have. Where a backend finds no room, both stay as they were; those of others do not.
func TestWhatRefersWaitsForWhatFails(t *testing.T) {
	for _, whole := range []bool{true, false} {
		backends, counts := newFake(), newFake()
		b, c := New("backends", backends), New("counts", counts)
		b.HoldFor(b)
		c.After(b)
		b.AllowPrune()
		c.AllowPrune()
		say := func(owner string, count int, backs rows, row string) {
			b.Put(owner, backs)
			c.Put(owner, rows{count: row})
		}
		sync := func() error {
			if whole {
				return Group{b, c}.Sync(false)
			}
			var errs []error
			for _, o := range []string{"a", "b"} {
				errs = append(errs, b.WriteOwner(o), c.WriteOwner(o))
			}
			for _, o := range []string{"a", "b"} {
				errs = append(errs, c.PruneOwner(o), b.PruneOwner(o))
			}
			return errors.Join(errs...)
		}
		say("a", 1, rows{10: "x", 11: "x"}, "two")
		say("b", 2, rows{20: "x"}, "one")
		ok(t, sync())

		backends.fail[12] = errFake
		say("a", 1, rows{10: "x", 12: "x", 13: "x"}, "three") // 11 goes, as far as a is concerned
		say("b", 2, rows{21: "x"}, "another")
		if err := sync(); !errors.Is(err, errFake) {
			t.Fatalf("got %v, want %v", err, errFake)
		}
		want(t, counts, rows{1: "two", 2: "another"})
		want(t, backends, rows{10: "x", 11: "x", 13: "x", 21: "x"})
		if _, told := b.Unwritten()["a"]; !told || len(b.Unwritten()) != 1 {
			t.Errorf("owners with unwritten rows: %v, want a", b.Unwritten())
		}

		delete(backends.fail, 12)
		ok(t, sync())
		want(t, counts, rows{1: "three", 2: "another"})
		want(t, backends, rows{10: "x", 12: "x", 13: "x", 21: "x"})

		backends.fail[14] = errFake // and one that gives up is not held for ever
		say("a", 1, rows{14: "x"}, "one")
		if err := sync(); err == nil {
			t.Fatal("a row that fails was written")
		}
		b.Put("a", nil)
		c.Put("a", nil)
		delete(backends.fail, 14)
		ok(t, sync())
		want(t, counts, rows{2: "another"})
		want(t, backends, rows{21: "x"})
	}
}
