package overlay

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func addrList(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, addr(s))
	}
	return out
}

func prefixList(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// compareAddrs lets cmp compare netip values, which have unexported fields.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func diff(got, want any) string { return cmp.Diff(got, want, compareAddrs) }

func TestOuterIsTheSameFromBothEnds(t *testing.T) {
	tests := []struct {
		name       string
		a, b       []string
		wantA      string
		wantB      string
		wantErrors bool
	}{
		{"IPv4", []string{"192.0.2.1"}, []string{"192.0.2.2"}, "192.0.2.1", "192.0.2.2", false},
		{"IPv6", []string{"2001:db8::1"}, []string{"2001:db8::2"}, "2001:db8::1", "2001:db8::2", false},
		{"both, IPv4 first", []string{"192.0.2.1", "2001:db8::1"}, []string{"192.0.2.2", "2001:db8::2"}, "192.0.2.1", "192.0.2.2", false},
		{"both, IPv6 first", []string{"2001:db8::1", "192.0.2.1"}, []string{"2001:db8::2", "192.0.2.2"}, "2001:db8::1", "2001:db8::2", false},
		{"preferred one missing at the peer", []string{"192.0.2.1", "2001:db8::1"}, []string{"2001:db8::2"}, "2001:db8::1", "2001:db8::2", false},
		{"ends prefer different ones", []string{"192.0.2.1", "2001:db8::1"}, []string{"2001:db8::2", "192.0.2.2"}, "192.0.2.1", "192.0.2.2", false},
		{"mapped address", []string{"::ffff:192.0.2.1"}, []string{"192.0.2.2"}, "192.0.2.1", "192.0.2.2", false},
		{"first of a family", []string{"192.0.2.1", "192.0.2.9"}, []string{"192.0.2.2", "192.0.2.8"}, "192.0.2.1", "192.0.2.2", false},
		{"nothing in common", []string{"192.0.2.1"}, []string{"2001:db8::2"}, "", "", true},
		{"no address", []string{"192.0.2.1"}, nil, "", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := Node{Name: "a", Addrs: addrList(tt.a...)}, Node{Name: "b", Addrs: addrList(tt.b...)}
			for _, end := range []struct {
				self, peer            Node
				wantLocal, wantRemote string
			}{{a, b, tt.wantA, tt.wantB}, {b, a, tt.wantB, tt.wantA}} {
				local, remote, err := Outer(end.self, end.peer)
				if errors.Is(err, ErrNoAddress) != tt.wantErrors {
					t.Errorf("from %s: error %v, want one: %v", end.self.Name, err, tt.wantErrors)
				}
				if local != addr(end.wantLocal) || remote != addr(end.wantRemote) {
					t.Errorf("from %s: got %v %v, want %s %s", end.self.Name, local, remote, end.wantLocal, end.wantRemote)
				}
			}
		})
	}
}

// Paths of the tests: node b is on link, node c behind a router.
var testPaths = map[netip.Addr]Path{
	addr("192.0.2.2"):      {LinkIndex: 2, LinkMTU: 1500, MTU: 1500, NextHop: addr("192.0.2.2"), OnLink: true},
	addr("2001:db8::2"):    {LinkIndex: 3, LinkMTU: 1500, MTU: 1500, NextHop: addr("2001:db8::2"), OnLink: true},
	addr("198.51.100.3"):   {LinkIndex: 2, LinkMTU: 1500, MTU: 1400, NextHop: addr("192.0.2.254")},
	addr("2001:db8:3::3"):  {LinkIndex: 3, LinkMTU: 1500, MTU: 1500, NextHop: addr("fe80::1")},
	addr("203.0.113.4"):    {LinkIndex: 2, LinkMTU: 9000, MTU: 9000, NextHop: addr("192.0.2.254")},
	addr("2001:db8:bad::"): {LinkIndex: 2, LinkMTU: 1280, MTU: 1280, NextHop: addr("2001:db8::ff")},
}

