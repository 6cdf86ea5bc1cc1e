package reconcile

import "iter"

// checkMost is how many rows a Check asks about: of the largest tables that we know, Services'
// with hundreds of thousands, all would take a hundred milliseconds.
const checkMost = 8192

// Check looks whether the target holds what it is believed to hold, and only if not does what
// Refresh does. Of a table with more than checkMost rows each call looks at as many, those that
// come after the ones of the call before; but a row that is missing, or too many, is missed at
// once where the target counts them. If whole is true all rows are looked at, of such a table, and
// where nobody counts, by Refresh. So are those of targets that are no [Checker].
func (t *Table[K, V]) Check(whole bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.target.(Checker[K, V])
	if ok && t.dumped && t.dumpErr == nil && !(whole && t.rows.count+len(t.have) > checkMost) {
		held := t.rows.count + len(t.have)
		for k := range t.pending {
			if t.rows.get(k) != nil {
				held--
			}
		}
		for k := range t.failed { // it may be there as it was, or not
			if _, known := t.have[k]; !known {
				held = uncounted
				break
			}
		}
		if asBelieved(c, held, t.believed, whole) {
			return nil
		}
	}
	return t.refresh()
}

// believed is rows that the target is believed to hold: at most checkMost of those that are
// pending, and as many of the others. Pending may be all that a former daemon left.
func (t *Table[K, V]) believed(yield func(K, V) bool) {
	left := checkMost
	for k, h := range t.have {
		if left--; left < 0 {
			break
		}
		if !yield(k, h.value) {
			return
		}
	}
	left = checkMost
	for range t.rows.used {
		if t.next++; t.next >= t.rows.used {
			t.next = 0
		}
		r := t.rows.at(t.next)
		if _, pending := t.pending[r.key]; r.owner == 0 || pending {
			continue
		}
		if left--; left < 0 || !yield(r.key, r.value) {
			t.next--
			return
		}
	}
}

// Check is that of [Table], but of a large table it looks at rows that chance chooses, and while
// rows are to be set or deleted it does not count.
func (t *Flat[K, V]) Check(whole bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.target.(Checker[K, V])
	count := len(t.rows)
	if len(t.pending)+len(t.gone) > 0 { // what is there of those is not known
		count = uncounted
	}
	if ok && t.dumped && t.dumpErr == nil && !(whole && len(t.rows) > checkMost) {
		if asBelieved(c, count, t.believed, whole) {
			return nil
		}
	}
	return t.refresh()
}

// believed is what that of [Table] is.
func (t *Flat[K, V]) believed(yield func(K, V) bool) {
	left := checkMost
	for k, r := range t.rows {
		if _, pending := t.pending[k]; pending {
			continue
		}
		if left--; left < 0 || !yield(k, r.value) {
			return
		}
	}
}

const uncounted = -1

// asBelieved says whether a target has so many rows, and these; if it cannot count them, that is
// true for a check that is not whole. What it cannot tell is for Refresh to find.
func asBelieved[K, V comparable](c Checker[K, V], count int, rows iter.Seq2[K, V], whole bool) bool {
	if count == uncounted && whole {
		return false
	}
	if count != uncounted {
		n, ok, err := c.Count()
		if err != nil || ok && n != count || !ok && whole {
			return false
		}
	}
	ok, err := c.Holds(rows)
	return err == nil && ok
}
