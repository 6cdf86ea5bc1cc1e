package endpoint

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// newDatapathNode is a node with the real programs and maps.
func newDatapathNode(t testing.TB) *node {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path, err := bpf.Open(bpf.Options{Dir: dir + "/weft", Config: bpf.Config{VNI: overlay.DefaultVNI, Port: overlay.DefaultPort}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = path.Close() })
	n := newNode(t)
	n.path = path
	n.start(pools...)
	return n
}

func TestPodsReachEachOtherThroughTheRealDatapath(t *testing.T) {
	n := newDatapathNode(t)
	ctx := context.Background()
	x, y, slow := attach(t), attach(t), attach(t)
	const rate = 16e6
	slow.Bandwidth = &api.Bandwidth{IngressRate: rate, IngressBurst: 400e3, EgressRate: rate, EgressBurst: 400e3}
	addrs := map[string][]netip.Addr{}
	for _, a := range []api.Attach{x, y, slow} {
		addrs[a.Netns] = n.mustAdd(a)
		if err := n.Check(ctx, a); err != nil {
			t.Fatalf("check: %v", err)
		}
	}
	for i := range n.net.Gateways {
		for _, way := range [][2]string{{x.Netns, y.Netns}, {"", x.Netns}, {x.Netns, slow.Netns}, {slow.Netns, x.Netns}} {
			if err := connect(t, way[0], way[1], addrs[way[1]][i]); err != nil {
				t.Errorf("from %q to %s: %v", way[0], addrs[way[1]][i], err)
			}
		}
		if err := connect(t, x.Netns, "", n.net.Gateways[i]); err != nil {
			t.Errorf("from a pod to the node: %v", err)
		}
		for _, way := range [][2]string{{x.Netns, slow.Netns}, {slow.Netns, x.Netns}} {
			floods(t, "limited", way[0], way[1], addrs[way[1]][i], 500*time.Millisecond, rate/4, 1.1*(rate+2*400e3))
		}
	}
	for _, a := range []api.Attach{x, y, slow} {
		if err := n.Del(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	if rows, err := n.path.Endpoints().Dump(); len(rows) > 0 || err != nil {
		t.Errorf("rows are left: %v, %v", rows, err)
	}
	if links, err := n.path.Links().Dump(); len(links) > 0 || err != nil {
		t.Errorf("links are left: %v, %v", links, err)
	}
}

func TestCheckFindsRealRowsAndProgramsMissing(t *testing.T) {
	n := newDatapathNode(t)
	ctx := context.Background()
	a := attach(t)
	addrs := n.mustAdd(a)
	if err := n.path.Endpoints().Delete(addrs[1]); err != nil {
		t.Fatal(err)
	}
	wantCode(t, n.Check(ctx, a), api.CodeMissing)
	if err := n.Repair(ctx, ownerOfAttach(a)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(ctx, a); err != nil {
		t.Error(err)
	}
	hook := bpf.Hook{Program: bpf.FromPod, IfIndex: n.get(ownerOfAttach(a)).host.index}
	if err := n.path.Links().Delete(hook); err != nil {
		t.Fatal(err)
	}
	wantCode(t, n.Check(ctx, a), api.CodeMissing)
	if err := n.Repair(ctx, ownerOfAttach(a)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(ctx, a); err != nil {
		t.Error(err)
	}
}

// A pod's program sees its packets before they are redirected to be limited, and is
// itself no reason to send a pod's packets through the stack.
func TestProgramComesBeforeTheRedirection(t *testing.T) {
	n := newDatapathNode(t)
	ctx := context.Background()
	plain, slow := attach(t), attach(t)
	slow.Bandwidth = &api.Bandwidth{EgressRate: 16e6}
	for _, a := range []api.Attach{plain, slow} {
		n.mustAdd(a)
		if err := n.Repair(ctx, ownerOfAttach(a)); err != nil {
			t.Fatal(err)
		}
		if err := n.Check(ctx, a); err != nil {
			t.Error(err)
		}
	}
	if n.get(ownerOfAttach(plain)).stack {
		t.Error("the program's filter counts as one that must see the packets")
	}
	got := run(t, "tc filter show dev "+hostName(ownerOfAttach(slow))+" ingress")
	program, redirection := strings.Index(got, "pref 1 bpf"), strings.Index(got, "pref 2 u32")
	if program < 0 || redirection < program || !strings.Contains(got, bpf.FilterPrefix+string(bpf.FromPod)) {
		t.Errorf("filters are\n%s", got)
	}
}
