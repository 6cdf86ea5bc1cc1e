package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// clock is a time that only moves when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1e9, 0).UTC()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t testing.TB, f FS, c *clock, pools ...string) *Manager {
	t.Helper()
	m, err := Open("/state", Options{FS: f, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetPools(prefixes(pools...)); err != nil {
		t.Fatal(err)
	}
	return m
}

func owner(i int) Owner { return Owner{fmt.Sprintf("c%04d", i), "eth0"} }

func allocate(t testing.TB, m *Manager, i int, want ...netip.Addr) []netip.Addr {
	t.Helper()
	l, err := m.Allocate(Request{Owner: owner(i), Network: "weft", Want: want})
	if err != nil {
		t.Fatal(err)
	}
	return l.Addrs
}

func release(t testing.TB, m *Manager, i int) {
	t.Helper()
	if err := m.Release(owner(i)); err != nil {
		t.Fatal(err)
	}
}

// P1: whatever was attached when the node was wiped, a pool is usable to its last
// address afterwards.
func TestRefillUsesTheWholePool(t *testing.T) {
	const size = 128 - 3
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.244.1.0/25", "fd00:244:1::/64")
	next := 0
	for round := range 1000 {
		for i := range size {
			if _, err := m.Allocate(Request{Owner: owner(next), Network: "weft"}); err != nil {
				t.Fatalf("round %d: allocation %d of %d: %v", round, i+1, size, err)
			}
			next++
		}
		if _, err := m.Allocate(Request{Owner: Owner{"one", "more"}}); !errors.Is(err, ErrPoolEmpty) {
			t.Fatalf("round %d: one more: got %v, want %v", round, err, ErrPoolEmpty)
		}
		c.pass(time.Duration(rand.IntN(60)) * time.Second)
		if round%2 == 0 { // a reboot: another process, every namespace is gone
			m = open(t, f, c, "10.244.1.0/25", "fd00:244:1::/64")
		}
		leases := m.Leases()
		if len(leases) != size {
			t.Fatalf("round %d: %d leases, want %d", round, len(leases), size)
		}
		for _, l := range leases {
			if err := m.Release(l.Owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	if files := len(f.names); files > 4*size {
		t.Errorf("%d files are left after the last round, want few", files)
	}
}

func TestOwnerGetsTheSameLeaseAgain(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/24", "fd00::/64")
	req := Request{Owner: owner(1), Network: "weft", MetaFor: func(a []netip.Addr) json.RawMessage {
		b, _ := json.Marshal(a)
		return b
	}}
	first, err := m.Allocate(req)
	if err != nil {
		t.Fatal(err)
	}
	want := Lease{Owner: owner(1), Network: "weft", At: c.Now(), Meta: json.RawMessage(`["10.0.0.2","fd00::2"]`),
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}}
	sameAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(first, want, sameAddr); d != "" {
		t.Errorf("lease, got - want +:\n%s", d)
	}
	ops := f.ops
	again, err := m.Allocate(req)
	if d := cmp.Diff(again, want, sameAddr); err != nil || d != "" || f.ops != ops {
		t.Errorf("second call: err %v, %d writes, got - want +:\n%s", err, f.ops-ops, d)
	}
	if err := m.Update(owner(1), json.RawMessage(`{"b":2}`)); err != nil {
		t.Fatal(err)
	}
	want.Meta = json.RawMessage(`{"b":2}`)
	m = open(t, f, c, "10.0.0.0/24", "fd00::/64")
	if d := cmp.Diff(m.Leases(), []Lease{want}, sameAddr); d != "" {
		t.Errorf("after a restart, got - want +:\n%s", d)
	}
	if got := m.ByNetwork("other"); len(got) != 0 {
		t.Errorf("leases of another network: %v", got)
	}
	for range 3 {
		release(t, m, 1)
	}
	if _, ok := m.Get(owner(1)); ok {
		t.Error("a released lease is still there")
	}
	if err := m.Update(owner(1), nil); !errors.Is(err, ErrNoLease) {
		t.Errorf("update without a lease: got %v, want %v", err, ErrNoLease)
	}
}

func TestAskedForAddresses(t *testing.T) {
	for name, tc := range map[string]struct {
		want string
		err  error
	}{
		"free":             {"10.0.0.7", nil},
		"mapped":           {"::ffff:10.0.0.7", nil},
		"both families":    {"10.0.0.7,fd00::7", nil},
		"resting":          {"10.0.0.3", nil},
		"taken":            {"10.0.0.2", ErrTaken},
		"gateway":          {"10.0.0.1", ErrNotInPool},
		"network":          {"10.0.0.0", ErrNotInPool},
		"broadcast":        {"10.0.0.255", ErrNotInPool},
		"IPv6 gateway":     {"fd00::1", ErrNotInPool},
		"foreign":          {"10.0.1.7", ErrNotInPool},
		"two of a family":  {"10.0.0.7,10.0.0.8", ErrNotInPool},
		"one of two taken": {"10.0.0.7,fd00::2", ErrTaken},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, newFakeFS(), newClock(), "10.0.0.0/24", "fd00::/64")
			allocate(t, m, 1)
			allocate(t, m, 2)
			release(t, m, 2)
			var want []netip.Addr
			for s := range strings.SplitSeq(tc.want, ",") {
				want = append(want, netip.MustParseAddr(s))
			}
			l, err := m.Allocate(Request{Owner: owner(3), Want: want})
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err == nil && (len(l.Addrs) != 2 || l.Addrs[0] != want[0].Unmap()) {
				t.Errorf("got %v, want %v and one of the other family", l.Addrs, want)
			}
			if used := m.Pools()[0].Used; err != nil && used != 1 {
				t.Errorf("%d addresses in use after the refusal, want 1", used)
			}
		})
	}
}

