package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
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

func TestNotesGoWhenTheReuseDelayIsOver(t *testing.T) {
	f, c := newFakeFS(), newClock()
	m := open(t, f, c, "10.0.0.0/24")
	for i := range 20 {
		allocate(t, m, i)
	}
	for i := range 19 {
		release(t, m, i)
	}
	c.pass(20 * time.Second)
	release(t, m, 19)
	notes := func() int {
		names, err := f.List("/state/" + releasedDir)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	tidy := func() {
		if err := m.Tidy(); err != nil {
			t.Fatal(err)
		}
	}
	if tidy(); notes() != 20 {
		t.Errorf("within the delay %d notes are left, want 20", notes())
	}
	c.pass(10 * time.Second)
	if tidy(); notes() != 1 {
		t.Errorf("when the delay of all but one is over, %d notes are left, want 1", notes())
	}
	c.pass(20 * time.Second)
	if tidy(); notes() != 0 {
		t.Errorf("when all delays are over, %d notes are left, want none", notes())
	}
	tidy() // nothing is left to do
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

// fullFS is a file system with room for so many more files.
type fullFS struct {
	*fakeFS
	room  int
	eager bool // others take what room there is
}

func (f *fullFS) WriteFile(path string, data []byte) error {
	if f.room <= 0 || f.eager {
		return syscall.ENOSPC
	}
	f.room--
	return f.fakeFS.WriteFile(path, data)
}

func (f *fullFS) Remove(path string) error {
	if f.names[path] != nil {
		f.room++
	}
	return f.fakeFS.Remove(path)
}

// A pod that cannot be deleted would keep the disk full.
func TestReleaseNeedsNoRoomOnTheDisk(t *testing.T) {
	for name, eager := range map[string]bool{"room for one file comes with it": false, "others take that": true} {
		t.Run(name, func(t *testing.T) {
			f, c := &fullFS{fakeFS: newFakeFS(), room: 1}, newClock()
			m := open(t, f, c, "10.0.0.0/24")
			was := allocate(t, m, 1)[0]
			f.eager = eager
			if _, err := m.Allocate(Request{Owner: owner(2)}); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("allocate on a full disk: got %v, want %v", err, syscall.ENOSPC)
			}
			release(t, m, 1)
			if s := m.Pools()[0]; s.Used != 0 || s.Cooling != 1 {
				t.Errorf("%d addresses are used and %d rest, want 0 and 1", s.Used, s.Cooling)
			}
			f.crash(func() bool { return false })
			f.room, f.eager = 10, false
			m = open(t, f, c, "10.0.0.0/24")
			if left := m.Leases(); len(left) != 0 {
				t.Errorf("leases after a restart: %v", left)
			}
			if got := allocate(t, m, 3)[0]; !eager && got == was {
				t.Errorf("%s is given out again at once after a restart", got)
			}
		})
	}
}

// readOnlyFS is a file system that an error has made read-only, as ext4 does.
type readOnlyFS struct {
	*fakeFS
	on bool
}

func (f *readOnlyFS) WriteFile(path string, data []byte) error {
	if f.on {
		return syscall.EROFS
	}
	return f.fakeFS.WriteFile(path, data)
}

func (f *readOnlyFS) Remove(path string) error {
	if f.on {
		return syscall.EROFS
	}
	return f.fakeFS.Remove(path)
}

// Else some hundred failed calls would make an empty pool of it, which the next ones report.
func TestAllocateThatCannotWriteTakesNoAddress(t *testing.T) {
	f := &readOnlyFS{fakeFS: newFakeFS()}
	m := open(t, f, newClock(), "10.0.0.0/29")
	f.on = true
	for i := range 10 { // twice as many as there are addresses
		if _, err := m.Allocate(Request{Owner: owner(i)}); !errors.Is(err, syscall.EROFS) {
			t.Fatalf("call %d: got %v, want %v", i, err, syscall.EROFS)
		}
	}
	if left := m.Leases(); len(left) != 0 || m.Pools()[0].Used != 0 {
		t.Errorf("left are %d addresses in use, leases %v", m.Pools()[0].Used, left)
	}
	f.on = false
	for i := range 5 {
		allocate(t, m, 20+i)
	}
}
