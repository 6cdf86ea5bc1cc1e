package reconcile

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestManyRowsAreSetTogether(t *testing.T) {
	b := &batcher{fake: newFake()}
	tab := New("t", b)
	all := rows{}
	for k := range 2*batchMost + batchLeast {
		all[k] = "x"
	}
	b.fail = map[int]error{3: errFake, 700: errFake}
	tab.Put("a", all)
	if err := tab.Write(); !errors.Is(err, errFake) {
		t.Fatalf("got %v, want %v", err, errFake)
	}
	if b.most != batchMost {
		t.Errorf("at most %d rows were set together, want %d", b.most, batchMost)
	}
	if len(b.rows) != len(all)-2 {
		t.Errorf("%d rows are set, want all %d but the 2 that fail", len(b.rows), len(all))
	}
	clear(b.fail)
	b.sets = nil
	ok(t, tab.Write())
	slices.Sort(b.sets)
	if d := cmp.Diff([]int{3, 700}, b.sets); d != "" {
		t.Errorf("what failed was not tried again alone (-want +got):\n%s", d)
	}
	want(t, b.fake, all)
}