var (
	dual4 = Node{Name: "a", Addrs: addrList("192.0.2.1", "2001:db8::1"), PodCIDRs: prefixList("10.244.1.0/24", "fd00:244:1::/64")}
	dual6 = Node{Name: "a", Addrs: addrList("2001:db8::1", "192.0.2.1"), PodCIDRs: prefixList("10.244.1.0/24", "fd00:244:1::/64")}
	only4 = Node{Name: "a", Addrs: addrList("192.0.2.1"), PodCIDRs: prefixList("10.244.1.0/24")}
	only6 = Node{Name: "a", Addrs: addrList("2001:db8::1"), PodCIDRs: prefixList("fd00:244:1::/64")}
	in6o4 = Node{Name: "a", Addrs: addrList("192.0.2.1"), PodCIDRs: prefixList("fd00:244:1::/64")}
	in4o6 = Node{Name: "a", Addrs: addrList("2001:db8::1"), PodCIDRs: prefixList("10.244.1.0/24")}

	peerB = Node{Name: "b", Addrs: addrList("192.0.2.2", "2001:db8::2"), PodCIDRs: prefixList("10.244.2.0/24", "fd00:244:2::/64")}
	peerC = Node{Name: "c", Addrs: addrList("198.51.100.3", "2001:db8:3::3"), PodCIDRs: prefixList("10.244.3.0/24", "fd00:244:3::/64")}
)

// short is a Peer in one line, for the tables.
func short(p Peer) string {
	how := "vxlan"
	if p.Direct {
		how = "direct"
	}
	return p.Prefix.String() + " " + how + " " + p.Local.String() + ">" + p.Remote.String() + " via " + p.NextHop.String()
}

