package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is what the pods of a node know: who was given what, and has not been told
// that it is released.
type world struct {
	m    *Manager
	live map[Owner][]netip.Addr
	busy Owner // whose call was cut off
}

func (w *world) add(id string, want ...netip.Addr) error {
	o := Owner{id, "eth0"}
	w.busy = o
	l, err := w.m.Allocate(Request{Owner: o, Network: "weft", Want: want, Meta: json.RawMessage(`{"a":1}`)})
	if err == nil {
		w.live[o] = l.Addrs
	}
	return err
}

func (w *world) del(id string) error {
	o := Owner{id, "eth0"}
	w.busy = o
	delete(w.live, o)
	return w.m.Release(o)
}

// story makes every kind of write, some of them twice. Calls may fail.
func (w *world) story() (errs []error) {
	do := func(err error) {
		errs = append(errs, err)
		w.busy = Owner{}
	}
	do(w.add("a"))
	do(w.add("b"))
	do(w.add("c"))
	do(w.del("b"))
	do(w.add("d"))
	do(w.add("a"))
	w.busy = Owner{"c", "eth0"}
	err := w.m.Update(w.busy, json.RawMessage(`{"b":2}`))
	if errors.Is(err, ErrNoLease) {
		err = nil
	}
	do(err)
	do(w.del("a"))
	do(w.add("b"))
	do(w.add("e")) // the pool has 5 addresses: the one that rests longest
	do(w.del("c"))
	do(w.add("a"))
	return errs
}

// check says what is wrong with the leases, given who lives.
func (w *world) check() error {
	holder := map[netip.Addr]Owner{}
	for _, l := range w.m.Leases() {
		for _, a := range l.Addrs {
			if other, dup := holder[a]; dup {
				return fmt.Errorf("%s is leased to %s and to %s", a, other, l.Owner)
			}
			holder[a] = l.Owner
		}
		if _, lives := w.live[l.Owner]; !lives && l.Owner != w.busy {
			return fmt.Errorf("%s was released and has a lease", l.Owner)
		}
	}
	for o, addrs := range w.live {
		l, ok := w.m.Get(o)
		if !ok || !slices.Equal(l.Addrs, addrs) {
			return fmt.Errorf("%s lives with %v and has the lease %v", o, addrs, l.Addrs)
		}
	}
	return nil
}

// full releases what does not live, as the daemon does, and fills the pool.
func (w *world) full() error {
	for _, l := range w.m.Leases() {
		if _, lives := w.live[l.Owner]; !lives {
			if err := w.del(l.ContainerID); err != nil {
				return err
			}
		}
	}
	for i := len(w.live); i < 5; i++ {
		if err := w.add(fmt.Sprint("new", i)); err != nil {
			return err
		}
	}
	if err := w.add("more"); !errors.Is(err, ErrPoolEmpty) {
		return fmt.Errorf("a sixth lease in a pool of 5: got %v, want %v", err, ErrPoolEmpty)
	}
	return w.check()
}

// The pools have 5 addresses; the IPv6 one has more.
var crashPools = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("fd00::/64")}

func reopen(t *testing.T, f *fakeFS, now func() time.Time) *Manager {
	t.Helper()
	m, err := Open("/state", Options{FS: f, Now: now})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if err := m.SetPools(crashPools); err != nil {
		t.Fatalf("set pools: %v", err)
	}
	return m
}

// After a power cut at any operation, whatever of the unsynced is lost, no address has
// two holders, all who live have theirs, and the whole pool is usable.
func TestPowerCutAtEveryWriteMakesNoDuplicate(t *testing.T) {
	losses := map[string]func(*rand.Rand) bool{
		"nothing lost":    func(*rand.Rand) bool { return true },
		"all lost":        func(*rand.Rand) bool { return false },
		"some lost":       func(r *rand.Rand) bool { return r.IntN(2) == 0 },
		"most lost":       func(r *rand.Rand) bool { return r.IntN(8) == 0 },
		"some lost again": func(r *rand.Rand) bool { return r.IntN(2) == 0 },
	}
	for name, keep := range losses {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			cuts := 0
			for cut := 1; ; cut++ {
				f := newFakeFS()
				now := time.Unix(1e9, 0)
				clock := func() time.Time { now = now.Add(time.Second); return now }
				w := &world{m: reopen(t, f, clock), live: map[Owner][]netip.Addr{}}
				if !cutAfter(f, cut, func() { w.story() }) {
					break
				}
				cuts++
				f.crash(func() bool { return keep(r) })
				w.m = reopen(t, f, clock)
				if err := w.check(); err != nil {
					t.Fatalf("cut at operation %d, seed %d: %v", cut, seed, err)
				}
				w.busy = Owner{}
				if err := w.full(); err != nil {
					t.Fatalf("cut at operation %d, seed %d: fill: %v", cut, seed, err)
				}
			}
			if cuts < 50 {
				t.Errorf("the story had %d operations, want at least 50", cuts)
			}
		})
	}
}

// cutAfter runs do until the file system has done n more operations.
func cutAfter(f *fakeFS, n int, do func()) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != any(errPowerCut) {
				panic(r)
			}
			cut = true
		}
	}()
	until := f.ops + n
	f.at = func(op int) error {
		if op >= until {
			panic(errPowerCut)
		}
		return nil
	}
	do()
	f.at = nil
	return false
}

// An operation that fails, for whatever it did, makes no duplicate: neither in this
// process nor, after a power cut, in the next.
func TestFailedWritesMakeNoDuplicate(t *testing.T) {
	for _, stays := range []int{1, 2, 3, 7} { // how many operations fail in a row
		for fail := 1; ; fail++ {
			f := newFakeFS()
			now := time.Unix(1e9, 0)
			clock := func() time.Time { now = now.Add(time.Second); return now }
			w := &world{m: reopen(t, f, clock), live: map[Owner][]netip.Addr{}}
			from := f.ops + fail
			f.at = func(op int) error {
				if op >= from && op < from+stays {
					return errors.New("no space left on device")
				}
				return nil
			}
			errs := w.story()
			f.at = nil
			if f.ops < from {
				if err := errors.Join(errs...); err != nil {
					t.Fatalf("no operation failed, but: %v", err)
				}
				break
			}
			// Whoever's call failed may hold a lease; it is dead to the runtime.
			for _, next := range []string{"the same process", "the next process"} {
				for _, l := range w.m.Leases() {
					if _, lives := w.live[l.Owner]; !lives {
						if err := w.del(l.ContainerID); err != nil {
							t.Fatalf("%d failures from %d, %s: release: %v", stays, fail, next, err)
						}
					}
				}
				if err := w.check(); err != nil {
					t.Fatalf("%d failures from %d, %s: %v", stays, fail, next, err)
				}
				f.crash(func() bool { return false })
				w.m = reopen(t, f, clock)
			}
			if err := w.full(); err != nil {
				t.Fatalf("%d failures from %d: fill: %v", stays, fail, err)
			}
		}
	}
}
