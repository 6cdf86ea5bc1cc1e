package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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

// word is `next` and `moved` of a set, compared and swapped as one: Go has nothing smaller. The
// programs write each by itself, and what they write is never undone by that.
func (s *weftBriefSet) word() *uint32 { return (*uint32)(unsafe.Pointer(&s.Next)) }

func movedIn(word uint32) uint16 { return uint16(word >> 16) }

// setMoved says by the word of a set that a row of that is about to be in `live`.
func setMoved(word *uint32) {
	for {
		was := atomic.LoadUint32(word)
		moved := max(1, movedIn(was)+1)
		if atomic.CompareAndSwapUint32(word, was, was&0xffff|uint32(moved)<<16) {
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
	if err := d.setMovedOf(k); err != nil {
		return err
	}
	if err := d.maps[weftMapLive].Update(k, v, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("write map %s: %w", weftMapLive, err)
	}
	return nil
}

// setMovedOf is setMoved of a tuple's set. It maps the page of the word only: all of `brief` would
// take milliseconds.
func (d *Datapath) setMovedOf(k *weftTuple) error {
	m, page := d.maps[weftMapBrief], os.Getpagesize()
	var set weftBriefSet
	n, _ := homeOf(&d.tupleKeys, k, m.MaxEntries()-1)
	at := int(n)*int(unsafe.Sizeof(set)) + int(unsafe.Offsetof(set.Next))
	b, err := unix.Mmap(m.FD(), int64(at/page*page), page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("write map %s: %w", weftMapBrief, err)
	}
	setMoved((*uint32)(unsafe.Pointer(&b[at%page])))
	return unix.Munmap(b)
}

// markMoved lets the programs look in `live` for all that is in no set, if `brief` has not been there
// as long as `live` has: rows in there, and those that the former programs move there until Commit,
// are of another `brief`, whose sets have said so. It comes before seedFlows: a `brief` with a seed
// has been through this.
func (d *Datapath) markMoved(made map[string]bool) error {
	others, err := filepath.Glob(filepath.Join(lastingDir(d.dir), weftMapBrief+"-*"))
	if err != nil {
		return fmt.Errorf("look for a former map %s: %w", weftMapBrief, err)
	}
	b, err := d.openBrief()
	if err != nil {
		return err
	}
	defer b.done()
	if len(others) <= 1 && (b.seed[0] != 0 || made[weftMapLive]) {
		return nil
	}
	for i := range b.sets {
		setMoved(b.sets[i].word())
	}
	return nil
}

// unmarkMoved lets the programs look in `live` no more for what is not in a set, if that had no row
// there when this was last called, nor has now. It does nothing if that was a moment ago, or before
// Commit.
func (d *Datapath) unmarkMoved() error {
	if !d.committed.Load() || time.Since(d.rowless.at) < rowlessFor {
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
