package reconcile

import (
	"errors"
	"iter"
	"maps"
	"sync"
)

// fake is a target in memory.
type fake struct {
	mu      sync.Mutex
	rows    map[int]string
	fail    map[int]error // Set and Delete of these keys fail
	half    bool          // a failing Set takes effect all the same
	dumpErr error
	dumps   int
	sets    []int
	deletes []int
}

var errFake = errors.New("no room")

func newFake() *fake {
	return &fake{rows: map[int]string{}, fail: map[int]error{}}
}

func (f *fake) Dump() (map[int]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumps++
	return maps.Clone(f.rows), f.dumpErr
}

func (f *fake) Set(k int, v string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets = append(f.sets, k)
	if err := f.fail[k]; err != nil {
		if f.half {
			f.rows[k] = v
		}
		return err
	}
	f.rows[k] = v
	return nil
}

func (f *fake) Delete(k int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deletes = append(f.deletes, k)
	if err := f.fail[k]; err != nil {
		return err
	}
	delete(f.rows, k)
	return nil
}

// takeSets returns the keys set since the last call.
func (f *fake) takeSets() int {
	n := len(f.sets)
	f.sets = nil
	return n
}

// getter is a fake that can read single rows.
type getter struct {
	*fake
	gets int
}

func (g *getter) Get(k int) (string, bool, error) {
	g.gets++
	v, ok := g.rows[k]
	return v, ok, nil
}

// ranger is a fake that tells its rows one by one: some twice, first with a value that
// is old, and with dumpErr only the first.
type ranger struct{ *fake }

func (r ranger) Range(f func(int, string)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dumps++
	for k, v := range r.rows {
		if k%3 == 0 {
			f(k, "old")
		}
		f(k, v)
		if k%2 == 0 {
			f(k, v)
		}
		if r.dumpErr != nil {
			break
		}
	}
	return r.dumpErr
}

func (r ranger) Dump() (map[int]string, error) { return nil, errors.New("Range is there to be used") }

// batcher is a fake that can set many rows at once.
type batcher struct {
	*fake
	most int // rows in one call; guarded by fake.mu
}

func (b *batcher) SetAll(keys []int, values []string) (int, error) {
	b.mu.Lock()
	b.most = max(b.most, len(keys))
	b.mu.Unlock()
	for i, k := range keys {
		if err := b.Set(k, values[i]); err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

// checker is a fake that can tell whether it holds rows.
type checker struct {
	*fake
	silent bool // does not tell how many
	err    error
	asked  map[int]int // how often, by key
}

func (c *checker) Holds(rows iter.Seq2[int, string]) (bool, error) {
	all := true
	for k, v := range rows {
		if c.asked != nil {
			c.asked[k]++
		}
		is, ok := c.rows[k]
		all = all && ok && is == v
	}
	return all, c.err
}

func (c *checker) Count() (int, bool, error) { return len(c.rows), !c.silent, nil }
