package overlay

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLookupPath(t *testing.T) {
	testDevices(t)
	sh(t, `
		ip route add default via 192.0.2.254
		ip route add default via fe80::fe dev weft0
		ip route add 198.51.100.0/24 via 192.0.2.253 mtu 1400
		ip route add 203.0.113.0/24 via inet6 2001:db8::fd dev weft0
		ip route add unreachable 203.0.113.128/25`)
	veth := ifindex(t, "weft0")
	base := Path{LinkIndex: veth, LinkName: "weft0", LinkMTU: 1500, MTU: 1500, Src: addr("192.0.2.1")}
	with := func(f func(*Path)) Path { p := base; f(&p); return p }
	tests := []struct {
		dst  string
		want Path
		fail error // nil: any, if want is zero
	}{
		{"192.0.2.2", with(func(p *Path) { p.NextHop, p.OnLink = addr("192.0.2.2"), true }), nil},
		{"::ffff:192.0.2.2", with(func(p *Path) { p.NextHop, p.OnLink = addr("192.0.2.2"), true }), nil},
		{"10.1.1.1", with(func(p *Path) { p.NextHop = addr("192.0.2.254") }), nil},
		{"198.51.100.7", with(func(p *Path) { p.NextHop, p.MTU = addr("192.0.2.253"), 1400 }), nil},
		{"203.0.113.7", with(func(p *Path) { p.NextHop = addr("2001:db8::fd") }), nil},
		{"2001:db8::2", with(func(p *Path) { p.Src, p.NextHop, p.OnLink = addr("2001:db8::1"), addr("2001:db8::2"), true }), nil},
		{"2001:db8:9::2", with(func(p *Path) { p.Src, p.NextHop = addr("2001:db8::1"), addr("fe80::fe") }), nil},
		{"192.0.2.1", Path{}, ErrLocal},
		{"2001:db8::1", Path{}, ErrLocal},
		{"203.0.113.200", Path{}, unix.EHOSTUNREACH},
	}
	var all []netip.Addr
	for _, tt := range tests {
		all = append(all, addr(tt.dst))
		got, err := LookupPath(addr(tt.dst))
		if (err != nil) != (tt.want == Path{}) || tt.fail != nil && !errors.Is(err, tt.fail) {
			t.Errorf("%s: got error %v, want %v", tt.dst, err, tt.fail)
		}
		if d := diff(got, tt.want); d != "" {
			t.Errorf("%s (-got +want):\n%s", tt.dst, d)
		}
	}
	if paths, err := LookupPaths(all); len(paths) != 6 || err == nil {
		t.Errorf("all together: got %d paths, error %v, want 6 and one", len(paths), err)
	}
}

// TestLookupPathSeesPMTU makes the kernel learn a path MTU from an ICMP error.
func TestLookupPathSeesPMTU(t *testing.T) {
	newNetns(t)
	sh(t, `
		ip link add up0 type veth peer name far0
		ip link set up0 up
		ip link set far0 up
		ip addr add 192.0.2.1/24 dev up0
		ip route add default via 192.0.2.254
		ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:fe nud permanent dev up0`)
	c, err := net.Dial("udp4", "198.51.100.3:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	// ICMP "fragmentation needed, MTU 1300" (RFC 1191), as the router would send.
	inner, _ := hex.DecodeString("4500001d000040004011" + "0000" + "c0000201" + "c6336403")
	udp := []byte{byte(port >> 8), byte(port), 0, 9, 0, 9, 0, 0}
	icmp := append([]byte{3, 4, 0, 0, 0, 0, 1300 >> 8, 1300 & 255}, append(inner, udp...)...)
	sum := checksum(icmp)
	icmp[2], icmp[3] = byte(sum>>8), byte(sum)
	ip, _ := hex.DecodeString("45000038000000004001" + "0000" + "c00002fe" + "c0000201")
	ip[3] = byte(20 + len(icmp))
	sum = checksum(ip)
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	up, _ := net.InterfaceByName("up0")
	far, _ := net.InterfaceByName("far0")
	frame := append(append(append([]byte{}, up.HardwareAddr...), far.HardwareAddr...), 8, 0)
	frame = append(frame, append(ip, icmp...)...)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: far.Index, Protocol: 8}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		p, err := LookupPath(addr("198.51.100.3"))
		if err != nil {
			t.Fatal(err)
		}
		if p.MTU == 1300 && p.LinkMTU == 1500 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want MTU 1300", p)
		}
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

func TestUplinks(t *testing.T) {
	testDevices(t)
	sh(t, `
		ip link add up0 type veth peer name up1
		ip link set up0 up mtu 9000
		ip link set up1 up mtu 1400
		ip addr add 203.0.113.1/24 dev up0
		ip addr add 203.0.113.2/24 dev up1
		ip addr add 192.0.2.77/32 dev lo`)
	check := func(name string, addrs []netip.Addr, want ...string) {
		t.Helper()
		got, err := Uplinks(addrs)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, u := range got {
			names = append(names, u.Name)
		}
		if d := diff(names, want); d != "" {
			t.Errorf("%s (-got +want):\n%s", name, d)
		}
	}
	check("none", nil)
	check("by address; lo and ours are none", addrList("203.0.113.1", "192.0.2.77", "192.0.2.1"), "up0")
	sh(t, "ip route add default via 203.0.113.9 dev up1")
	check("by default route", addrList("192.0.2.77"), "up1")
	sh(t, "ip route replace default nexthop via 203.0.113.9 dev up0 nexthop via 203.0.113.9 dev up1")
	check("by several next hops", addrList("192.0.2.77"), "up1", "up0") // in the order of their indexes
	sh(t, "ip route del default\nip -6 route add default via fe80::1 dev up1")
	check("by IPv6", nil, "up1")
	sh(t, "ip link set up1 down\nip -6 route flush dev up1")
	check("down", addrList("203.0.113.2"))
}
