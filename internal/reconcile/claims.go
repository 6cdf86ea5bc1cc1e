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
		o = &owner[K]{name: name}
	}
	for _, k := range o.keys {
		if _, ok := rows[k]; ok {
			kept++
		} else {
			t.drop(o, k)
		}
	}
	for k, v := range rows {
		if was, ok := t.claimed(o, k); !ok || was != v {
			t.claim(o, k, v)
		}
	}
	switch {
	case len(rows) == 0:
		delete(t.owners, name)
		return
	case kept < len(o.keys) || kept < len(rows):
		o.keys = make([]K, 0, len(rows))
		for k := range rows {
			o.keys = append(o.keys, k)
		}
	}
	t.owners[name] = o
}

// claimed is what o wants k to be; ok is false if it does not want it.
func (t *Table[K, V]) claimed(o *owner[K], k K) (v V, ok bool) {
	r, there := t.rows[k]
	switch {
	case !there:
		return v, false
	case r.owner == o:
		return r.value, true
	}
	for _, c := range t.shared[k] {
		if c.owner == o {
			return c.value, true
		}
	}
	return v, false
}

// claim records that o wants k to be v.
func (t *Table[K, V]) claim(o *owner[K], k K, v V) {
	cs := t.shared[k]
	if cs == nil {
		r, there := t.rows[k]
		if !there || r.owner == o {
			t.enforce(k, claim[K, V]{o, v})
			return
		}
		cs = []claim[K, V]{{r.owner, r.value}}
	}
	i, found := slices.BinarySearchFunc(cs, o.name, func(c claim[K, V], name string) int { return cmp.Compare(c.owner.name, name) })
	if found {
		cs[i].value = v
	} else {
		cs = slices.Insert(cs, i, claim[K, V]{o, v})
	}
	t.share(k, cs)
}

// drop records that o no longer wants k.
func (t *Table[K, V]) drop(o *owner[K], k K) {
	if cs := t.shared[k]; cs != nil {
		t.share(k, slices.DeleteFunc(cs, func(c claim[K, V]) bool { return c.owner == o }))
		return
	}
	t.unsettle(k)
	delete(t.rows, k)
	t.await(k)
	if t.gone[o.name] == nil {
		t.gone[o.name] = map[K]struct{}{}
	}
	t.gone[o.name][k] = struct{}{}
	t.goneBy[k] = o.name
}

// share records the claims of a key that has or had several.
func (t *Table[K, V]) share(k K, cs []claim[K, V]) {
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
	t.enforce(k, cs[0])
}

// unsettle moves what the target is believed to hold of a row that is as it is wanted to
// where it is kept of a pending one.
func (t *Table[K, V]) unsettle(k K) {
	r, wanted := t.rows[k]
	if _, pending := t.pending[k]; wanted && !pending {
		t.have[k] = held[V]{r.value, r.round}
	}
}

// enforce makes a claim the row that is in force.
func (t *Table[K, V]) enforce(k K, c claim[K, V]) {
	t.unsettle(k)
	t.forgetGone(k)
	h, held := t.have[k]
	t.rows[k] = row[K, V]{c.value, c.owner, h.round}
	if held && h.value == c.value {
		t.settle(k)
		return
	}
	t.await(k)
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
