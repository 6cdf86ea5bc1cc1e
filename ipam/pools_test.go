package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

func TestPoolsAreChecked(t *testing.T) {
	for name, tc := range map[string]struct{ pools, want string }{
		"too small":       {"10.0.0.0/31", "too small"},
		"too small, IPv6": {"fd00::/127", "too small"},
		"same":            {"10.0.0.0/24 10.0.0.0/24", "overlap"},
		"overlap":         {"10.0.0.0/16 10.0.3.0/24", "overlap"},
		"mapped":          {"::ffff:10.0.0.0/120", "not a valid prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, newFakeFS(), newClock(), "10.9.0.0/24")
			err := m.SetPools(prefixes(strings.Fields(tc.pools)...))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
			if got := allocate(t, m, 1)[0].String(); got != "10.9.0.2" {
				t.Errorf("the former pool gave %s, want 10.9.0.2", got)
			}
		})
	}
	m, err := Open("/state", Options{FS: newFakeFS()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Allocate(Request{Owner: owner(1)}); !errors.Is(err, ErrNoPool) {
		t.Errorf("without pools: got %v, want %v", err, ErrNoPool)
	}
}

func TestLeaseOutsideOfPoolsStaysUntilReleased(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/24")
	allocate(t, m, 1)
	allocate(t, m, 2)
	release(t, m, 2)
	if err := m.SetPools(prefixes("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Get(owner(1)); !ok {
		t.Error("the lease is gone with its pool")
	}
	release(t, m, 1)
	if err := m.SetPools(prefixes("10.0.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if n := m.Pools()[0].Cooling; n != 2 {
		t.Errorf("%d addresses cool when the pool is back, want 2", n)
	}
	if got := allocate(t, m, 3)[0].String(); got != "10.0.0.4" {
		t.Errorf("got %s, want 10.0.0.4", got)
	}
}

// Neither memory nor time may depend on the size of a pool, nor the writes of an
// allocation on the number of leases.
func TestAllocationCostDoesNotGrow(t *testing.T) {
	f := newFakeFS()
	m := open(t, f, newClock(), "10.0.0.0/8", "fd00::/16", "fd01::/64")
	if got, want := m.Pools()[1].Size.String(), "5192296858534827628530496329220094"; got != want {
		t.Errorf("size of a /16: got %s, want %s", got, want)
	}
	var first int
	for i := range 1000 {
		before := f.ops
		allocate(t, m, i)
		if i == 0 {
			first = f.ops - before
		} else if f.ops-before != first {
			t.Fatalf("allocation %d made %d file operations, the first %d", i, f.ops-before, first)
		}
	}
	full := open(t, newFakeFS(), newClock(), "10.0.0.0/24")
	for i := range 253 {
		allocate(t, full, i)
	}
	p := full.pools[0]
	release(t, full, 100)
	looked := 0
	if _, ok := p.fresh(func(netip.Addr) bool { looked++; return true }); ok || looked != 0 {
		t.Errorf("a pool that has made its lap looked at %d addresses, want 0", looked)
	}
}

func TestConcurrentCallers(t *testing.T) {
	m := open(t, newFakeFS(), newClock(), "10.0.0.0/25", "fd00::/64")
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 50 {
				o := owner((g/2)*50 + i%3) // two callers for each owner
				l, err := m.Allocate(Request{Owner: o, Network: "weft"})
				if err != nil {
					t.Errorf("allocate: %v", err)
				} else if len(l.Addrs) != 2 {
					t.Errorf("got %v, want two addresses", l.Addrs)
				}
				m.Leases()
				m.Pools()
				if i%2 == 0 {
					if err := m.Release(o); err != nil {
						t.Errorf("release: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]Owner{}
	for _, l := range m.Leases() {
		for _, a := range l.Addrs {
			if other, dup := seen[a]; dup {
				t.Errorf("%s is leased to %s and %s", a, other, l.Owner)
			}
			seen[a] = l.Owner
		}
	}
	if s := m.Pools()[0]; s.Used*2 != len(seen) {
		t.Errorf("%d in use, but %d addresses leased", s.Used, len(seen))
	}
}
