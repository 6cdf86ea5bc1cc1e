package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/internal/testnet"
	"golang.org/x/sys/unix"
)

func TestNeighbours(t *testing.T) {
	veth, _ := testDevices(t)
	foreignDev := ifindex(t, "p0")
	sh(t, `
		ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 nud permanent dev p0
		ip neigh add 10.9.9.8 lladdr 02:00:00:00:00:08 nud reachable dev weft0
		ip neigh add proxy 10.9.9.7 dev weft0`)
	before := sh(t, "ip neigh show dev p0\nip neigh show proxy")
	n := NewNeighbours(func(link string) bool { return strings.HasPrefix(link, "weft") })
	defer n.Close()
	rows := map[NeighKey]NeighMAC{
		{veth, addr("10.244.1.5")}:    {2, 0, 0, 0, 0, 5},
		{veth, addr("fd00:244:1::5")}: {2, 0, 0, 0, 0, 6},
	}
	tab := reconcile.New("neigh", n)
	tab.AllowPrune()
	tab.Put("pod:a/eth0", rows)
	for _, damage := range []struct{ name, script string }{
		{"nothing", ""},
		{"deleted", "ip neigh del 10.244.1.5 dev weft0\nip neigh del fd00:244:1::5 dev weft0"},
		{"MAC", "ip neigh replace 10.244.1.5 dev weft0 lladdr 02:00:00:00:00:77 nud permanent"},
		{"state", "ip neigh replace 10.244.1.5 dev weft0 lladdr 02:00:00:00:00:05 nud stale\nip neigh replace fd00:244:1::5 dev weft0 lladdr 02:00:00:00:00:06 nud reachable"},
		{"left over", "ip neigh add 10.244.1.6 dev weft0 lladdr 02:00:00:00:00:77 nud permanent"},
	} {
		sh(t, damage.script)
		if err := (reconcile.Group{tab}).Sync(true); err != nil {
			t.Errorf("%s: %v", damage.name, err)
		}
		got, err := n.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(got, rows); d != "" {
			t.Errorf("%s (-got +want):\n%s", damage.name, d)
		}
	}
	tab.Put("pod:a/eth0", nil)
	if err := tab.PruneOwner("pod:a/eth0"); err != nil {
		t.Error(err)
	}
	for k := range rows {
		if err := n.Delete(k); err != nil {
			t.Errorf("delete again: %v", err)
		}
		k.LinkIndex = 4711
		if err := n.Delete(k); err != nil {
			t.Errorf("delete from a device that is gone: %v", err)
		}
	}
	if got, err := n.Dump(); err != nil || len(got) != 0 {
		t.Errorf("after delete: got %v %v, want none", got, err)
	}
	if d := diff(sh(t, "ip neigh show dev p0\nip neigh show proxy"), before); d != "" {
		t.Errorf("foreign neighbours on link %d changed (-got +want):\n%s", foreignDev, d)
	}
}

