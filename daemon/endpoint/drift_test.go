package endpoint

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/api"
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
	if len(n.link.m) != len(podPrograms) {
		t.Errorf("got %d programs attached, want %d", len(n.link.m), len(podPrograms))
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

// Of most sysctls there are no events: a pod in each sweep is looked at, and many after one that was odd.
func TestSweepLooksAtMoreAfterOneThatWasOdd(t *testing.T) {
	n := newNode(t)
	var files []string
	for range 5 {
		a := attach(t)
		n.mustAdd(a)
		files = append(files, "/proc/sys/net/ipv4/conf/"+hostName(ownerOfAttach(a))+"/rp_filter")
	}
	odd := func() (count int) {
		t.Helper()
		if err := n.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != "0\n" {
				count++
			}
		}
		return count
	}
	for range 2 {
		for _, f := range files {
			if err := os.WriteFile(f, []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := odd(); got != len(files)-1 {
			t.Errorf("%d of %d are odd after a sweep, want all but one", got, len(files))
		}
		if got := odd(); got != 0 {
			t.Errorf("%d are odd after another", got)
		}
		odd() // finds nothing: the next looks at one
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
	a.Bandwidth = &api.Bandwidth{IngressRate: 16e6, EgressRate: 16e6}
	addrs := n.mustAdd(a)
	run(t, "ip link add foreign-br type bridge")
	t.Cleanup(func() { run(t, "ip link del foreign-br") })
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
		{host: "ip link del IFB"},
		{host: "ip link set IFB down"},
		{host: "tc qdisc del dev IFB root"},
		{host: "tc qdisc change dev HOST root handle 1: tbf rate 16mbit burst 200 limit 300"},
		{host: "tc qdisc change dev IFB root handle 1: tbf rate 16mbit burst 100mb limit 100mb"},
		{host: "tc qdisc del dev HOST root\ntc qdisc add dev HOST root handle 1: pfifo"},
		{host: "tc filter del dev HOST ingress pref 2"},
		{host: "ip link set HOST master foreign-br"},
		{host: "sysctl -q -w net.ipv4.conf.HOST.rp_filter=1"},
		{host: "sysctl -q -w net.ipv4.conf.HOST.forwarding=0"},
	} {
		if damage.pod != "" {
			in(t, a.Netns, fill(damage.pod, a, addrs))
		}
		for line := range strings.Lines(damage.host) {
			run(t, strings.TrimSpace(fill(line, a, addrs)))
		}
		until(t, "mend "+damage.pod+damage.host, well)
	}
}

func TestSweepLooksAtDevicesWhenSomethingWasHeard(t *testing.T) {
	n := newNode(t)
	n.mustAdd(attach(t))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	sweep := func() (looked bool) {
		t.Helper()
		n.pass(deadAfter)
		if err := n.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		return n.unrest.looked.Equal(n.Now())
	}
	if !sweep() {
		t.Error("the first sweep looks at no device")
	}
	until(t, "come to rest", func() bool { return n.unrest.listening.Load() && !sweep() })
	orphan := hostName(ipam.Owner{ContainerID: "orphan", IfName: "eth0"})
	run(t, "ip link add "+orphan+" type veth peer name p0")
	until(t, "hear of "+orphan, n.unrest.stirred.Load)
	for range 2 {
		if !sweep() {
			t.Error("no look at the devices while one is an orphan")
		}
	}
	if _, err := os.Stat("/sys/class/net/" + orphan); err == nil {
		t.Error("orphan is left")
	}
	until(t, "come to rest again", func() bool { return !sweep() })
	n.pass(wholeEvery)
	if !sweep() {
		t.Errorf("no look at the devices in %s", wholeEvery)
	}
}

func TestEventsOfOtherDevicesAreNotOurs(t *testing.T) {
	for _, c := range []struct {
		name, alias string
		ours        bool
	}{
		{"eth0", "", false},
		{"veth1234", "weft", false},
		{"weft0123456789a", "", true},
		{"wifb0123456789a", "", true},
		{"renamed", "weft:c/eth0", true},
	} {
		m := newMessage(unix.RTM_NEWLINK, 0, ifInfo(7, 0, 0)).str(unix.IFLA_IFNAME, c.name).str(unix.IFLA_IFALIAS, c.alias)
		if got := eventOurs(unix.RTM_NEWLINK, m.b[unix.SizeofNlMsghdr:]); got != c.ours {
			t.Errorf("device %q with alias %q: got %v, want %v", c.name, c.alias, got, c.ours)
		}
	}
}

func TestEventsOfTheKernelsOwnNeighboursAreIdle(t *testing.T) {
	for _, c := range []struct {
		typ   uint16
		dst   string
		state uint16
		idle  bool
	}{
		{unix.RTM_DELNEIGH, "10.244.1.1", unix.NUD_PERMANENT, false},
		{unix.RTM_DELNEIGH, "fd00:244:1::1", unix.NUD_FAILED, false},
		{unix.RTM_NEWNEIGH, "10.244.1.1", unix.NUD_NOARP, false},
		{unix.RTM_DELNEIGH, "10.244.1.1", unix.NUD_NOARP, true},
		{unix.RTM_DELNEIGH, "ff02::2", unix.NUD_NOARP, true},
		{unix.RTM_DELNEIGH, "224.0.0.22", unix.NUD_NOARP, true},
		{unix.RTM_NEWNEIGH, "fe80::1", unix.NUD_STALE, true},
	} {
		a := netip.MustParseAddr(c.dst)
		header := make([]byte, unix.SizeofNdMsg)
		header[0] = family(a)
		native.PutUint16(header[8:], c.state)
		m := newMessage(c.typ, 0, header).attr(unix.NDA_DST, a.AsSlice())
		if got := eventIdle(c.typ, m.b[unix.SizeofNlMsghdr:]); got != c.idle {
			t.Errorf("neighbour %s, state %#x, message %d: got %v, want %v", c.dst, c.state, c.typ, got, c.idle)
		}
	}
}
