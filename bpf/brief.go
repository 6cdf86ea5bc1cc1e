package bpf

import (
	"fmt"
	"sync/atomic"
)

// BRIEF_WAYS in src/brief.h.
const briefWays = 8

// briefSets is how many sets of `brief` have room for so many rows.
func briefSets(rows uint32) uint32 { return max(1, rows/briefWays) }

// inBrief is the row of a new flow, if it is there.
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

// scanBrief tells f of every row of `brief`. One that is written just then may be left out.
func (d *Datapath) scanBrief(f func(*weftTuple, *weftFlow)) error {
	if err := d.repin(weftMapBrief); err != nil {
		return err
	}
	all, done, err := mapped[weftBriefSet](d, weftMapBrief)
	if err != nil {
		return err
	}
	defer done()
	for at := range all[:len(all)-1] { // without the seed
		set := &all[at]
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
	return nil
}
