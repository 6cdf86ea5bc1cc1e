package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// Forget removes what the programs remember and no longer need: which unconnected socket
// sends to, or hears from, a backend that is gone; and which backend a client stays with
// when its time is over. It returns how many rows it removed.
func (d *Datapath) Forget(gone func(backend Place, generation uint32) bool) (int, error) {
	known := map[Backend]bool{}
	datagrams, err := forget(d, weftMapDatagrams, func(k *weftDatagramKey, v *weftDatagram) bool {
		b := Backend{addrFrom(v.Addr), v.Port, v.Generation}
		if k.Direction == uint8(fromBackend) {
			b.Addr, b.Port = addrFrom(k.Addr), k.Port
		}
		is, seen := known[b]
		if !seen {
			is = gone(Place{b.Addr, b.Port, UDP}, b.Generation)
			known[b] = is
		}
		return is
	})
	now := uint32(uptime() / time.Second)
	clients, other := forget(d, weftMapAffinity, func(_ *weftAffinityKey, v *weftAffinity) bool {
		return int32(v.Until-now) <= 0
	})
	return datagrams + clients, errors.Join(err, other)
}

// FROM_BACKEND in src/sock.h.
const fromBackend = 1

// forget removes rows of a map that programs write. One that was written anew meanwhile,
// and is of use now, stays.
func forget[K, V comparable](d *Datapath, name string, useless func(*K, *V) bool) (forgotten int, err error) {
	var keys []K
	err = scan(d, name, func(k *K, v *V) {
		if useless(k, v) {
			keys = append(keys, *k)
		}
	})
	if err != nil {
		return 0, err
	}
	m := d.maps[name]
	var errs []error
	for _, k := range keys {
		var v V
		if err := m.LookupAndDelete(&k, &v); errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		} else if err != nil {
			errs = append(errs, fmt.Errorf("forget row of map %s: %w", name, err))
			continue
		}
		if useless(&k, &v) {
			forgotten++
		} else if err := m.Update(&k, &v, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			errs = append(errs, fmt.Errorf("put back row of map %s: %w", name, err))
		}
	}
	return forgotten, errors.Join(errs...)
}