func TestCompile(t *testing.T) {
	const dev = 7
	tests := []struct {
		name       string
		mode       Mode
		self, peer Node
		want       []string
		wantMTU    []int
		wantGw     []string // of the routes, in the order of the prefixes
		wantErr    error
	}{
		{"vxlan over IPv4", ModeVXLAN, dual4, peerB,
			[]string{"10.244.2.0/24 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2", "fd00:244:2::/64 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"},
			[]int{1450, 1450}, []string{"10.244.2.1", "fe80::c57:c9ff:feb5:b503"}, nil},
		{"default mode", "", only4, peerB,
			[]string{"10.244.2.0/24 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"}, []int{1450}, []string{"10.244.2.1"}, nil},
		{"vxlan over IPv6, routed", ModeVXLAN, dual6, Node{Name: "c", Addrs: addrList("2001:db8:3::3", "198.51.100.3"), PodCIDRs: peerC.PodCIDRs},
			[]string{"10.244.3.0/24 vxlan 2001:db8::1>2001:db8:3::3 via fe80::1", "fd00:244:3::/64 vxlan 2001:db8::1>2001:db8:3::3 via fe80::1"},
			[]int{1430, 1430}, []string{"10.244.3.1", "fe80::c57:55ff:fe0b:f69f"}, nil},
		{"IPv6 only", ModeVXLAN, only6, Node{Name: "b", Addrs: addrList("2001:db8::2"), PodCIDRs: prefixList("fd00:244:2::/64")},
			[]string{"fd00:244:2::/64 vxlan 2001:db8::1>2001:db8::2 via 2001:db8::2"}, []int{1430}, []string{"fe80::c57:71ff:fe5b:9ad"}, nil},
		{"IPv6 inside IPv4", ModeVXLAN, in6o4, peerB,
			[]string{"fd00:244:2::/64 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"}, []int{1450}, []string{"fe80::c57:c9ff:feb5:b503"}, nil},
		{"IPv4 inside IPv6", ModeVXLAN, in4o6, peerB,
			[]string{"10.244.2.0/24 vxlan 2001:db8::1>2001:db8::2 via 2001:db8::2"}, []int{1430}, []string{"10.244.2.1"}, nil},
		{"PMTU exception", ModeVXLAN, only4, peerC,
			[]string{"10.244.3.0/24 vxlan 192.0.2.1>198.51.100.3 via 192.0.2.254"}, []int{1350}, []string{"10.244.3.1"}, nil},
		{"direct", ModeDirect, dual4, peerB,
			[]string{"10.244.2.0/24 direct 192.0.2.1>192.0.2.2 via 192.0.2.2", "fd00:244:2::/64 direct 2001:db8::1>2001:db8::2 via 2001:db8::2"},
			[]int{1500, 1500}, []string{"192.0.2.2", "2001:db8::2"}, nil},
		{"direct behind a router", ModeDirect, dual4, peerC,
			[]string{"10.244.3.0/24 direct 192.0.2.1>198.51.100.3 via 192.0.2.254", "fd00:244:3::/64 direct 2001:db8::1>2001:db8:3::3 via fe80::1"},
			[]int{1400, 1500}, []string{"192.0.2.254", "fe80::1"}, nil},
		{"direct, IPv4 by an IPv6 next hop", ModeDirect, in4o6, peerB,
			[]string{"10.244.2.0/24 direct 2001:db8::1>2001:db8::2 via 2001:db8::2"}, []int{1500}, []string{"2001:db8::2"}, nil},
		{"direct, IPv6 has no IPv4 next hop", ModeDirect, in6o4, peerB, nil, nil, nil, ErrNoAddress},
		{"auto on link", ModeAuto, dual4, peerB,
			[]string{"10.244.2.0/24 direct 192.0.2.1>192.0.2.2 via 192.0.2.2", "fd00:244:2::/64 direct 2001:db8::1>2001:db8::2 via 2001:db8::2"},
			[]int{1500, 1500}, []string{"192.0.2.2", "2001:db8::2"}, nil},
		{"auto behind a router", ModeAuto, only4, peerC,
			[]string{"10.244.3.0/24 vxlan 192.0.2.1>198.51.100.3 via 192.0.2.254"}, []int{1350}, []string{"10.244.3.1"}, nil},
		{"auto, IPv6 has no IPv4 next hop", ModeAuto, in6o4, peerB,
			[]string{"fd00:244:2::/64 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"}, []int{1450}, []string{"fe80::c57:c9ff:feb5:b503"}, nil},
		{"peer overlaps us, other prefix stays", ModeVXLAN, dual4,
			Node{Name: "b", Addrs: peerB.Addrs, PodCIDRs: prefixList("10.244.0.0/16", "fd00:244:2::/64")},
			[]string{"fd00:244:2::/64 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"}, []int{1450}, []string{"fe80::c57:c9ff:feb5:b503"}, ErrOverlap},
		{"too narrow for IPv6", ModeVXLAN, only6,
			Node{Name: "b", Addrs: addrList("2001:db8:bad::"), PodCIDRs: prefixList("fd00:244:2::/64")},
			[]string{"fd00:244:2::/64 vxlan 2001:db8::1>2001:db8:bad:: via 2001:db8::ff"}, []int{1280}, []string{linkLocal(NodeMAC(addr("2001:db8:bad::"))).String()}, ErrMTU},
		{"unmasked prefix", ModeVXLAN, only4,
			Node{Name: "b", Addrs: peerB.Addrs, PodCIDRs: prefixList("10.244.2.77/24")},
			[]string{"10.244.2.0/24 vxlan 192.0.2.1>192.0.2.2 via 192.0.2.2"}, []int{1450}, []string{"10.244.2.1"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			peers, routes, err := Compile(Config{Mode: tt.mode, Device: dev}, tt.self, tt.peer, testPaths)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("got error %v, want %v", err, tt.wantErr)
			}
			var got, gws []string
			var mtus []int
			for _, p := range peers {
				got, mtus = append(got, short(p)), append(mtus, p.MTU)
				if want := NodeMAC(p.Remote); !p.Direct && p.MAC != want || p.Direct && p.MAC != [6]byte{} {
					t.Errorf("MAC %x, want %x or none if direct", p.MAC, want)
				}
				r, ok := routes[RouteKey{Dst: p.Prefix}]
				if !ok {
					t.Errorf("no route for %s", p.Prefix)
				}
				gws = append(gws, r.Gateway.String())
				src, _ := gatewayOf(tt.self.PodCIDRs, p.Prefix.Addr().Is4())
				want := Route{LinkIndex: dev, Gateway: r.Gateway, OnLink: true, Src: src, MTU: p.MTU}
				if p.Direct {
					want.LinkIndex = p.LinkIndex
				}
				if d := diff(r, want); d != "" {
					t.Errorf("route (-got +want):\n%s", d)
				}
			}
			if d := diff(got, tt.want); d != "" {
				t.Errorf("peers (-got +want):\n%s", d)
			}
			if d := diff(mtus, tt.wantMTU); d != "" {
				t.Errorf("mtus (-got +want):\n%s", d)
			}
			if d := diff(gws, tt.wantGw); d != "" {
				t.Errorf("gateways (-got +want):\n%s", d)
			}
			if len(routes) != len(peers) {
				t.Errorf("got %d routes for %d peers", len(routes), len(peers))
			}
		})
	}
}

