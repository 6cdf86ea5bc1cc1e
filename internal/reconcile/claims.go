package reconcile

import (
	"cmp"
	"fmt"
	"slices"
)

// Put says that owner wants exactly these rows; nil or empty: none. It only
// marks what changed. The map is not kept. Its cost follows the owner's rows.
func (t *Table[K, V]) Put(name string, rows map[K]V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, kept := t.owners[name], 0
	if o == nil {
		if len(rows) == 0 {
			return
		}
		o = t.newOwner(name)
	}
	for _, place := range o.keys {
		k := t.rows.at(place).key
		if _, ok := rows[k]; ok {
			kept++
		} else {
			t.drop(o, k)
		}
	}
	if len(rows) == 0 {
		t.freeOwner(o)
		return
	}
	if kept < len(o.keys) || kept < len(rows) {
		o.keys = make([]uint32, 0, len(rows))
	} else {
		o.keys = o.keys[:0]
	}
	for k, v := range rows {
		place, there := t.rows.place(k)
		if !there {
			place = t.enforce(k, claim[V]{o, v})
		} else if was, ok := t.claimed(o, t.rows.at(place)); !ok || was != v {
			t.claim(o, t.rows.at(place), v)
		}
		o.keys = append(o.keys, place)
	}
}

func (t *Table[K, V]) newOwner(name string) *owner {
	o := &owner{name: name, id: uint32(len(t.names))}
	if n := len(t.freeIDs); n > 0 {
		o.id, t.freeIDs = t.freeIDs[n-1], t.freeIDs[:n-1]
		t.names[o.id] = o
	} else {
		t.names = append(t.names, o)
	}
	t.owners[name] = o
	return o
}

// freeOwner forgets an owner that has no rows any more.
func (t *Table[K, V]) freeOwner(o *owner) {
	delete(t.owners, o.name)
	t.names[o.id] = nil
	t.freeIDs = append(t.freeIDs, o.id)
}

// claimed is what o wants of a row's key; ok is false if it does not want it.
func (t *Table[K, V]) claimed(o *owner, r *row[K, V]) (v V, ok bool) {
	if r.owner == o.id {
		return r.value, true
	}
	for _, c := range t.shared[r.key] {
		if c.owner == o {
			return c.value, true
		}
	}
	return v, false
}

// claim records that o wants v of the key of a row that there is.
func (t *Table[K, V]) claim(o *owner, r *row[K, V], v V) {
	cs := t.shared[r.key]
	if cs == nil {
		if r.owner == o.id {
			t.unsettle(r)
			t.enforce(r.key, claim[V]{o, v})
			return
		}
		cs = []claim[V]{{t.names[r.owner], r.value}}
	}
	cs = slices.DeleteFunc(cs, func(c claim[V]) bool { return c.owner == o })
	i, _ := slices.BinarySearchFunc(cs, claim[V]{o, v}, t.compareClaims)
	t.share(r, slices.Insert(cs, i, claim[V]{o, v}))
}

// compareClaims says which of two claims of a key is in force.
func (t *Table[K, V]) compareClaims(a, b claim[V]) int {
	by := 0
	if t.prefer != nil {
		by = t.prefer(a.value, b.value)
	}
	return cmp.Or(by, cmp.Compare(a.owner.name, b.owner.name))
}

// drop records that o no longer wants k.
func (t *Table[K, V]) drop(o *owner, k K) {
	r := t.rows.get(k)
	if cs := t.shared[k]; cs != nil {
		t.share(r, slices.DeleteFunc(cs, func(c claim[V]) bool { return c.owner == o }))
		if _, pending := t.pending[k]; pending {
			t.left[o.name] = append(t.left[o.name], k)
		}
		return
	}
	t.unsettle(r)
	t.rows.remove(k)
	t.await(k)
	if t.gone[o.name] == nil {
		t.gone[o.name] = map[K]struct{}{}
	}
	t.gone[o.name][k] = struct{}{}
	t.goneBy[k] = o.name
}

// share records the claims of the key of a row, which has or had several.
func (t *Table[K, V]) share(r *row[K, V], cs []claim[V]) {
	k := r.key
	delete(t.clash, k)
	if len(cs) > 1 {
		t.shared[k] = cs
	} else {
		delete(t.shared, k)
	}
	for _, c := range cs[1:] {
		if c.value != cs[0].value {
			t.clash[k] = struct{}{}
		}
	}
	t.unsettle(r)
	t.enforce(k, cs[0])
}

// unsettle moves what the target is believed to hold of a row that is as it is wanted to
// where it is kept of a pending one. What is wanted of it is about to change.
func (t *Table[K, V]) unsettle(r *row[K, V]) {
	if _, pending := t.pending[r.key]; !pending {
		t.have[r.key] = held[V]{r.value, r.round}
	}
}

// enforce makes a claim the row that is in force, and returns its place. If there is a row,
// unsettle was called.
func (t *Table[K, V]) enforce(k K, c claim[V]) (place uint32) {
	t.forgetGone(k)
	h, held := t.have[k]
	place = t.rows.put(row[K, V]{k, c.value, c.owner.id, h.round})
	if held && h.value == c.value {
		t.settle(k)
	} else {
		t.await(k)
	}
	return place
}

// Conflicts returns the keys that owners disagree about, in the order of key
// and loser. One key with n losers gives n conflicts.
func (t *Table[K, V]) Conflicts() []Conflict {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Conflict
	for k := range t.clash {
		cs := t.shared[k]
		for _, c := range cs[1:] {
			if c.value != cs[0].value {
				out = append(out, Conflict{Table: t.name, Key: fmt.Sprint(k), Winner: cs[0].owner.name, Loser: c.owner.name})
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Loser, b.Loser))
	})
	return out
}
