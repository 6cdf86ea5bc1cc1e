package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Table keeps one [Target] at what its owners want. It locks itself.
//
// The invariant behind all of it: a key is in pending, or the target is
// believed to hold what is wanted of it.
type Table[K, V comparable] struct {
	name   string
	target Target[K, V]

	mu      sync.Mutex
	owners  map[string][]K
	want    map[K][]claim[V] // sorted by owner; the first is in force
	clash   map[K]struct{}   // keys whose claims differ
	have    map[K]held[V]    // what the target is believed to hold
	round   uint64           // of Refresh
	pending map[K]struct{}   // keys to be set, or deleted if nobody wants them
	failed  map[K]error      // pending keys whose last try failed
	gone    map[string]map[K]struct{}
	goneBy  map[K]string // unwanted pending key → its last owner; index of gone
	dumped  bool         // Refresh succeeded at least once
	prune   bool         // AllowPrune was called
	repairs uint64
	dumpErr error
}

type claim[V comparable] struct {
	owner string
	value V
}

// held is a row of the target, and the round in which Refresh saw it last.
type held[V comparable] struct {
	value V
	round uint64
}

// New returns a table for t, of which nothing is known yet and nothing wanted.
func New[K, V comparable](name string, t Target[K, V]) *Table[K, V] {
	return &Table[K, V]{
		name:    name,
		target:  t,
		owners:  map[string][]K{},
		want:    map[K][]claim[V]{},
		clash:   map[K]struct{}{},
		have:    map[K]held[V]{},
		pending: map[K]struct{}{},
		failed:  map[K]error{},
		gone:    map[string]map[K]struct{}{},
		goneBy:  map[K]string{},
	}
}

// Name returns the table's name.
func (t *Table[K, V]) Name() string { return t.name }

// AllowPrune says that all owners have spoken: from now on what nobody wants
// may be deleted.
func (t *Table[K, V]) AllowPrune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune = true
}

// Put says that owner wants exactly these rows; nil or empty: none. It only
// marks what changed. The map is not kept. Its cost follows the owner's rows.
func (t *Table[K, V]) Put(owner string, rows map[K]V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, kept := t.owners[owner], 0
	for _, k := range old {
		if _, ok := rows[k]; ok {
			kept++
		} else {
			t.drop(owner, k)
		}
	}
	for k, v := range rows {
		if was, ok := t.claimed(owner, k); !ok || was != v {
			t.claim(owner, k, v)
		}
	}
	switch {
	case len(rows) == 0:
		delete(t.owners, owner)
	case kept < len(old) || kept < len(rows):
		t.owners[owner] = slices.AppendSeq(make([]K, 0, len(rows)), maps.Keys(rows))
	}
}

// Wanted returns the row that is wanted for a key; ok is false if nobody wants one.
func (t *Table[K, V]) Wanted(k K) (v V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cs := t.want[k]; len(cs) > 0 {
		return cs[0].value, true
	}
	return v, false
}

// claimed is what owner wants k to be; ok is false if it does not want it.
func (t *Table[K, V]) claimed(owner string, k K) (v V, ok bool) {
	for _, c := range t.want[k] {
		if c.owner == owner {
			return c.value, true
		}
	}
	return v, false
}

// claim records that owner wants k to be v.
func (t *Table[K, V]) claim(owner string, k K, v V) {
	cs := t.want[k]
	i, found := slices.BinarySearchFunc(cs, owner, func(c claim[V], o string) int {
		switch {
		case c.owner < o:
			return -1
		case c.owner > o:
			return 1
		}
		return 0
	})
	if found {
		cs[i].value = v
	} else {
		cs = slices.Insert(cs, i, claim[V]{owner, v})
	}
	t.want[k] = cs
	t.mark(k)
}

// drop records that owner no longer wants k.
func (t *Table[K, V]) drop(owner string, k K) {
	cs := slices.DeleteFunc(t.want[k], func(c claim[V]) bool { return c.owner == owner })
	if len(cs) > 0 {
		t.want[k] = cs
		t.mark(k)
		return
	}
	delete(t.want, k)
	delete(t.clash, k)
	t.pending[k] = struct{}{}
	if t.gone[owner] == nil {
		t.gone[owner] = map[K]struct{}{}
	}
	t.gone[owner][k] = struct{}{}
	t.goneBy[k] = owner
}

