package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Table keeps one [Target] at what its owners want. It locks itself.
//
// The invariant behind all of it: a key is in pending, or the target is
// believed to hold what is wanted of it. Of a row that is as it is wanted, and that one
// owner wants, it keeps the row once: there may be hundreds of thousands.
type Table[K, V comparable] struct {
	name   string
	target Target[K, V]

	after, holdFor []Unwritten
	prefer         func(a, b V) int // see Prefer; nil: all values are alike

	mu      sync.Mutex
	owners  map[string]*owner
	names   []*owner         // by owner.id; nil: free
	freeIDs []uint32         // of names
	rows    store[K, V]      // what is in force: of several owners the first claim's
	shared  map[K][]claim[V] // all claims of the keys that have several, the best first
	clash   map[K]struct{}   // of these, keys whose claims differ
	round   uint32           // of Refresh
	next    uint32           // place in rows after which Check goes on
	pending map[K]struct{}   // keys to be set, or deleted if nobody wants them
	peak    int              // the most keys that were in pending
	have    map[K]held[V]    // of these, what the target is believed to hold
	failed  map[K]error      // pending keys whose last try failed
	gone    map[string]map[K]struct{}
	goneBy  map[K]string   // unwanted pending key → its last owner; index of gone
	left    map[string][]K // by owner: keys that it left to another since the last WriteOwner
	dumped  bool           // Refresh succeeded at least once
	prune   bool           // AllowPrune was called
	repairs uint64
	dumpErr error
}

// owner is who wants rows.
type owner struct {
	name string
	id   uint32   // index in Table.names
	keys []uint32 // places of its rows in Table.rows
	// leaving: see [Table.Leaving].
	leaving bool
}

type claim[V comparable] struct {
	owner *owner
	value V
}

// held is a row of the target, and the round in which Refresh saw it last.
type held[V comparable] struct {
	value V
	round uint32
}

// New returns a table for t, of which nothing is known yet and nothing wanted.
func New[K, V comparable](name string, t Target[K, V]) *Table[K, V] {
	return &Table[K, V]{
		name:    name,
		target:  t,
		owners:  map[string]*owner{},
		names:   make([]*owner, 1),
		rows:    newStore[K, V](),
		shared:  map[K][]claim[V]{},
		clash:   map[K]struct{}{},
		pending: map[K]struct{}{},
		have:    map[K]held[V]{},
		failed:  map[K]error{},
		gone:    map[string]map[K]struct{}{},
		goneBy:  map[K]string{},
		left:    map[string][]K{},
	}
}

// Name returns the table's name.
func (t *Table[K, V]) Name() string { return t.name }

// Prefer says which of two values comes first, as cmp.Compare does, if several owners want a
// key; if it says of none, and without it, the owner with the smallest name has its way. It is
// called before anything is put.
func (t *Table[K, V]) Prefer(compare func(a, b V) int) { t.prefer = compare }

// AllowPrune says that all owners have spoken: from now on what nobody wants
// may be deleted.
func (t *Table[K, V]) AllowPrune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune = true
}

// Wanted returns the row that is wanted for a key; ok is false if nobody wants one.
func (t *Table[K, V]) Wanted(k K) (v V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows.get(k)
	if r == nil {
		return v, false
	}
	return r.value, true
}

// settle records that the target holds what is wanted of k.
func (t *Table[K, V]) settle(k K) {
	delete(t.pending, k)
	delete(t.have, k)
	delete(t.failed, k)
	t.forgetGone(k)
}

// await puts k into pending.
func (t *Table[K, V]) await(k K) {
	t.pending[k] = struct{}{}
	t.peak = max(t.peak, len(t.pending))
}

// bigPeak is how many keys pending may have had before its room is given back.
const bigPeak = 1024

// rest gives back the room of what is not pending any more: a map keeps what it had at
// its greatest, which is all rows at the start.
func (t *Table[K, V]) rest() {
	if len(t.pending) > 0 || t.peak < bigPeak {
		return
	}
	t.pending, t.have, t.failed, t.peak = map[K]struct{}{}, map[K]held[V]{}, map[K]error{}, 0
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
	waits := waiting(t.after)
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.rest()
	clear(t.left)
	if b, ok := t.target.(Batcher[K, V]); ok && len(t.pending) >= batchLeast {
		return t.join(t.writeBatches(b, waits))
	}
	return t.each(t.pending, func(k K) error { return t.set(k, waits) })
}

// WriteOwner is Write for the rows of one owner, and for those that are another's since it
// does not want them any more. Its cost follows their number.
func (t *Table[K, V]) WriteOwner(owner string) error {
	waits := waiting(t.after)
	t.mu.Lock()
	defer t.mu.Unlock()
	left := t.left[owner]
	delete(t.left, owner)
	if len(t.pending) == 0 {
		return nil
	}
	var errs []error
	set := func(k K) {
		if err := t.set(k, waits); err != nil {
			errs = append(errs, err)
		}
	}
	for _, k := range left {
		set(k)
	}
	if o := t.owners[owner]; o != nil {
		for _, place := range o.keys {
			set(t.rows.at(place).key)
		}
	}
	t.rest()
	return t.join(errs)
}

// Prune deletes the rows of ours that nobody wants. Before AllowPrune it does
// nothing. It goes on past rows that fail, like Write.
func (t *Table[K, V]) Prune() error {
	waits := waiting(t.holdFor)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.prune {
		return nil
	}
	defer t.rest()
	return t.each(t.pending, func(k K) error {
		if _, wait := waits[t.goneBy[k]]; wait {
			return nil
		}
		return t.del(k)
	})
}

// PruneOwner deletes the rows that owner was the last to want, which a Put has
// since withdrawn. It is allowed before AllowPrune: that the owner is gone is
// known, whatever the others will say.
func (t *Table[K, V]) PruneOwner(owner string) error {
	if _, wait := waiting(t.holdFor)[owner]; wait {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.each(t.gone[owner], t.del)
}

// each calls f for every key of set. f may remove the key from set.
func (t *Table[K, V]) each(set map[K]struct{}, f func(K) error) error {
	var errs []error
	for k := range set {
		if err := f(k); err != nil {
			errs = append(errs, err)
		}
	}
	return t.join(errs)
}

// set writes k if it is pending and wanted, and its owner need not wait.
func (t *Table[K, V]) set(k K, waits map[string]struct{}) error {
	if _, ok := t.pending[k]; !ok {
		return nil
	}
	r := t.rows.get(k)
	if r == nil || t.waits(r, waits) {
		return nil
	}
	return t.wrote(r, t.target.Set(k, r.value))
}

// wrote records that the row was set, or why not; it returns err.
func (t *Table[K, V]) wrote(r *row[K, V], err error) error {
	if err != nil {
		delete(t.have, r.key) // half written, or not: unknown
		t.failed[r.key] = err
		return err
	}
	r.round = t.round
	t.settle(r.key)
	return nil
}

// del deletes k if it is pending and unwanted. It does not trust have: before
// the first Refresh the row may be there without being known.
func (t *Table[K, V]) del(k K) error {
	if _, ok := t.pending[k]; !ok {
		return nil
	}
	if t.rows.get(k) != nil {
		return nil
	}
	if err := t.target.Delete(k); err != nil {
		t.failed[k] = err
		return err
	}
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
	return Stats{Name: t.name, Rows: t.rows.count, Repairs: t.repairs, Err: t.join(errs), Unread: t.dumpErr != nil}
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
