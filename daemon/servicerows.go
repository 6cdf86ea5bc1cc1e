package daemon

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/internal/reconcile"
)

// putRows says in the tables of Services what an owner wants there.
func (t *tables) putRows(owner string, r service.Rows) {
	for _, put := range t.puts() {
		put(owner, &r)
	}
}

// putServices is putRows for Services. If there are many, each table is told beside the
// others: at the start there are hundreds of thousands of rows.
func (t *tables) putServices(all []serviceRows) {
	if len(all) < parallelLeast {
		for _, r := range all {
			t.putRows(ownerService(r.name), r.Rows)
		}
		return
	}
	owners := make([]string, len(all))
	for i := range all {
		owners[i] = ownerService(all[i].name)
	}
	var group sync.WaitGroup
	for _, put := range t.puts() {
		group.Go(func() {
			for i := range all {
				put(owners[i], &all[i].Rows)
			}
		})
	}
	group.Wait()
}

// puts is how each table of Services is told what an owner wants there.
func (t *tables) puts() []func(owner string, r *service.Rows) {
	return []func(string, *service.Rows){
		func(owner string, r *service.Rows) { t.alive.Put(owner, r.Alive) },
		func(owner string, r *service.Rows) { t.backends.Put(owner, r.Backends) },
		func(owner string, r *service.Rows) { t.maglev.Put(owner, r.Maglev) },
		func(owner string, r *service.Rows) { t.sets.Put(owner, r.Sets) },
		func(owner string, r *service.Rows) { t.ranges.Put(owner, r.Ranges) },
		func(owner string, r *service.Rows) { t.frontends.Put(owner, r.Frontends) },
	}
}

// parallelLeast is from how many Services on several processors work on them.
const parallelLeast = 16

// parallelMost bounds how many processors work: a node's are for its pods.
const parallelMost = 4

// parallel calls f with 0 … n-1, on several processors if there are many, and returns when
// all is done.
func parallel(n int, f func(int)) {
	if n < parallelLeast {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), parallelMost) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	group.Wait()
}

// heldRows fills a Service's sets, which have no backends, with what a former daemon
// left in the kernel for them, and says whether there was something.
func (t *tables) heldRows(r *service.Rows) bool {
	protocols := map[bpf.SetID]bpf.Protocol{}
	for at, f := range r.Frontends {
		protocols[f.Inside], protocols[f.Outside], protocols[f.Host] = at.Protocol, at.Protocol, at.Protocol
	}
	found := false
	for id := range r.Sets {
		set, ok := held(t.served.Sets, id)
		if !ok || set.Count == 0 {
			continue
		}
		for i := range set.Count {
			slot := bpf.Slot{Set: id, Slot: i}
			b, ok := held(t.served.Backends, slot)
			if !ok {
				continue
			}
			found = true
			r.Backends[slot] = b
			r.Alive[bpf.Place{Addr: b.Addr, Port: b.Port, Protocol: protocols[id]}] = b.Generation
		}
		for i := range (set.Maglev + uint32(bpf.MaglevBlock) - 1) / uint32(bpf.MaglevBlock) {
			at := bpf.Block{Set: id, Block: i}
			if row, ok := held(t.served.Maglev, at); ok {
				if r.Maglev == nil {
					r.Maglev = map[bpf.Block]bpf.MaglevRow{}
				}
				r.Maglev[at] = row
			}
		}
		r.Sets[id] = set
	}
	return found
}

// held reads one row of the kernel. One that cannot be read is as good as none.
func held[K, V comparable](t reconcile.Target[K, V], k K) (V, bool) {
	if g, ok := t.(reconcile.Getter[K, V]); ok {
		if v, there, err := g.Get(k); err == nil && there {
			return v, true
		}
	}
	return *new(V), false
}
