package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Refresh reads the target and compares: what differs is repaired by the next
// Write and Prune. If it cannot be read to its end the table goes on with what it
// believed of the rows that it has not seen.
func (t *Table[K, V]) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
	seen := 0 // rows, each counted once
	err := t.read(func(k K, v V) {
		h, known := t.have[k]
		if !known || h.round != t.round {
			seen++
		}
		if _, pending := t.pending[k]; known && !pending && h.value == v {
			t.have[k] = held[V]{v, t.round} // all is as it was
			return
		}
		t.found(k, v, true)
	})
	if err != nil {
		t.dumpErr = fmt.Errorf("dump: %w", err)
		return t.join([]error{t.dumpErr})
	}
	t.dumpErr = nil
	if seen < len(t.have) {
		for k, h := range t.have { // what vanished
			if h.round != t.round {
				t.found(k, *new(V), false)
			}
		}
	}
	for k := range t.pending { // what nobody wants and is not there after all
		if _, ok := t.have[k]; !ok && len(t.want[k]) == 0 {
			t.settle(k)
		}
	}
	t.dumped = true
	return nil
}

// read calls f with all rows of the target.
func (t *Table[K, V]) read(f func(K, V)) error {
	if r, ok := t.target.(Ranger[K, V]); ok {
		return r.Range(f)
	}
	rows, err := t.target.Dump()
	if err != nil {
		return err
	}
	for k, v := range rows {
		f(k, v)
	}
	return nil
}

// RefreshOwner is Refresh for the rows of one owner, so that WriteOwner repairs
// them. Where the target cannot read single rows (see [Getter]) it is taken as
// knowing nothing, and WriteOwner writes them all.
func (t *Table[K, V]) RefreshOwner(owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	get, ok := t.target.(Getter[K, V])
	var errs []error
	for _, k := range t.owners[owner] {
		if !ok {
			delete(t.have, k)
			t.pending[k] = struct{}{}
			continue
		}
		v, there, err := get.Get(k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.found(k, v, there)
	}
	return t.join(errs)
}

// found takes note of what the target really holds under k, and counts a repair
// if it is not what was believed.
func (t *Table[K, V]) found(k K, v V, there bool) {
	_, pending := t.pending[k]
	cs := t.want[k]
	if there {
		t.have[k] = held[V]{v, t.round}
	} else {
		delete(t.have, k)
	}
	switch {
	case len(cs) > 0 && there && v == cs[0].value:
		t.settle(k)
		return
	case len(cs) == 0 && !there:
		t.settle(k)
		return
	}
	// Wrong, missing or left over. If that was known already it is no news; and
	// what the first dump finds unwanted is a former life's, not damage.
	if !pending && (len(cs) > 0 || t.dumped) {
		t.repairs++
	}
	t.pending[k] = struct{}{}
}

// Conflicts returns the keys that owners disagree about, in the order of key
// and loser. One key with n losers gives n conflicts.
func (t *Table[K, V]) Conflicts() []Conflict {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Conflict
	for k := range t.clash {
		cs := t.want[k]
		for _, c := range cs[1:] {
			if c.value != cs[0].value {
				out = append(out, Conflict{Table: t.name, Key: fmt.Sprint(k), Winner: cs[0].owner, Loser: c.owner})
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Loser, b.Loser))
	})
	return out
}

func compareErrors(a, b error) int { return strings.Compare(a.Error(), b.Error()) }
