package reconcile

const (
	// batchLeast is from how many rows on a [Batcher] is asked to set them together.
	batchLeast = 16
	// batchMost is how many it is given at once: enough that the call does not count.
	batchMost = 512
)

// setAll has b set rows, and calls done with the index of each and the error of its try. It
// goes on past rows that fail.
func setAll[K, V comparable](b Batcher[K, V], keys []K, values []V, done func(int, error)) {
	for at := 0; len(keys) > 0; {
		n, err := b.SetAll(keys, values)
		if err == nil {
			n = len(keys)
		}
		for range n {
			done(at, nil)
			at++
		}
		if keys, values = keys[n:], values[n:]; err != nil {
			done(at, err)
			at++
			keys, values = keys[1:], values[1:]
		}
	}
}

// writeBatches is Write by a [Batcher].
func (t *Table[K, V]) writeBatches(b Batcher[K, V], waits map[string]struct{}) (errs []error) {
	keys, values, rows := make([]K, 0, batchMost), make([]V, 0, batchMost), make([]*row[K, V], 0, batchMost)
	flush := func() {
		setAll(b, keys, values, func(i int, err error) {
			if err = t.wrote(rows[i], err); err != nil {
				errs = append(errs, err)
			}
		})
		keys, values, rows = keys[:0], values[:0], rows[:0]
	}
	for k := range t.pending {
		r := t.rows.get(k)
		if r == nil || t.waits(r, waits) {
			continue
		}
		keys, values, rows = append(keys, k), append(values, r.value), append(rows, r)
		if len(keys) == batchMost {
			flush()
		}
	}
	flush()
	return errs
}
