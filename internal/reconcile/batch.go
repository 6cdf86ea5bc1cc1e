package reconcile

const (
	// batchLeast is from how many rows on a [Batcher] is asked to set them together.
	batchLeast = 16
	// batchMost is how many it is given at once: enough that the call does not count.
	batchMost = 512
)

// setAll has b set rows, and calls done with each and the error of its try. It goes on
// past rows that fail.
func setAll[K, V comparable](b Batcher[K, V], keys []K, values []V, done func(K, error)) {
	for len(keys) > 0 {
		n, err := b.SetAll(keys, values)
		if err == nil {
			n = len(keys)
		}
		for _, k := range keys[:n] {
			done(k, nil)
		}
		if keys, values = keys[n:], values[n:]; err != nil {
			done(keys[0], err)
			keys, values = keys[1:], values[1:]
		}
	}
}

// writeBatches is Write by a [Batcher].
func (t *Table[K, V]) writeBatches(b Batcher[K, V]) (errs []error) {
	keys, values := make([]K, 0, batchMost), make([]V, 0, batchMost)
	flush := func() {
		setAll(b, keys, values, func(k K, err error) {
			if err = t.wrote(k, t.rows.get(k), err); err != nil {
				errs = append(errs, err)
			}
		})
		keys, values = keys[:0], values[:0]
	}
	for k := range t.pending {
		r := t.rows.get(k)
		if r == nil {
			continue
		}
		if keys, values = append(keys, k), append(values, r.value); len(keys) == batchMost {
			flush()
		}
	}
	flush()
	return errs
}