func TestCompileWithoutDeviceOrPath(t *testing.T) {
	peers, routes, err := Compile(Config{}, only4, peerB, testPaths)
	if err != nil || len(peers) != 1 || len(routes) != 0 {
		t.Errorf("no device: got %v %v %v, want one peer and no route", peers, routes, err)
	}
	peers, routes, err = Compile(Config{Device: 7}, only4, peerB, nil)
	if err == nil || len(peers) != 0 || len(routes) != 0 {
		t.Errorf("no path: got %v %v %v, want an error only", peers, routes, err)
	}
}

func TestCompileRefusesPrefixesOverNodes(t *testing.T) {
	for _, p := range []string{"192.0.2.0/24", "0.0.0.0/0", "10.9.9.9/32", "10.9.9.8/31"} {
		peer := Node{Name: "b", Addrs: peerB.Addrs, PodCIDRs: prefixList(p)}
		if peers, routes, err := Compile(Config{Device: 7}, only4, peer, testPaths); err == nil || len(peers)+len(routes) > 0 {
			t.Errorf("%s: got %v %v %v, want an error only", p, peers, routes, err)
		}
	}
}

func TestRemotes(t *testing.T) {
	for mode, want := range map[Mode][]netip.Addr{
		ModeVXLAN:  addrList("192.0.2.2"),
		ModeDirect: addrList("192.0.2.2", "2001:db8::2"),
		ModeAuto:   addrList("192.0.2.2", "2001:db8::2"),
	} {
		got, err := Remotes(Config{Mode: mode}, dual4, peerB)
		if d := diff(got, want); d != "" || err != nil {
			t.Errorf("%s: %v (-got +want):\n%s", mode, err, d)
		}
	}
	got, err := Remotes(Config{Mode: ModeAuto}, only4, peerB)
	if d := diff(got, addrList("192.0.2.2")); d != "" || err != nil {
		t.Errorf("we have no IPv6: %v (-got +want):\n%s", err, d)
	}
}

func TestSelf(t *testing.T) {
	self := Node{PodCIDRs: prefixList("10.244.1.0/24", "fd00:244:1::/64")}
	if d := diff(SelfRoutes(self), map[RouteKey]Route{
		{Dst: netip.MustParsePrefix("10.244.1.0/24"), Metric: MetricUnreachable}:   {Unreachable: true},
		{Dst: netip.MustParsePrefix("fd00:244:1::/64"), Metric: MetricUnreachable}: {Unreachable: true},
	}); d != "" {
		t.Errorf("routes (-got +want):\n%s", d)
	}
	if d := diff(SelfAddrs(Config{Device: 7}, self), map[AddrKey]struct{}{
		{7, netip.MustParsePrefix("10.244.1.1/32")}:     {},
		{7, netip.MustParsePrefix("fd00:244:1::1/128")}: {},
	}); d != "" {
		t.Errorf("addresses (-got +want):\n%s", d)
	}
	if rows := SelfAddrs(Config{}, self); len(rows) != 0 {
		t.Errorf("no device: got %v, want none", rows)
	}
}