func TestAddresses(t *testing.T) {
	newNetns(t)
	a := NewAddresses(DeviceName)
	defer a.Close()
	if got, err := a.Dump(); err != nil || len(got) != 0 {
		t.Errorf("without device: got %v %v, want none", got, err)
	}
	gone := AddrKey{4711, netip.MustParsePrefix("10.244.1.1/32")}
	if err := a.Delete(gone); err != nil {
		t.Errorf("delete without device: %v", err)
	}
	self := Node{PodCIDRs: prefixList("10.244.1.0/24", "fd00:244:1::/64")}
	tab := reconcile.New("addr", a)
	tab.AllowPrune()
	device := func() int {
		sh(t, "ip link add weft-vxlan type vxlan external dstport 8872\nip link set weft-vxlan up")
		return ifindex(t, DeviceName)
	}
	index := device()
	named := func() string { return sh(t, "ip route show proto 87") } // routes that name the address
	for _, damage := range []struct{ name, script string }{
		{"nothing", ""},
		{"deleted", "ip addr del 10.244.1.1/32 dev weft-vxlan\nip addr del fd00:244:1::1/128 dev weft-vxlan"},
		{"expiring", "ip addr change 10.244.1.1/32 dev weft-vxlan valid_lft 100 preferred_lft 100\nip addr change fd00:244:1::1/128 dev weft-vxlan valid_lft 100 preferred_lft 100"},
		{"local routes deleted", "ip route del local 10.244.1.1 dev weft-vxlan table local\nip -6 route del local fd00:244:1::1 dev weft-vxlan table local"},
		{"left over", "ip addr add 10.9.9.9/24 dev weft-vxlan\nip addr add fd00:9::9/64 dev weft-vxlan"},
		{"device made anew", "ip link del weft-vxlan"},
	} {
		if damage.name == "local routes deleted" {
			sh(t, "ip route add 10.244.2.0/24 dev weft-vxlan src 10.244.1.1 proto 87")
		}
		before := named()
		sh(t, damage.script)
		if _, err := net.InterfaceByName(DeviceName); err != nil {
			index = device()
		}
		rows := SelfAddrs(Config{Device: index}, self)
		tab.Put("self", rows)
		if err := (reconcile.Group{tab}).Sync(damage.name != "device made anew"); err != nil {
			t.Errorf("%s: %v", damage.name, err)
		}
		got, err := a.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(got, rows); d != "" {
			t.Errorf("%s (-got +want):\n%s", damage.name, d)
		}
		if after := named(); damage.name == "local routes deleted" && (before == "" || after != before) {
			t.Errorf("%s: routes from the address were %q, are %q", damage.name, before, after)
		}
		for k := range rows {
			testnet.Until(t, 10*time.Second, func() error {
				out := sh(t, "ip route show table local dev weft-vxlan\nip -6 route show table local dev weft-vxlan")
				if !strings.Contains(out, "local "+k.Prefix.Addr().String()) {
					return fmt.Errorf("%s: no local route of %s:\n%s", damage.name, k.Prefix, out)
				}
				return nil
			})
		}
	}
	// Somebody's rule before the table local is no reason to set them again and again.
	sh(t, `ip rule add pref 100 lookup local
		ip -6 rule add pref 100 lookup local
		ip rule del pref 0
		ip -6 rule del pref 0
		ip rule add pref 50 to 10.244.1.0/24 blackhole
		ip -6 rule add pref 50 to fd00:244:1::/64 blackhole`)
	if got, err := a.Dump(); err != nil || len(got) != 2 {
		t.Errorf("behind a rule: got %v %v, want both addresses", got, err)
	}
	if out := sh(t, "ip addr show dev weft-vxlan scope global"); strings.Contains(out, "tentative") || !strings.Contains(out, "nodad") {
		t.Errorf("the IPv6 address is not usable at once:\n%s", out)
	}
	if out := sh(t, "ip -6 route show dev weft-vxlan"); strings.Contains(out, "fd00") {
		t.Errorf("the kernel made a prefix route: %s", out)
	}
}

// TestHostSendsToRemotePods compiles a peer's routes and watches the device: the
// kernel must send a frame at once, in both families, without asking for a MAC.
func TestHostSendsToRemotePods(t *testing.T) {
	_, vxlan := testDevices(t)
	_, routes, err := Compile(Config{Device: vxlan}, dual4, peerB, testPaths)
	if err != nil {
		t.Fatal(err)
	}
	tab := reconcile.New("routes", NewRoutes())
	tab.Put("node:b", routes)
	if err := tab.Write(); err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL << 8
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, all)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Ifindex: vxlan, Protocol: all}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dst, src string }{
		{"10.244.2.77", "10.244.1.1"}, {"10.244.2.78", "10.244.1.1"},
		{"fd00:244:2::77", "fd00:244:1::1"}, {"fd00:244:2::78", "fd00:244:1::1"},
	} {
		c, err := net.Dial("udp", netip.AddrPortFrom(addr(tt.dst), 9).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != addr(tt.src) {
			t.Errorf("to %s: source %s, want %s", tt.dst, got, tt.src)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 2000); ; {
			n, _, err := unix.Recvfrom(s, b, 0)
			if err == unix.EINTR { // a timeout forbids the kernel to go on by itself: signal(7)
				continue
			}
			if err != nil {
				t.Fatalf("to %s: no frame on the device: %v", tt.dst, err)
			}
			if strings.Contains(string(b[:n]), string(addr(tt.dst).AsSlice())) && strings.HasSuffix(string(b[:n]), "hello") {
				break
			}
		}
	}
	if got := strings.Count(sh(t, "ip neigh show nud noarp dev weft-vxlan"), "10.244.2."); got != 1 {
		t.Errorf("got %d IPv4 neighbours on the device, want 1 for the node", got)
	}
}