// mark puts a wanted key where it belongs after its claims have changed.
func (t *Table[K, V]) mark(k K) {
	t.forgetGone(k)
	cs := t.want[k]
	delete(t.clash, k)
	for _, c := range cs[1:] {
		if c.value != cs[0].value {
			t.clash[k] = struct{}{}
		}
	}
	if h, ok := t.have[k]; ok && h.value == cs[0].value {
		t.settle(k)
		return
	}
	t.pending[k] = struct{}{}
}

// settle records that the target holds what is wanted of k.
func (t *Table[K, V]) settle(k K) {
	delete(t.pending, k)
	delete(t.failed, k)
	t.forgetGone(k)
}

func (t *Table[K, V]) forgetGone(k K) {
	owner, ok := t.goneBy[k]
	if !ok {
		return
	}
	delete(t.goneBy, k)
	delete(t.gone[owner], k)
	if len(t.gone[owner]) == 0 {
		delete(t.gone, owner)
	}
}

// Write sets what is wanted and not there. It goes on past rows that fail and
// returns their errors; they are tried again by the next Write.
func (t *Table[K, V]) Write() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.each(t.pending, t.set)
}

// WriteOwner is Write for the rows of one owner. Its cost follows their number.
func (t *Table[K, V]) WriteOwner(owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, k := range t.owners[owner] {
		errs = append(errs, t.set(k))
	}
	return t.join(errs)
}

// Prune deletes the rows of ours that nobody wants. Before AllowPrune it does
// nothing. It goes on past rows that fail, like Write.
func (t *Table[K, V]) Prune() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.prune {
		return nil
	}
	return t.each(t.pending, t.del)
}

// PruneOwner deletes the rows that owner was the last to want, which a Put has
// since withdrawn. It is allowed before AllowPrune: that the owner is gone is
// known, whatever the others will say.
func (t *Table[K, V]) PruneOwner(owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.each(t.gone[owner], t.del)
}

// each calls f for every key of set. f may remove the key from set.
func (t *Table[K, V]) each(set map[K]struct{}, f func(K) error) error {
	var errs []error
	for k := range set {
		errs = append(errs, f(k))
	}
	return t.join(errs)
}

// set writes k if it is pending and wanted.
func (t *Table[K, V]) set(k K) error {
	if _, ok := t.pending[k]; !ok {
		return nil
	}
	cs := t.want[k]
	if len(cs) == 0 {
		return nil
	}
	if err := t.target.Set(k, cs[0].value); err != nil {
		delete(t.have, k) // half written, or not: unknown
		t.failed[k] = err
		return err
	}
	t.have[k] = held[V]{cs[0].value, t.round}
	t.settle(k)
	return nil
}

// del deletes k if it is pending and unwanted. It does not trust have: before
// the first Refresh the row may be there without being known.
func (t *Table[K, V]) del(k K) error {
	if _, ok := t.pending[k]; !ok || len(t.want[k]) > 0 {
		return nil
	}
	if err := t.target.Delete(k); err != nil {
		t.failed[k] = err
		return err
	}
	delete(t.have, k)
	t.settle(k)
	return nil
}

// Stats returns the table's numbers and what is wrong with it.
func (t *Table[K, V]) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := []error{t.dumpErr}
	for _, err := range t.failed {
		errs = append(errs, err)
	}
	return Stats{Name: t.name, Rows: len(t.want), Repairs: t.repairs, Err: t.join(errs)}
}

// maxErrors bounds an error's text; the rest is counted.
const maxErrors = 8

func (t *Table[K, V]) join(errs []error) error { return join(t.name, errs) }

// join joins errors, in the order of their texts, with the table's name.
func join(table string, errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 0 {
		return nil
	}
	slices.SortFunc(errs, compareErrors)
	if n := len(errs) - maxErrors; n > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", n))
	}
	return fmt.Errorf("table %s: %w", table, errors.Join(errs...))
}
