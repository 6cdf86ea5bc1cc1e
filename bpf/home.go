package bpf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// seedFlows gives the programs that are to be loaded the keys of the hash by which rows are
// found in `allowed_new` and in `brief`. Both maps have the seed in their last set, so that
// programs of another layout find the rows, too, also if one of them is made anew.
func (d *Datapath) seedFlows(spec *ebpf.CollectionSpec) error {
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
	d.tupleKeys = tupleKeys(uint64(seed[0])<<32 | uint64(seed[1]))
	if err := spec.Variables[weftVarTupleKeys].Set(d.tupleKeys); err != nil {
		return fmt.Errorf("set seed of flows: %w", err)
	}
	return nil
}

// tupleKeys makes of a seed what the parts of a tuple are multiplied by.
func tupleKeys(seed uint64) (k weftTupleKeys) {
	for i := range k.Addr {
		k.Addr[i] = mix(mix(seed, uint64(i)), seed)
	}
	k.Port = mix(mix(seed, uint64(len(k.Addr))), seed)
	return k
}

// part is the part of 2^32 that each of so many sets has, rounded up.
func part(sets uint32) uint32 { return math.MaxUint32/sets + 1 }

// homeOf is home_of in src/home.h: the set of a flow and its tag there, of so many sets.
func homeOf(keys *weftTupleKeys, k *weftTuple, sets uint32) (set, tag uint32) {
	addr := func(a weftAddr) (h uint64) {
		for i, key := range keys.Addr {
			h += uint64(native.Uint32(a.B[4*i:])) * key
		}
		return h
	}
	fold := func(h uint64) uint64 { return h ^ h>>32 }
	src, dst := addr(k.Src), addr(k.Dst)
	low, high := min(k.Sport, k.Dport), uint32(max(k.Sport, k.Dport))
	h := mix(fold(src)+fold(dst)+fold(uint64(low)*keys.Port), uint64(k.Proto))
	step := high>>5<<3 | (high+high>>3)&7
	at := uint32(h>>32) + step*part(sets)
	return uint32(uint64(at) * uint64(sets) >> 32), uint32(h+fold(src+uint64(k.Sport)*keys.Port)) | 1
}
