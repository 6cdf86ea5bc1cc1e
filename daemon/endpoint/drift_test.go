package endpoint

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/ipam"
)

func TestSweepRemakesWhatALivePodLost(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	run(t, "ip link del "+hostName(ownerOfAttach(a)))
	if err := n.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
	if err := connect(t, "", a.Netns, addrs[1]); err != nil {
		t.Error(err)
	}
	if len(n.link.m) != 1 {
		t.Errorf("got %d program links, want 1", len(n.link.m))
	}
}

func TestSweepRemovesDevicesWithoutAttachmentButNoForeignOnes(t *testing.T) {
	n := newNode(t)
	orphan := ipam.Owner{ContainerID: "orphan", IfName: "eth0"}
	run(t, "ip link add "+hostName(orphan)+" type veth peer name p0")
	run(t, "ip link set "+hostName(orphan)+" alias "+alias(orphan))
	run(t, "ip link add weftforeign type veth peer name p1")
	t.Cleanup(func() { run(t, "ip link del weftforeign") })
	for range 2 {
		if err := n.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		n.pass(deadAfter)
	}
	if _, err := os.Stat("/sys/class/net/" + hostName(orphan)); err == nil {
		t.Error("orphan is left")
	}
	if _, err := os.Stat("/sys/class/net/weftforeign"); err != nil {
		t.Error("foreign device was deleted")
	}
}

func TestSetMTUReachesLivePods(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	n.net.MTU = 1380
	if err := n.SetMTU(1380); err != nil {
		t.Fatal(err)
	}
	out := in(t, a.Netns, "ip link show eth0") + in(t, a.Netns, "ip route show default") + in(t, a.Netns, "ip -6 route show default")
	if strings.Count(out, "mtu 1380") != 3 {
		t.Errorf("got\n%s", out)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
}

func TestPodsAreMendedBeforeTheNodeIsKnown(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	n.net = Net{Ready: os.ErrNotExist}
	run(t, "ip link set "+hostName(ownerOfAttach(a))+" down")
	if err := n.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	// What the file says is enough.
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
	if out := in(t, a.Netns, "ip link show eth0"); !strings.Contains(out, "mtu 1450") {
		t.Errorf("got %s", out)
	}
}

func TestGatewayThatChangesReachesLivePods(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	n.mustAdd(a)
	run(t, "ip addr add 10.244.1.254/32 dev lo")
	t.Cleanup(func() { run(t, "ip addr del 10.244.1.254/32 dev lo") })
	n.net.Gateways = []netip.Addr{netip.MustParseAddr("10.244.1.254"), n.net.Gateways[1]}
	if err := n.Repair(context.Background(), ownerOfAttach(a)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(context.Background(), a); err != nil {
		t.Error(err)
	}
	if err := connect(t, a.Netns, "", n.net.Gateways[0]); err != nil {
		t.Error(err)
	}
	n.restart()
	if got := run(t, "ip route show proto 87"); !strings.Contains(got, "src 10.244.1.254") {
		t.Errorf("host route after restart: %s", got)
	}
}

func TestWatchMendsDriftAtOnce(t *testing.T) {
	n := newNode(t)
	a := attach(t)
	addrs := n.mustAdd(a)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	well := func() bool { return n.Check(context.Background(), a) == nil }
	for _, damage := range []struct{ pod, host string }{
		{pod: "ip addr del ADDR4/32 dev eth0"},
		{pod: "ip -6 route del default"},
		{pod: "ip neigh del " + gateway6 + " dev eth0"},
		{host: "ip link set HOST down"},
		{host: "ip -6 route del ADDR6 dev HOST"},
		{host: "ip link del HOST"},
		{pod: "ip addr flush dev eth0"},
	} {
		if damage.pod != "" {
			in(t, a.Netns, fill(damage.pod, a, addrs))
		} else {
			run(t, fill(damage.host, a, addrs))
		}
		until(t, "mend "+damage.pod+damage.host, well)
	}
}
