package bpf

import (
	"fmt"
	"sync/atomic"
)

// ALLOWED_WAYS in src/allowednew.h.
const allowedWays = 8

// allowedSets is how many sets of `allowed_new` have room for so many rows.
func allowedSets(rows uint32) uint32 { return max(1, rows/allowedWays) }

// inAllowedNew is the row of a flow in `allowed_new`, if it has one there.
func (d *Datapath) inAllowedNew(k *weftTuple) (weftAllowed, bool, error) {
	m := d.maps[weftMapAllowedNew]
	at, tag := homeOf(&d.tupleKeys, k, m.MaxEntries()-1)
	var set weftAllowedSet
	if err := m.Lookup(&at, &set); err != nil {
		return weftAllowed{}, false, fmt.Errorf("look up in map %s: %w", weftMapAllowedNew, err)
	}
	for i, s := range set.Slot {
		if set.Tag[i] == tag && s.T == *k {
			return s.Row, true, nil
		}
	}
	return weftAllowed{}, false, nil
}

// scanAllowedNew tells f of every row of `allowed_new`. One that is written just then may be
// left out, or be told as it was.
func (d *Datapath) scanAllowedNew(f func(*weftTuple, *weftAllowed)) error {
	if err := d.repin(weftMapAllowedNew); err != nil {
		return err
	}
	all, done, err := mapped[weftAllowedSet](d, weftMapAllowedNew)
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
