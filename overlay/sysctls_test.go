package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/reconcile"
	"golang.org/x/sys/unix"
)

func TestSysctls(t *testing.T) {
	newNetns(t)
	sh(t, `
		ip link add up0 type veth peer name up1
		sysctl -qw net.ipv6.conf.up0.accept_ra=1 net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.up1.forwarding=0
		sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.up0.forwarding=1 net.ipv6.conf.up1.forwarding=1 net.ipv6.conf.up1.accept_ra=0
		sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.up1.rp_filter=2
		ip link add weft-vxlan type vxlan external dstport 8872`)
	digest := func() string { return sh(t, "sysctl -a --pattern net.ipv[46].(conf|ip_forward)") }
	before := digest()
	file := filepath.Join(t.TempDir(), "sysctls.json")
	s := NewSysctls(file)
	both := prefixList("10.244.1.0/24", "fd00:244:1::/64")
	ups := []Uplink{{Name: "up0"}, {Name: "up1"}, {Name: "gone"}}
	wanted := func() map[string]string {
		t.Helper()
		rows, err := s.Wanted(both, ups)
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	want := map[string]string{
		"net/ipv4/ip_forward":                   "1",
		"net/ipv4/conf/weft-vxlan/forwarding":   "1",
		"net/ipv4/conf/weft-vxlan/rp_filter":    "0",
		"net/ipv4/conf/all/rp_filter":           "0",
		"net/ipv4/conf/up0/rp_filter":           "1", // what it was by that of all
		"net/ipv6/conf/all/forwarding":          "1",
		"net/ipv6/conf/weft-vxlan/disable_ipv6": "0",
		"net/ipv6/conf/up0/accept_ra":           "2",
	}
	if d := diff(wanted(), want); d != "" {
		t.Errorf("wanted (-got +want):\n%s", d)
	}
	sync := func() {
		t.Helper()
		tab := reconcile.New("sysctl", s)
		tab.AllowPrune()
		tab.Put("self", wanted())
		if err := (reconcile.Group{tab}).Sync(true); err != nil {
			t.Fatal(err)
		}
		got, err := s.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(got, want); d != "" {
			t.Errorf("dump (-got +want):\n%s", d)
		}
	}
	sync()
	s = NewSysctls(file) // restarted: still wants accept_ra, still knows what was
	sh(t, "sysctl -qw net.ipv4.conf.weft-vxlan.forwarding=0 net.ipv4.ip_forward=0 net.ipv6.conf.up0.accept_ra=1 net.ipv4.conf.all.rp_filter=2")
	sync()
	if err := NewSysctls(file).Restore(); err != nil {
		t.Fatal(err)
	}
	if d := diff(digest(), before); d != "" {
		t.Errorf("after restore (-got +want):\n%s", d)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	if err := s.Delete("net/ipv4/tcp_sack"); err != nil {
		t.Errorf("delete of what is not ours: %v", err)
	}
}

func TestSysctlsSurviveABadFile(t *testing.T) {
	newNetns(t)
	for _, content := range []string{"", "{\"net/", "null", "[]"} {
		file := filepath.Join(t.TempDir(), "sysctls.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s := NewSysctls(file)
		if err := s.Set(forward4, "1"); err != nil {
			t.Errorf("%q: %v", content, err)
		}
		if rows, err := NewSysctls(file).Dump(); err != nil || rows[forward4] != "1" {
			t.Errorf("%q: got %v %v, want ip_forward", content, rows, err)
		}
	}
}

// TestRouteByAdvertisementSurvivesForwarding has a default route from a real
// router advertisement, which the kernel forgets when forwarding begins unless
// accept_ra is 2 by then.
func TestRouteByAdvertisementSurvivesForwarding(t *testing.T) {
	for _, ours := range []bool{true, false} { // false shows that the test can fail
		newNetns(t)
		sh(t, `
			ip link add up0 type veth peer name up1
			sysctl -qw net.ipv6.conf.up0.accept_ra=1 net.ipv6.conf.all.forwarding=0
			sysctl -qw net.ipv6.conf.up0.accept_dad=0 net.ipv6.conf.up1.accept_dad=0
			ip link set up0 up
			ip link set up1 up`)
		advertise(t, "up1")
		hasRoute := func() bool { return strings.Contains(sh(t, "ip -6 route show default"), "proto ra") }
		for deadline := time.Now().Add(20 * time.Second); !hasRoute(); {
			if time.Now().After(deadline) {
				t.Fatalf("no route from the advertisement: %q", sh(t, "ip -6 route"))
			}
		}
		s := NewSysctls(filepath.Join(t.TempDir(), "sysctls.json"))
		if ours {
			if _, err := s.Wanted(prefixList("fd00:244:1::/64"), []Uplink{{Name: "up0"}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Set(forward6, "1"); err != nil { // the worst order
			t.Fatal(err)
		}
		if got := hasRoute(); got != ours {
			t.Errorf("accept_ra set before: %v, default route there after: %v", ours, got)
		}
	}
}

// advertise sends a router advertisement (RFC 4861, section 4.2).
func advertise(t *testing.T, link string) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		t.Fatal(err)
	}
	ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0} // lifetime 1800 s
	to := &unix.SockaddrInet6{ZoneId: uint32(ifindex(t, link)), Addr: addr("ff02::1").As16()}
	for deadline := time.Now().Add(20 * time.Second); ; { // until the device has its address
		err := unix.Sendto(s, ra, 0, to)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("send advertisement: %v", err)
		}
	}
}
