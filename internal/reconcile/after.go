package reconcile

// Unwritten is a [Table] of whatever row type, as others depend on it.
type Unwritten interface {
	// Unwritten is the owners of rows whose last try to be set failed; nil: none.
	Unwritten() map[string]struct{}
}

// After says that what an owner wants here refers to rows of its in other tables. While some
// of those cannot be set, for want of room perhaps, its rows here stay as they are. It is
// called before anything is put.
func (t *Table[K, V]) After(others ...Unwritten) { t.after = others }

// HoldFor says that rows here are referred to by rows that are after others: what an owner
// does not want any more stays while some of its rows in these tables cannot be set, as what
// refers to it stays. It is called before anything is put.
func (t *Table[K, V]) HoldFor(others ...Unwritten) { t.holdFor = others }

// Unwritten is the owners of rows whose last try to be set failed; nil: none.
func (t *Table[K, V]) Unwritten() (names map[string]struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.failed {
		if r := t.rows.get(k); r != nil {
			if names == nil {
				names = map[string]struct{}{}
			}
			names[t.names[r.owner].name] = struct{}{}
		}
	}
	return names
}

// waiting is the owners that have unwritten rows. No table's lock is held: two tables may ask
// each other.
func waiting(others []Unwritten) (names map[string]struct{}) {
	for _, o := range others {
		for name := range o.Unwritten() {
			if names == nil {
				names = map[string]struct{}{}
			}
			names[name] = struct{}{}
		}
	}
	return names
}

// waits says whether a row's owner is one of those that wait.
func (t *Table[K, V]) waits(r *row[K, V], owners map[string]struct{}) bool {
	if len(owners) == 0 {
		return false
	}
	_, wait := owners[t.names[r.owner].name]
	return wait
}
