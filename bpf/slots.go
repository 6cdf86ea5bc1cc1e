package bpf

import (
	"fmt"
	"math/bits"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// States of a slot of `endpoints`; src/rows.h. The lowest bit is the index of its row, of its
// last one if it holds none.
const (
	slotFree uint64 = 0
	slotLeft uint64 = 2 // empty, but a row behind it may have come past it
	slotHeld uint64 = 4 // from here on there is a row
)

// slotTries is SLOT_TRIES in src/rows.h.
const slotTries = 64

// slotsFor is the size of `endpoints` with room for so many rows: half of it stays free, or
// more. Then of 1,024 rows in any slots none is more than some 20 from its first, and of
// addresses as nodes give them to pods, one after the other, nearly all are in it.
func slotsFor(rows uint32) uint32 {
	return max(slotTries, uint32(1)<<bits.Len32(2*rows-1))
}

// holds says whether a slot has the row of an address.
func (s *weftEndpointSlot) holds(a weftAddr) bool { return s.State >= slotHeld && s.Addr == a }

// slots is the map `endpoints` as a table with open addressing. What it does in several
// steps leaves after each of them a table whose rows are found.
type slots struct{ d *Datapath }

func (t slots) size() uint32 { return t.d.maps[weftMapEndpoints].MaxEntries() }

func (t slots) first(a weftAddr) uint32 {
	return uint32((mix(words(a)) >> 32) * uint64(t.size()) >> 32)
}

func (t slots) read(at uint32) (s weftEndpointSlot, err error) {
	if err := t.d.maps[weftMapEndpoints].Lookup(&at, &s); err != nil {
		return s, fmt.Errorf("look up in map %s: %w", weftMapEndpoints, err)
	}
	return s, nil
}

// walk looks at the slots in which an address may be, until look says that it is enough or
// none behind can have it. ok: it was enough.
func (t slots) walk(a weftAddr, look func(at uint32, s *weftEndpointSlot) bool) (ok bool, err error) {
	first := t.first(a)
	for i := range uint32(slotTries) {
		at := (first + i) & (t.size() - 1)
		s, err := t.read(at)
		if err != nil {
			return false, err
		}
		if look(at, &s) {
			return true, nil
		}
		if s.State < slotLeft {
			break
		}
	}
	return false, nil
}

// find is the slot of an address, if it has one.
func (t slots) find(a weftAddr) (at uint32, s weftEndpointSlot, ok bool, err error) {
	ok, err = t.walk(a, func(i uint32, found *weftEndpointSlot) bool {
		at, s = i, *found
		return s.holds(a)
	})
	return at, s, ok, err
}

// turn makes row the one that the slot holds, in two writes: the former stays whole for the
// programs that read it.
func (t slots) turn(at uint32, s weftEndpointSlot, row weftEndpoint) error {
	other := s.State&1 ^ 1
	s.Row[other] = row
	if err := set(t.d, weftMapEndpoints, at, s); err != nil {
		return err
	}
	s.State = slotHeld | other
	return set(t.d, weftMapEndpoints, at, s)
}

func (t slots) set(a weftAddr, row weftEndpoint) error {
	t.d.slotted.Lock()
	defer t.d.slotted.Unlock()
	at, s, ok, err := t.find(a)
	if err != nil {
		return err
	}
	if ok {
		return t.turn(at, s, row)
	}
	ok, err = t.walk(a, func(i uint32, found *weftEndpointSlot) bool {
		at, s = i, *found
		return s.State < slotHeld
	})
	if err != nil {
		return err
	}
	if !ok || t.d.rows >= t.d.maxRows {
		return fmt.Errorf("write map %s: %w (%d rows)", weftMapEndpoints, ErrFull, t.d.maxRows)
	}
	s.Addr = a
	if err := t.turn(at, s, row); err != nil {
		return err
	}
	t.d.rows++
	return nil
}

func (t slots) delete(a weftAddr) error {
	t.d.slotted.Lock()
	defer t.d.slotted.Unlock()
	at, s, ok, err := t.find(a)
	if err != nil || !ok {
		return err
	}
	t.d.rows = max(t.d.rows, 1) - 1
	return t.leave(at, s)
}

// leave empties a slot. If there is nothing behind it, it and those left before it are free.
func (t slots) leave(at uint32, s weftEndpointSlot) error {
	s.State = slotLeft | s.State&1
	if err := set(t.d, weftMapEndpoints, at, s); err != nil {
		return err
	}
	for {
		next, err := t.read((at + 1) & (t.size() - 1))
		if err != nil || next.State >= slotLeft || s.State < slotLeft || s.State >= slotHeld {
			return err
		}
		s.State &= 1 // the rest stays: a program may be reading it
		if err := set(t.d, weftMapEndpoints, at, s); err != nil {
			return err
		}
		at = (at - 1) & (t.size() - 1)
		if s, err = t.read(at); err != nil {
			return err
		}
	}
}

// scan tells f of every row, and counts them. A row that the programs do not find, as
// someone emptied a slot before it or it is in one before as well, is removed.
func (t slots) scan(f func(*weftAddr, *weftEndpoint)) error {
	if err := t.d.repin(weftMapEndpoints); err != nil {
		return err
	}
	t.d.slotted.Lock()
	defer t.d.slotted.Unlock()
	all, done, err := mapped[weftEndpointSlot](t.d, weftMapEndpoints)
	if err != nil {
		return err
	}
	defer done()
	t.d.rows = 0
	for last := range all {
		s := &all[last]
		if s.State < slotHeld {
			continue
		}
		at := t.first(s.Addr)
		for i := 0; i < slotTries && at != uint32(last) && all[at].State >= slotLeft && !all[at].holds(s.Addr); i++ {
			at = (at + 1) & (t.size() - 1)
		}
		if at != uint32(last) {
			if err := t.leave(uint32(last), *s); err != nil {
				return err
			}
			continue
		}
		t.d.rows++
		f(&s.Addr, &s.Row[s.State&1])
	}
	return nil
}

// mapped is the rows of an array as they are in the kernel, to be read, or written to, until done
// is called. To ask for thousands of rows, nearly all empty, would take ten times as long.
func mapped[V any](d *Datapath, name string) (all []V, done func(), err error) {
	m := d.maps[name]
	n, page := int(m.MaxEntries()), os.Getpagesize()
	size := n * int(unsafe.Sizeof(*new(V)))
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("read map %s: %w", name, err)
	}
	all = unsafe.Slice((*V)(unsafe.Pointer(unsafe.SliceData(b))), n)
	return all, func() { _ = unix.Munmap(b) }, nil // fails for no mapping only
}
