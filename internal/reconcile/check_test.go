package reconcile

import (
	"fmt"
	"maps"
	"testing"
)

// checkable is what both kinds of tables have.
type checkable interface {
	Syncer
	Check(whole bool) error
}

// checkables are tables of both kinds that hold these rows.
func checkables(t *testing.T, want rows) map[string]func() (checkable, *checker) {
	t.Helper()
	return map[string]func() (checkable, *checker){
		"table": func() (checkable, *checker) {
			c := &checker{fake: newFake()}
			tab := New("t", c)
			tab.Put("a", want)
			return tab, c
		},
		"flat": func() (checkable, *checker) {
			c := &checker{fake: newFake()}
			flat := NewFlat("t", c)
			for k, v := range want {
				flat.Want(k, v)
			}
			return flat, c
		},
	}
}

// What others do to the target is found without a dump of what is right.
func TestCheckFindsDrift(t *testing.T) {
	wanted := rows{1: "x", 2: "y", 3: "z"}
	for name, harm := range map[string]func(*checker){
		"nothing":                  func(*checker) {},
		"a row more":               func(c *checker) { c.rows[4] = "x" },
		"a row less":               func(c *checker) { delete(c.rows, 2) },
		"another row":              func(c *checker) { delete(c.rows, 2); c.rows[4] = "y" },
		"another value":            func(c *checker) { c.rows[1] = "y" },
		"it cannot tell":           func(c *checker) { c.err = errFake; c.rows[1] = "y" },
		"a row more, uncounted":    func(c *checker) { c.silent = true; c.rows[4] = "x" },
		"a row less, uncounted":    func(c *checker) { c.silent = true; delete(c.rows, 3) },
		"nothing, uncounted":       func(c *checker) { c.silent = true },
		"another value, uncounted": func(c *checker) { c.silent = true; c.rows[2] = "" },
	} {
		for kind, make := range checkables(t, wanted) {
			for _, whole := range []bool{true, false} {
				tab, c := make()
				tab.AllowPrune()
				ok(t, tab.Check(whole)) // the first one reads
				ok(t, Group{tab}.Sync(false))
				harm(c)
				damaged := !maps.Equal(c.rows, wanted)
				unseen := c.silent && len(c.rows) > len(wanted) && !whole
				c.dumps = 0
				ok(t, tab.Check(whole))
				if read := damaged && !unseen || c.silent && whole; (c.dumps > 0) != read {
					t.Errorf("%s of a %s: read %d times", name, kind, c.dumps)
				}
				if unseen {
					ok(t, tab.Check(true))
				}
				ok(t, Group{tab}.Sync(false))
				want(t, c.fake, wanted)
				if repaired := tab.Stats().Repairs > 0; repaired != damaged {
					t.Errorf("%s of a %s: %d repairs", name, kind, tab.Stats().Repairs)
				}
			}
		}
	}
}

// A large table is looked at part by part, all of it after so many calls; a row that is
// missing is missed at once.
func TestCheckOfALargeTable(t *testing.T) {
	wanted := rows{}
	for k := range 2*checkMost + 100 {
		wanted[k] = fmt.Sprint(k % 10)
	}
	tab, c := checkables(t, wanted)["table"]()
	ok(t, tab.Check(false))
	ok(t, tab.Write())
	c.dumps, c.asked = 0, map[int]int{}
	for i := range 3 {
		before := len(c.asked)
		ok(t, tab.Check(false))
		if n := len(c.asked) - before; i < 2 && n != checkMost {
			t.Errorf("check %d: asked about %d more rows, want %d", i, n, checkMost)
		}
	}
	if len(c.asked) != len(wanted) || c.dumps > 0 {
		t.Errorf("asked about %d rows of %d, read %d times", len(c.asked), len(wanted), c.dumps)
	}
	c.rows[checkMost] = "else"
	for range 3 {
		ok(t, tab.Check(false))
	}
	ok(t, tab.Write())
	want(t, c.fake, wanted)

	for kind, make := range checkables(t, wanted) {
		tab, c := make()
		ok(t, tab.Check(false))
		ok(t, tab.Write())
		delete(c.rows, 7)
		ok(t, tab.Check(false))
		ok(t, tab.Write())
		want(t, c.fake, wanted)
		c.dumps, c.rows[8] = 0, "else"
		if ok(t, tab.Check(true)); c.dumps != 1 {
			t.Errorf("a whole check of a large %s read it %d times", kind, c.dumps)
		}
		ok(t, tab.Write())
		want(t, c.fake, wanted)
	}
}

// What is on its way is no damage, and hides none.
func TestCheckWhileRowsArePending(t *testing.T) {
	c := &checker{fake: newFake()}
	tab := New("t", c)
	tab.AllowPrune()
	tab.Put("a", rows{1: "x", 2: "y", 3: "z"})
	ok(t, tab.Check(false))
	ok(t, tab.Write())
	c.dumps, c.fail = 0, map[int]error{4: errFake}
	tab.Put("a", rows{1: "x", 2: "new", 4: "no room"}) // 2 to be set, 3 to be deleted, 4 fails
	_ = tab.WriteOwner("nobody")
	ok(t, tab.Check(false))
	if c.dumps > 0 {
		t.Error("what is to be done was taken for damage")
	}
	if err := tab.Write(); err == nil {
		t.Fatal("a row that fails was written")
	}
	ok(t, tab.Check(false))
	if c.dumps > 0 {
		t.Error("a row that cannot be set was taken for damage")
	}
	delete(c.rows, 1)
	ok(t, tab.Check(false))
	if c.dumps != 1 || tab.Stats().Repairs != 1 {
		t.Errorf("a row that is missing: read %d times, %d repairs", c.dumps, tab.Stats().Repairs)
	}
}
