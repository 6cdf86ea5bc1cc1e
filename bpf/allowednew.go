package bpf

import (
	"crypto/rand"
	"fmt"

	"github.com/cilium/ebpf"
)

// ALLOWED_WAYS in src/allowednew.h.
const allowedWays = 8

// allowedSets is how many sets of `allowed_new` have room for so many rows.
func allowedSets(rows uint32) uint32 { return max(1, rows/allowedWays) }

// seedAllowed gives the programs that are to be loaded the seed by which rows are found in
// `allowed_new`. It is of the map, so that programs of another layout find them, too.
func (d *Datapath) seedAllowed(spec *ebpf.CollectionSpec) error {
	m := d.maps[weftMapAllowedNew]
	last := m.MaxEntries() - 1
	var set weftAllowedSet
	if err := m.Lookup(&last, &set); err != nil {
		return fmt.Errorf("read seed of allowed flows: %w", err)
	}
	if set.Tag[0] == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		set.Tag[0], set.Tag[1] = native.Uint32(b[:4])|1, native.Uint32(b[4:])
		if err := m.Put(&last, &set); err != nil {
			return fmt.Errorf("write seed of allowed flows: %w", err)
		}
	}
	d.allowedSeed = uint64(set.Tag[0])<<32 | uint64(set.Tag[1])
	if err := spec.Variables[weftVarAllowedSeed].Set(d.allowedSeed); err != nil {
		return fmt.Errorf("set seed of allowed flows: %w", err)
	}
	return nil
}

// homeOf is home_of in src/allowednew.h: the set of a flow and its tag there.
func (d *Datapath) homeOf(k *weftTuple) (set, tag uint32) {
	src0, src1 := words(k.Src)
	dst0, dst1 := words(k.Dst)
	h := mix(mix(d.allowedSeed, src0), src1)
	h = mix(mix(h, dst0), dst1)
	h = mix(h, uint64(k.Sport)|uint64(k.Dport)<<16|uint64(k.Proto)<<32)
	return uint32((h >> 32) * uint64(d.maps[weftMapAllowedNew].MaxEntries()-1) >> 32), uint32(h) | 1
}

// inAllowedNew is the row of a flow in `allowed_new`, if it has one there.
func (d *Datapath) inAllowedNew(k *weftTuple) (weftAllowed, bool, error) {
	at, tag := d.homeOf(k)
	var set weftAllowedSet
	if err := d.maps[weftMapAllowedNew].Lookup(&at, &set); err != nil {
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
	sets := d.maps[weftMapAllowedNew].MaxEntries() - 1
	return scan(d, weftMapAllowedNew, func(at *uint32, set *weftAllowedSet) {
		for i := range set.Slot {
			if s := &set.Slot[i]; *at < sets && set.Tag[i] != 0 {
				f(&s.T, &s.Row)
			}
		}
	})
}