func TestReuseDelayOutlivesRestart(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/29") // 10.0.0.2 to 10.0.0.6
	for i := range 5 {
		allocate(t, m, i)
	}
	for i := range 4 { // 10.0.0.2 first
		release(t, m, i)
		c.pass(10 * time.Second)
	}
	m = open(t, f, c, "10.0.0.0/29")
	if s := m.Pools()[0]; s.Used != 1 || s.Cooling != 2 || s.Size.Int64() != 5 {
		t.Errorf("after the restart %d used, %d cooling of %s, want 1, 2 of 5", s.Used, s.Cooling, s.Size)
	}
	// 40, 30, 20 and 10 seconds ago: the oldest are the first, the last two too early.
	for i, want := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"} {
		if got := allocate(t, m, 10+i)[0].String(); got != want {
			t.Errorf("allocation %d: got %s, want %s", i, got, want)
		}
	}
	if n := m.Pools()[0].ReusedEarly; n != 2 {
		t.Errorf("%d addresses reused early, want 2", n)
	}
}

func TestRestartGoesOnBehindTheLatestAddress(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/24")
	for i := range 10 {
		allocate(t, m, i)
		c.pass(time.Second)
	}
	for i := range 9 {
		release(t, m, i)
	}
	c.pass(time.Hour)
	m = open(t, f, c, "10.0.0.0/24")
	if got := allocate(t, m, 20)[0].String(); got != "10.0.0.12" {
		t.Errorf("got %s, want 10.0.0.12", got)
	}
}

func TestClockSetBackDoesNotHoldAddressesForEver(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/29")
	allocate(t, m, 1)
	release(t, m, 1)
	c.pass(-1000 * time.Hour)
	m = open(t, f, c, "10.0.0.0/29")
	c.pass(31 * time.Second)
	if n := m.Pools()[0].Cooling; n != 0 {
		t.Errorf("%d addresses cool, want 0", n)
	}
}

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

// On a real disk: what cannot be read is moved aside, listed, and blocks nothing.
func TestUnreadableFilesAreMovedAside(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetPools(prefixes("10.0.0.0/24")); err != nil {
		t.Fatal(err)
	}
	allocate(t, m, 1)
	good, err := os.ReadFile(filepath.Join(dir, attachmentsDir, leaseName(owner(1))))
	if err != nil {
		t.Fatal(err)
	}
	twin := strings.Replace(string(good), "c0001", "c0002", 1) // the same address, later
	twin = strings.Replace(twin, `"at":"2`, `"at":"3`, 1)
	for name, data := range map[string]string{
		"attachments/" + leaseName(owner(2)):                         twin,
		"attachments/" + leaseName(owner(3)):                         "",
		"attachments/" + leaseName(owner(4)):                         string(good),
		"attachments/" + leaseName(owner(5)):                         string(good[:len(good)/2]),
		"attachments/readme":                                         "hello",
		"released/10.0.0.9.json":                                     "{",
		"attachments/." + leaseName(owner(6)) + ".tmp":               "half",
		"attachments/" + strings.Repeat("0", 40) + ".json/directory": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second start finds them aside
		if m, err = Open(dir, Options{}); err != nil {
			t.Fatal(err)
		}
		if got := m.Corrupt(); len(got) != 7 {
			t.Errorf("%d files aside, want 7: %v", len(got), got)
		}
		if got := m.Leases(); len(got) != 1 || got[0].Owner != owner(1) {
			t.Errorf("leases: got %v, want that of %v", got, owner(1))
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, attachmentsDir))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v, want one", left, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, corruptDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, corruptDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := m.Corrupt(); len(got) != 0 {
		t.Errorf("after they were removed: %v", got)
	}
}

func FuzzDecodeLease(f *testing.F) {
	l := Lease{Owner: owner(1), Network: "weft", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Meta: json.RawMessage(`{"a":[1]}`)}
	good, err := json.Marshal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte(`{"containerID":"a","ifname":"b","addrs":["::ffff:1.2.3.4","fe80::1%eth0"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o Owner
		if json.Unmarshal(data, &o) != nil {
			return
		}
		l, err := decodeLease(leaseName(o), data)
		if err != nil {
			return
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatalf("a lease that was read cannot be written: %v", err)
		}
		if _, err := decodeLease(leaseName(l.Owner), again); err != nil {
			t.Fatalf("a lease that was written cannot be read: %v", err)
		}
		if _, err := decodeReleased(releasedName(l.Addrs), again); err != nil {
			t.Fatalf("its addresses cannot be noted as released: %v", err)
		}
	})
}
