package bpf

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// rowless is the sets of `brief` that said at some time that rows of theirs are in `live`, and
// had none there: how often they had said so.
type rowless struct {
	at   time.Time
	sets map[uint32]uint16
}

// rowlessFor is how long a set must have had no row in `live`: a program that has said so writes the
// row within a microsecond, or as soon as the machine goes on.
const rowlessFor = 10 * time.Second

// word is `next` and `moved` of a set: who changes one of them changes both, as programs do, too.
func (s *weftBriefSet) word() *uint32 { return (*uint32)(unsafe.Pointer(&s.Next)) }

func movedIn(word uint32) uint16 { return uint16(word >> 16) }

// setMoved says that a row of the set is about to be in `live`.
func (s *weftBriefSet) setMoved() {
	for {
		was := atomic.LoadUint32(s.word())
		moved := max(1, movedIn(was)+1)
		if atomic.CompareAndSwapUint32(s.word(), was, was&0xffff|uint32(moved)<<16) {
			return
		}
	}
}

// setOf is the set that a tuple's row is in, or was.
func (b brief) setOf(k *weftTuple) uint32 {
	n, _ := homeOf(&b.keys, k, uint32(len(b.sets)))
	return n
}

// putLive writes a row into `live` where there is none (ErrKeyExist), so that programs find it.
func (d *Datapath) putLive(k *weftTuple, v *weftFlow) error {
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	b.sets[b.setOf(k)].setMoved()
	if err := d.maps[weftMapLive].Update(k, v, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapLive, err)
	}
	return nil
}

// markMoved has the programs find all rows of `live`, also if `brief` has been made anew.
func (d *Datapath) markMoved() error {
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	return scan(d, weftMapLive, func(k *weftTuple, _ *weftFlow) {
		if s := &b.sets[b.setOf(k)]; movedIn(atomic.LoadUint32(s.word())) == 0 {
			s.setMoved()
		}
	})
}

// unmarkMoved lets the programs look in `live` no more for what is not in a set, if that had no row
// there when this was last called, nor has now. It does nothing if that was a moment ago.
func (d *Datapath) unmarkMoved() error {
	if time.Since(d.rowless.at) < rowlessFor {
		return nil
	}
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	had, now := d.rowless.sets, map[uint32]uint16{}
	for i := range b.sets {
		if moved := movedIn(atomic.LoadUint32(b.sets[i].word())); moved != 0 {
			now[uint32(i)] = moved
		}
	}
	if len(now) > 0 {
		err = scan(d, weftMapLive, func(k *weftTuple, _ *weftFlow) { delete(now, b.setOf(k)) })
	}
	if err != nil {
		return err
	}
	for i, moved := range now {
		word := b.sets[i].word()
		if was := atomic.LoadUint32(word); had[i] == moved && movedIn(was) == moved && atomic.CompareAndSwapUint32(word, was, was&0xffff) {
			delete(now, i)
		}
	}
	d.rowless = rowless{time.Now(), now}
	return nil
}
