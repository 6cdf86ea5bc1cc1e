package bpf

import (
	"fmt"
	"sync/atomic"
)

// BRIEF_WAYS in src/brief.h.
const briefWays = 8

// briefSets is how many sets of `brief` have room for so many rows.
func briefSets(rows uint32) uint32 { return max(1, rows/briefWays) }

// inBrief is the row of a tuple in `brief`, if it is there.
func (d *Datapath) inBrief(k *weftTuple) (weftFlow, bool, error) {
	m := d.maps[weftMapBrief]
	at, tag := homeOf(&d.tupleKeys, k, m.MaxEntries()-1)
	var set weftBriefSet
	if err := m.Lookup(&at, &set); err != nil {
		return weftFlow{}, false, fmt.Errorf("look up in map %s: %w", weftMapBrief, err)
	}
	for i, s := range set.Slot {
		if set.Tag[i] == tag && s.T == *k {
			return s.Row, true, nil
		}
	}
	return weftFlow{}, false, nil
}

// brief is the sets of `brief` as they are in the kernel, until done is called.
type brief struct {
	keys weftTupleKeys
	sets []weftBriefSet
	seed [2]uint32 // in a set more; zero: there is none yet
	done func()
}

func (d *Datapath) openBrief() (brief, error) {
	if err := d.repin(weftMapBrief); err != nil {
		return brief{}, err
	}
	all, done, err := mapped[weftBriefSet](d, weftMapBrief)
	if err != nil {
		return brief{}, err
	}
	last := &all[len(all)-1]
	return brief{d.tupleKeys, all[:len(all)-1], [2]uint32(last.Tag[:]), done}, nil
}

// scan tells f of every row. One that is written just then may be left out, or be told as it was.
func (b brief) scan(f func(*weftTuple, *weftFlow)) {
	for at := range b.sets {
		set := &b.sets[at]
		for i := range set.Slot {
			tag := atomic.LoadUint32(&set.Tag[i])
			if tag == 0 {
				continue
			}
			if s := set.Slot[i]; atomic.LoadUint32(&set.Tag[i]) == tag {
				f(&s.T, &s.Row)
			}
		}
	}
}

// find is the row of a tuple, if it is there, and what its tag is.
func (b brief) find(k *weftTuple) (row weftFlow, at *uint32, tag uint32) {
	n, tag := homeOf(&b.keys, k, uint32(len(b.sets)))
	set := &b.sets[n]
	for i := range set.Slot {
		at := &set.Tag[i]
		if atomic.LoadUint32(at) != tag {
			continue
		}
		if s := set.Slot[i]; s.T == *k && atomic.LoadUint32(at) == tag {
			return s.Row, at, tag
		}
	}
	return weftFlow{}, nil, 0
}

// drop removes the row of a tuple, if it is that one, and not of a flow that has begun since.
func (b brief) drop(k *weftTuple, was *weftFlow) {
	if v, at, tag := b.find(k); at != nil && v == *was {
		atomic.CompareAndSwapUint32(at, tag, 0)
	}
}

// scanBrief tells f of every row of `brief`.
func (d *Datapath) scanBrief(f func(*weftTuple, *weftFlow)) error {
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	b.scan(f)
	return nil
}
