package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/api"
)

const (
	// dropsKept is how many of the latest drops are kept for who asks.
	dropsKept = 1000
	// dropsEvery is how long drops are collected for those who watch.
	dropsEvery = 50 * time.Millisecond
	// dropsAlive is how often a watcher is told that there is nothing: so it is found out
	// that nobody reads any more.
	dropsAlive = 10 * time.Second
)

// drops is the latest packets that were dropped. It is safe for concurrent use.
type drops struct {
	mu   sync.Mutex
	ring []api.Drop    // grows to dropsKept
	next uint64        // number of the next drop, from 0
	more chan struct{} // closed when there is one

	ended chan struct{} // closed when there will be no more
}

func newDrops() *drops { return &drops{more: make(chan struct{}), ended: make(chan struct{})} }

// end lets those who watch go. No drop is added after it.
func (d *drops) end() { close(d.ended) }

// add keeps a drop.
func (d *drops) add(drop api.Drop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ring) < dropsKept {
		d.ring = append(d.ring, drop)
	} else {
		d.ring[d.next%dropsKept] = drop
	}
	d.next++
	close(d.more)
	d.more = make(chan struct{})
}

// since returns the drops from a number on, and the number of the next; more is closed when
// there is one. Of those that are not kept any more the first tells how many they were.
func (d *drops) since(n uint64) (list []api.Drop, next uint64, more <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := max(n, d.next-uint64(len(d.ring)))
	for i := first; i < d.next; i++ {
		list = append(list, d.ring[i%dropsKept])
	}
	if len(list) > 0 && n > 0 {
		list[0].LeftOut += first - n
	}
	return list, d.next, d.more
}

// watch calls each with what is added from now on, at most every dropsEvery, and with nil
// every dropsAlive if there is nothing, until ctx is done, end is
// called, or each fails.
func (d *drops) watch(ctx context.Context, each func([]api.Drop) error) {
	alive := time.NewTicker(dropsAlive)
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
