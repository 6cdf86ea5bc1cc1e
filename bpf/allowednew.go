package bpf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// ALLOWED_WAYS in src/allowednew.h.
const allowedWays = 8

// allowedSets is how many sets of `allowed_new` have room for so many rows.
func allowedSets(rows uint32) uint32 { return max(1, rows/allowedWays) }

// seedAllowed gives the programs that are to be loaded the keys of the hash by which rows are
// found in `allowed_new` and in `brief`. Both maps have the seed in their last set, so that
// programs of another layout find the rows, too, also if one of them is made anew.
func (d *Datapath) seedAllowed(spec *ebpf.CollectionSpec) error {
	allowed, brief := d.maps[weftMapAllowedNew], d.maps[weftMapBrief]
	last, lastBrief := allowed.MaxEntries()-1, brief.MaxEntries()-1
	var set weftAllowedSet
	var briefSet weftBriefSet
	if err := errors.Join(allowed.Lookup(&last, &set), brief.Lookup(&lastBrief, &briefSet)); err != nil {
		return fmt.Errorf("read seed of flows: %w", err)
	}
	seed := [2]uint32{set.Tag[0], set.Tag[1]}
	if seed[0] == 0 {
		seed = [2]uint32{briefSet.Tag[0], briefSet.Tag[1]}
	}
	if seed[0] == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		seed = [2]uint32{native.Uint32(b[:4]) | 1, native.Uint32(b[4:])}
	}
	copy(set.Tag[:], seed[:])
	copy(briefSet.Tag[:], seed[:])
	if err := errors.Join(allowed.Put(&last, &set), brief.Put(&lastBrief, &briefSet)); err != nil {
		return fmt.Errorf("write seed of flows: %w", err)
	}
	d.allowedKeys = allowedKeys(uint64(seed[0])<<32 | uint64(seed[1]))
	if err := spec.Variables[weftVarAllowedKeys].Set(d.allowedKeys); err != nil {
		return fmt.Errorf("set seed of flows: %w", err)
	}
	return nil
}

// allowedKeys makes of a seed what the parts of a tuple are multiplied by.
func allowedKeys(seed uint64) (k weftAllowedKeys) {
	for i := range k.Addr {
		k.Addr[i] = mix(mix(seed, uint64(i)), seed)
	}
	k.Port = mix(mix(seed, uint64(len(k.Addr))), seed)
	return k
}

// homeOf is home_of in src/home.h: the set of a flow and its tag there, of so many sets.
func homeOf(keys *weftAllowedKeys, k *weftTuple, sets uint32) (set, tag uint32) {
	end := func(a weftAddr, port uint16) uint64 {
		h := uint64(port) * keys.Port
		for i, key := range keys.Addr {
			h += uint64(native.Uint32(a.B[4*i:])) * key
		}
		return h ^ h>>32
	}
	src := end(k.Src, k.Sport)
	h := mix(src+end(k.Dst, k.Dport), uint64(k.Proto))
	return uint32((h >> 32) * uint64(sets) >> 32), uint32(h+src) | 1
}

// inAllowedNew is the row of a flow in `allowed_new`, if it has one there.
func (d *Datapath) inAllowedNew(k *weftTuple) (weftAllowed, bool, error) {
	m := d.maps[weftMapAllowedNew]
	at, tag := homeOf(&d.allowedKeys, k, m.MaxEntries()-1)
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
