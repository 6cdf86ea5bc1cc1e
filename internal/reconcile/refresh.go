package reconcile

import (
	"fmt"
	"strings"
)

// Refresh reads the target and compares: what differs is repaired by the next
// Write and Prune. If it cannot be read to its end the table goes on with what it
// believed of the rows that it has not seen.
func (t *Table[K, V]) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refresh()
}

// refresh is Refresh under mu.
func (t *Table[K, V]) refresh() error {
	t.round++
	err := t.read(func(k K, v V) {
		r := t.rows.get(k)
		if _, pending := t.pending[k]; r == nil || pending || r.value != v {
			t.found(k, v, true)
			return
		}
		r.round = t.round // all is as it was
	})
	if err != nil {
		t.dumpErr = fmt.Errorf("dump: %w", err)
		return t.join([]error{t.dumpErr})
	}
	t.dumpErr = nil
	for k, h := range t.have { // what vanished
		if h.round != t.round {
			t.found(k, *new(V), false)
		}
	}
	t.rows.all(func(r *row[K, V]) {
		if _, pending := t.pending[r.key]; !pending && r.round != t.round && !t.names[r.owner].leaving {
			t.found(r.key, *new(V), false)
		}
	})
	for k := range t.goneBy { // what nobody wants and is not there after all
		if _, held := t.have[k]; !held {
			t.settle(k)
		}
	}
	t.dumped = true
	return nil
}

// Leaving says whether what an owner's rows hang on is about to go, a device with its filters
// say, before the owner gives them up: what Refresh misses of them meanwhile nobody has damaged,
// and it is not written again. It counts until the owner has no rows.
func (t *Table[K, V]) Leaving(owner string, leaving bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.owners[owner]; o != nil {
		o.leaving = leaving
	}
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
	o := t.owners[owner]
	if o == nil {
		return nil
	}
	get, ok := t.target.(Getter[K, V])
	var errs []error
	for _, place := range o.keys {
		k := t.rows.at(place).key
		if !ok {
			delete(t.have, k)
			t.await(k)
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
	r := t.rows.get(k)
	switch {
	case r != nil && there && v == r.value:
		r.round = t.round
		t.settle(k)
		return
	case r == nil && !there:
		t.settle(k)
		return
	}
	// Wrong, missing or left over. If that was known already it is no news; and
	// what the first dump finds unwanted is a former life's, not damage.
	if !pending && (r != nil || t.dumped) {
		t.repairs++
	}
	if there {
		t.have[k] = held[V]{v, t.round}
	} else {
		delete(t.have, k)
	}
	t.await(k)
}

func compareErrors(a, b error) int { return strings.Compare(a.Error(), b.Error()) }
