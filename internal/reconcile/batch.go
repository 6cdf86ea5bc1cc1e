package reconcile

import "sync"

const (
	// batchLeast is from how many rows on a [Batcher] is asked to set them together.
	batchLeast = 16
	// batchMost is how many it is given at once: enough that the call does not count.
	batchMost = 512
	// batchesMost is how many batches are on their way at once. While the target sets them
	// the next is gathered, and the former is settled.
	batchesMost = 2
)

// batch is rows that are set together.
type batch[K, V comparable] struct {
	keys   []K
	values []V
	rows   []*row[K, V]
	errs   []error // why a row is not set; nil: it is
}

func newBatch[K, V comparable]() *batch[K, V] {
	return &batch[K, V]{
		keys: make([]K, 0, batchMost), values: make([]V, 0, batchMost),
		rows: make([]*row[K, V], 0, batchMost), errs: make([]error, 0, batchMost),
	}
}

func (x *batch[K, V]) add(r *row[K, V]) {
	x.keys, x.values, x.rows = append(x.keys, r.key), append(x.values, r.value), append(x.rows, r)
}

// set has b set the rows. It goes on past rows that fail.
func (x *batch[K, V]) set(b Batcher[K, V]) {
	for at := 0; at < len(x.keys); {
		n, err := b.SetAll(x.keys[at:], x.values[at:])
		if err == nil {
			n = len(x.keys) - at
		}
		for range n {
			x.errs = append(x.errs, nil)
		}
		if at += n; err != nil {
			x.errs = append(x.errs, err)
			at++
		}
	}
}

// clear makes the batch empty.
func (x *batch[K, V]) clear() {
	x.keys, x.values, x.rows, x.errs = x.keys[:0], x.values[:0], x.rows[:0], x.errs[:0]
}

// writeBatches is Write by a [Batcher].
func (t *Table[K, V]) writeBatches(b Batcher[K, V], waits map[string]struct{}) (errs []error) {
	full, done := make(chan *batch[K, V]), make(chan *batch[K, V], batchesMost)
	var setters sync.WaitGroup
	for range min(batchesMost, len(t.pending)/batchMost) {
		done <- newBatch[K, V]()
		setters.Go(func() {
			for x := range full {
				x.set(b)
				done <- x
			}
		})
	}
	settle := func(x *batch[K, V]) {
		for i, err := range x.errs {
			if err = t.wrote(x.rows[i], err); err != nil {
				errs = append(errs, err)
			}
		}
		x.clear()
	}
	x := newBatch[K, V]()
	for k := range t.pending {
		r := t.rows.get(k)
		if r == nil || t.waits(r, waits) {
			continue
		}
		if x.add(r); len(x.rows) == batchMost {
			full <- x
			x = <-done
			settle(x)
		}
	}
	close(full)
	x.set(b)
	settle(x)
	setters.Wait()
	close(done)
	for x := range done {
		settle(x)
	}
	return errs
}
