package reconcile

import (
	"fmt"
	"sync"
)

// Flat keeps one [Target] at what a single owner wants, as [Table] does for many. It is
// for large numbers of rows: of a row that is as it is wanted it keeps the row and a byte.
// It locks itself.
//
// The invariant behind all of it: a key is in pending or in gone, or the target is believed
// to hold what is wanted of it.
type Flat[K, V comparable] struct {
	name   string
	target Target[K, V]

	mu      sync.Mutex
	rows    map[K]flatRow[V] // what is wanted
	pending map[K]struct{}   // of these, what is to be set
	gone    map[K]flatRow[V] // what is to be deleted; values are of no use
	failed  map[K]error      // of pending and gone, whose last try failed
	round   uint8            // of Refresh, never 0
	dumped  bool             // Refresh succeeded at least once
	prune   bool             // AllowPrune was called
	repairs uint64
	dumpErr error
}

// flatRow is a row, and the round in which Refresh saw it last.
type flatRow[V comparable] struct {
	value V
	round uint8
}

// NewFlat returns a table for t, of which nothing is known yet and nothing wanted.
func NewFlat[K, V comparable](name string, t Target[K, V]) *Flat[K, V] {
	return &Flat[K, V]{
		name: name, target: t, rows: map[K]flatRow[V]{}, pending: map[K]struct{}{},
		gone: map[K]flatRow[V]{}, failed: map[K]error{},
	}
}

// Name returns the table's name.
func (t *Flat[K, V]) Name() string { return t.name }

// AllowPrune says that all that is wanted has been said: from now on what is not may be
// deleted.
func (t *Flat[K, V]) AllowPrune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune = true
}

// Want says that a row is wanted. It only marks what changed.
func (t *Flat[K, V]) Want(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was, ok := t.rows[k]; ok && was.value == v {
		return
	}
	t.rows[k] = flatRow[V]{value: v}
	t.pending[k] = struct{}{}
	delete(t.gone, k)
	delete(t.failed, k)
}

// Unwant says that no row is wanted for a key.
func (t *Flat[K, V]) Unwant(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.rows[k]; !ok {
		return
	}
	delete(t.rows, k)
	delete(t.pending, k)
	delete(t.failed, k)
	t.gone[k] = flatRow[V]{}
}

// Wanted returns the row that is wanted for a key; ok is false if none is.
func (t *Flat[K, V]) Wanted(k K) (v V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[k]
	return r.value, ok
}

// Missing calls f with each key that is wanted and not, or not known to be, as it is
// wanted, and with the error of its last try; nil: there was none. f must not call t.
func (t *Flat[K, V]) Missing(f func(K, error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.pending {
		f(k, t.failed[k])
	}
}

// Write sets what is wanted and not there. It goes on past rows that fail and returns
// their errors; they are tried again by the next Write.
func (t *Flat[K, V]) Write() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for k := range t.pending {
		if err := t.target.Set(k, t.rows[k].value); err != nil {
			t.failed[k] = err
			errs = append(errs, err)
			continue
		}
		delete(t.pending, k)
		delete(t.failed, k)
	}
	return t.join(errs)
}

// Prune deletes the rows of ours that are not wanted. Before AllowPrune it does nothing.
// It goes on past rows that fail, like Write.
func (t *Flat[K, V]) Prune() error { return t.PruneBut(func(K) bool { return false }) }

// PruneBut is Prune, but for the rows that keep says; these are left to a later call. keep
// must not call t.
func (t *Flat[K, V]) PruneBut(keep func(K) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.prune {
		return nil
	}
	var errs []error
	for k := range t.gone {
		if keep(k) {
			continue
		}
		if err := t.target.Delete(k); err != nil {
			t.failed[k] = err
			errs = append(errs, err)
			continue
		}
		delete(t.gone, k)
		delete(t.failed, k)
	}
	return t.join(errs)
}

// Refresh reads the target and compares: what differs is repaired by the next Write and
// Prune. If it cannot be read to its end the table goes on with what it believed of the
// rows that it has not seen.
func (t *Flat[K, V]) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refresh()
}

// refresh is Refresh under mu.
func (t *Flat[K, V]) refresh() error {
	if t.round++; t.round == 0 {
		t.round = 1
	}
	if err := t.read(t.found); err != nil {
		t.dumpErr = fmt.Errorf("dump: %w", err)
		return t.join([]error{t.dumpErr})
	}
	t.dumpErr = nil
	for k, r := range t.rows {
		if r.round == t.round {
			continue
		}
		if _, known := t.pending[k]; !known {
			t.pending[k] = struct{}{}
			t.repairs++
		}
	}
	for k, r := range t.gone {
		if r.round != t.round { // it is not there after all
			delete(t.gone, k)
			delete(t.failed, k)
		}
	}
	t.dumped = true
	return nil
}

func (t *Flat[K, V]) read(f func(K, V)) error {
	if r, ok := t.target.(Ranger[K, V]); ok {
		return r.Range(f)
	}
	rows, err := t.target.Dump()
	for k, v := range rows {
		if err == nil {
			f(k, v)
		}
	}
	return err
}

// found takes note of what the target really holds under k, and counts a repair if it is
// not what was believed. What the first Refresh finds that is not wanted is a former
// life's, not damage.
func (t *Flat[K, V]) found(k K, v V) {
	r, wanted := t.rows[k]
	if !wanted {
		if _, known := t.gone[k]; !known && t.dumped {
			t.repairs++
		}
		t.gone[k] = flatRow[V]{round: t.round}
		return
	}
	if r.round != t.round {
		r.round = t.round
		t.rows[k] = r
	}
	_, known := t.pending[k]
	switch {
	case r.value == v:
		delete(t.pending, k)
		delete(t.failed, k)
	case !known:
		t.pending[k] = struct{}{}
		t.repairs++
	}
}

// Stats returns the table's numbers and what is wrong with it.
func (t *Flat[K, V]) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := []error{t.dumpErr}
	for _, err := range t.failed {
		errs = append(errs, err)
	}
	return Stats{Name: t.name, Rows: len(t.rows), Repairs: t.repairs, Err: t.join(errs), Unread: t.dumpErr != nil}
}

func (t *Flat[K, V]) join(errs []error) error { return join(t.name, errs) }
