package endpoint

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
)

func TestSingleFamilies(t *testing.T) {
	for _, prefix := range pools {
		t.Run(prefix.String(), func(t *testing.T) {
			n := newNode(t, prefix)
			a := attach(t)
			addrs := n.mustAdd(a)
			if len(addrs) != 1 || !prefix.Contains(addrs[0]) {
				t.Fatalf("got %v", addrs)
			}
			if err := connect(t, a.Netns, "", n.net.Gateways[0]); err != nil {
				t.Error(err)
			}
			if err := n.Check(context.Background(), a); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSecondInterfaceLeavesTheFirstDefaultRoute(t *testing.T) {
	n := newNode(t)
	first := attach(t)
	second := first
	second.IfName = "net1"
	n.mustAdd(first)
	n.mustAdd(second)
	for _, a := range []api.Attach{first, second} {
		if err := n.Check(context.Background(), a); err != nil {
			t.Errorf("%s: %v", a.IfName, err)
		}
	}
	if out := in(t, first.Netns, "ip route get 192.0.2.1"); !strings.Contains(out, "dev eth0") {
		t.Errorf("the default route went to the second interface: %s", out)
	}
	if err := n.Del(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), second); err != nil {
		t.Errorf("after DEL of the first: %v", err)
	}
}

func TestAskedAddress(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	a.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.77")}
	if got := n.mustAdd(a); got[0] != a.IPs[0] {
		t.Errorf("got %v, want %v", got, a.IPs)
	}
	b := attach(t)
	b.IPs = a.IPs
	_, err := n.Add(context.Background(), b)
	wantCode(t, err, api.CodeTryAgain)
}

func TestIPv6IsSwitchedOnForThePod(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	in(t, a.Netns, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	addrs := n.mustAdd(a)
	if err := connect(t, "", a.Netns, addrs[1]); err != nil {
		t.Error(err)
	}
	in(t, a.Netns, "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1")
	err := n.Check(context.Background(), a)
	if err == nil || !strings.Contains(err.Error(), "disable_ipv6 is 1, not 0") {
		t.Errorf("check: got %v", err)
	}
	if err := n.Repair(context.Background(), ownerOfAttach(a)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
}

func TestCallsOfOneAttachmentWaitAsLongAsTheirContext(t *testing.T) {
	n := newNode(t)
	a, b := attach(t), attach(t)
	unlock, err := n.locks.lock(context.Background(), ownerOfAttach(a))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = n.Add(ctx, a)
	wantCode(t, err, api.CodeTryAgain)
	wantCode(t, n.Del(ctx, a), api.CodeTryAgain)
	n.mustAdd(b) // others do not wait
	unlock()
	n.mustAdd(a)
	if len(n.locks.m) != 0 {
		t.Errorf("%d locks are left", len(n.locks.m))
	}
}

func TestAddWhoseRuntimeIsGoneIsUndone(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	ctx, cancel := context.WithCancel(context.Background())
	n.rows.hook = cancel // the runtime dies while the rows are written
	_, err := n.Add(ctx, a)
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Fatalf("got %v", err)
	}
	n.mustBeClean(a)
}

// mortal is a caller who dies right after so many looks at it.
type mortal struct {
	context.Context
	looks int
	dies  func()
}

func (m *mortal) Err() error {
	if m.looks--; m.looks == 0 {
		m.dies()
	}
	if m.looks < 0 {
		return context.Canceled
	}
	return nil
}

// The runtime kills the plugin at any moment, and its DEL leaves a tombstone. That ends
// what this ADD makes, whether before or after it is answered, and were the daemon to die.
func TestAddHeedsTheTombstoneThatFollowsIt(t *testing.T) {
	n := newNode(t)
	for looks := 0; ; looks++ {
		a, made := attach(t), false
		n.rows.hook = func() { made = true }
		_, err := n.Add(&mortal{t.Context(), looks, func() { n.leaveTombstone(a) }}, a)
		if _, gone := os.Stat(n.tombstonePath(ownerOfAttach(a))); looks > 0 && gone != nil && made {
			t.Errorf("dead after look %d: the ADD took the tombstone for older, and went on", looks)
		}
		if err := n.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.mustBeClean(a)
		if err == nil {
			if looks < 3 {
				t.Errorf("answered after %d looks", looks)
			}
			return
		}
	}
}

func TestUndoThatFailsIsFinishedByDel(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.link.fail = errors.New("no program")
	n.rows.failDelete = errors.New("map is away")
	if _, err := n.Add(context.Background(), a); err == nil {
		t.Fatal("add succeeded")
	}
	if _, ok := n.IPAM.Get(ownerOfAttach(a)); !ok {
		t.Fatal("lease is gone though rows are left")
	}
	wantCode(t, n.Del(context.Background(), a), api.CodeTryAgain)
	n.rows.failDelete = nil
	if err := n.Del(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	n.mustBeClean(a)
}

// Its runtime has gone and left a tombstone: an ADD may have come since.
func TestCallsWhoseRuntimeIsGoneBeforeTheyBeginDoNothing(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 { // were it by chance, it would be of two
		wantCode(t, n.Del(ctx, a), api.CodeTryAgain)
		if err := n.GC(ctx, api.GC{Network: a.Network}); err == nil {
			t.Error("GC succeeded")
		}
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("the pod suffered: %v", err)
	}
}

// The node may come back with one family less; its pods keep what they have.
func TestPodOutlivesAFamilyThatItsNodeLost(t *testing.T) {
	for i, left := range pools {
		t.Run("only "+left.String()+" left", func(t *testing.T) {
			n := newNode(t)
			a := attach(t)
			n.mustAdd(a)
			gateway := []string{gateway6 + "/128 dev lo nodad", gateway4 + "/32 dev lo"}[i]
			run(t, "ip addr del "+gateway)
			t.Cleanup(func() { run(t, "ip addr add "+gateway) })
			n.net.Gateways = gatewaysOf([]netip.Prefix{left})
			ctx := context.Background()
			if err := n.Repair(ctx, ownerOfAttach(a)); err != nil {
				t.Error(err)
			}
			n.sync(true)
			n.net.MTU = 1400
			for range 2 { // the second goes by what the first has noted
				if err := n.SetMTU(n.net.MTU); err != nil {
					t.Error(err)
				}
				n.net.MTU = 1300
			}
			if err := n.Check(ctx, a); err != nil {
				t.Error(err)
			}
			n.start(left)
			if err := n.Restore(ctx); err != nil {
				t.Fatal(err)
			}
			n.sync(true)
			if err := n.Check(ctx, a); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}
