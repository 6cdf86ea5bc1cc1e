package daemon

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/api"
)

const (
	// dropsKept is how many of the latest drops are kept for who asks.
	dropsKept = 1000
	// routineKept is how many are kept of those that every new pod causes, beside the others.
	routineKept = 100
	// dropsEvery is how long drops are collected for those who watch.
	dropsEvery = 50 * time.Millisecond
)

// reasonRoutine is that of the drops that every new pod causes: its kernel looks for routers
// and for neighbours of its link.
const reasonRoutine = "link-local"

// drops is the latest packets that were dropped. It is safe for concurrent use.
type drops struct {
	mu            sync.Mutex
	kept, routine dropRing
	next          uint64        // number of the next drop, from 0
	more          chan struct{} // closed when there is one

	ended chan struct{} // closed when there will be no more
}

// dropRing is the latest of some drops, with their numbers.
type dropRing struct {
	size int
	list []numberedDrop // a ring once it has that size
	at   int            // of the oldest
}

type numberedDrop struct {
	number uint64
	drop   api.Drop
}

func newDrops() *drops {
	return &drops{
		kept: dropRing{size: dropsKept}, routine: dropRing{size: routineKept},
		more: make(chan struct{}), ended: make(chan struct{}),
	}
}

// end lets those who watch go. No drop is added after it.
func (d *drops) end() { close(d.ended) }

// add keeps drops.
func (d *drops) add(drops ...api.Drop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, drop := range drops {
		ring := &d.kept
		if drop.Reason == reasonRoutine {
			ring = &d.routine
		}
		ring.add(numberedDrop{d.next, drop})
		d.next++
	}
	close(d.more)
	d.more = make(chan struct{})
}

func (r *dropRing) add(d numberedDrop) {
	if len(r.list) < r.size {
		r.list = append(r.list, d)
		return
	}
	r.list[r.at] = d
	r.at = (r.at + 1) % r.size
}

// since returns the drops of the ring from a number on.
func (r *dropRing) since(n uint64) []numberedDrop {
	old := sort.Search(len(r.list), func(i int) bool { return r.nth(i).number >= n })
	out := make([]numberedDrop, 0, len(r.list)-old)
	for i := old; i < len(r.list); i++ {
		out = append(out, *r.nth(i))
	}
	return out
}

// nth is the oldest but i.
func (r *dropRing) nth(i int) *numberedDrop { return &r.list[(r.at+i)%len(r.list)] }

// since returns the drops from a number on, and the number of the next; more is closed when
// there is one. Of those that are not kept any more the first tells how many they were, but
// from 0 on.
func (d *drops) since(n uint64) (list []api.Drop, next uint64, more <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := append(d.kept.since(n), d.routine.since(n)...)
	slices.SortFunc(found, func(a, b numberedDrop) int { return cmp.Compare(a.number, b.number) })
	list = make([]api.Drop, 0, len(found))
	for _, f := range found {
		list = append(list, f.drop)
	}
	if missed := d.next - n - uint64(len(list)); missed > 0 && n > 0 && len(list) > 0 {
		list[0].LeftOut += missed
	}
	return list, d.next, d.more
}

// watch calls each with what is added from now on, at most every dropsEvery, and with nil
// every [api.DropsAlive] if there is nothing, by which it is also found out that nobody reads
// any more, until ctx is done, end is called, or each fails.
func (d *drops) watch(ctx context.Context, each func([]api.Drop) error) {
	alive := time.NewTicker(api.DropsAlive)
	defer alive.Stop()
	_, next, more := d.since(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.ended:
			return
		case <-alive.C:
			if each(nil) != nil {
				return
			}
			continue
		case <-more:
		}
		var list []api.Drop
		if list, next, more = d.since(next); each(list) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-d.ended:
			return
		case <-time.After(dropsEvery):
		}
	}
}
