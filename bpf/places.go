package bpf

import (
	"fmt"
	"sync"
)

// places is what the map of the same name holds: a bit for each address that may have a
// row in `frontends`. Bits are never taken back but with the layout.
type places struct {
	mu    sync.Mutex
	words map[uint32]uint64
}

// readPlaces takes up what is marked, by a former daemon at first.
func (d *Datapath) readPlaces() error {
	d.places.mu.Lock()
	defer d.places.mu.Unlock()
	words := map[uint32]uint64{}
	err := scan(d, weftMapPlaces, func(k *uint32, v *uint64) {
		if *v != 0 {
			words[*k] = *v
		}
	})
	if err == nil {
		d.places.words = words
	}
	return err
}

// markPlace lets packets to an address have a look at `frontends` first.
func (d *Datapath) markPlace(a weftAddr) error {
	word, bit := placeOf(a)
	d.places.mu.Lock()
	defer d.places.mu.Unlock()
	marked := d.places.words[word] | bit
	if marked == d.places.words[word] {
		return nil
	}
	if err := d.maps[weftMapPlaces].Put(&word, &marked); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapPlaces, err)
	}
	d.places.words[word] = marked
	return nil
}

// placeOf is where an address has its bit: may_be_place in src/service.h.
func placeOf(a weftAddr) (word uint32, bit uint64) {
	hash := mix(words(a))
	return uint32(hash >> 50), uint64(1) << (hash >> 44 & 63)
}

// mix is mix in src/rows.h.
func mix(h, v uint64) uint64 {
	h = (h ^ v) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// words are the two that mix gets of an address.
func words(a weftAddr) (uint64, uint64) {
	return native.Uint64(a.B[:8]), native.Uint64(a.B[8:])
}
