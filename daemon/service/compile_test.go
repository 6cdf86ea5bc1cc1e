package service

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/daemon/source"
)

var testNode = Node{Name: "here", Zone: "z1", NodePortAddrs: ips("192.0.2.1", "2001:db8::1")}

// webService is what the cases change: ClusterIP 10.96.0.1, port http 80/TCP.
func webService(with func(*source.Service)) *source.Service {
	s := &source.Service{
		Namespace: "shop", Name: "web", Type: "ClusterIP", ClusterIPs: ips("10.96.0.1"),
		Ports: []source.ServicePort{{Name: "http", Protocol: source.TCP, Port: 80}},
	}
	if with != nil {
		with(s)
	}
	return s
}

func nodePort(s *source.Service) { s.Type, s.Ports[0].NodePort = "NodePort", 30080 }

type compileCase struct {
	name   string
	node   func(*Node)
	with   func(*source.Service)
	slices []*source.EndpointSlice
	want   string
}

func (tc compileCase) run(t *testing.T) {
	t.Helper()
	t.Run(tc.name, func(t *testing.T) {
		node := testNode
		if tc.node != nil {
			tc.node(&node)
		}
		r := Compile(node, webService(tc.with), tc.slices)
		check(t, r)
		var want []string
		for line := range strings.Lines(strings.TrimSpace(tc.want)) {
			want = append(want, strings.TrimSpace(line))
		}
		if d := cmp.Diff(strings.Split(r.text(t), "\n"), want); d != "" && (len(want) > 0 || r.text(t) != "") {
			t.Errorf("rows (-got +want):\n%s", d)
		}
	})
}

func TestPlaces(t *testing.T) {
	two := []*source.EndpointSlice{slice(t, "http TCP 8080", "10.1.0.5 here", "10.1.1.5 there")}
	both := append(two, slice(t, "http TCP 8080", "fd00::5 here", "fd00:1::5 there"))
	dual := func(s *source.Service) { s.ClusterIPs = ips("10.96.0.1", "fd96::1") }
	for _, tc := range []compileCase{
		{name: "cluster address, also if a slice is of the other family", slices: both, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP`},
		{name: "both families", with: dual, slices: both, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080]
			[fd96::1]:80/TCP inside [[fd00::5]:8080 [fd00:1::5]:8080]
			fd96::1 rejects other ports
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP [fd00:1::5]:8080/TCP [fd00::5]:8080/TCP`},
		{name: "node port in the Service's family only", with: nodePort, slices: both, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			192.0.2.1:30080/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307] outside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP`},
		{name: "node port of both families", with: func(s *source.Service) { dual(s); nodePort(s) }, slices: both, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			192.0.2.1:30080/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307] outside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			[2001:db8::1]:30080/TCP inside [[fd00::5]:8080 [fd00:1::5]:8080 maglev 307] outside [[fd00::5]:8080 [fd00:1::5]:8080 maglev 307]
			[fd96::1]:80/TCP inside [[fd00::5]:8080 [fd00:1::5]:8080 maglev 307]
			fd96::1 rejects other ports
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP [fd00:1::5]:8080/TCP [fd00::5]:8080/TCP`},
		{name: "node port without an address of the node", with: nodePort,
			node: func(n *Node) { n.NodePortAddrs = ips("2001:db8::1") }, slices: two, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP
			problem port http: the node has no IPv4 address for its nodePort 30080`},
		{name: "no way to another node's overlay", with: func(s *source.Service) { s.Ports[0].Protocol = source.UDP }, node: func(n *Node) {
			n.OverlayPort, n.Addrs = 8872, map[netip.Addr]struct{}{ip("192.0.2.9"): {}}
		}, slices: []*source.EndpointSlice{
			slice(t, "http UDP 8872", "192.0.2.9 -", "10.1.1.5 there"), slice(t, "http UDP 8873", "192.0.2.9 -")}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/UDP inside [10.1.1.5:8872 192.0.2.9:8873]
			alive 10.1.1.5:8872/UDP 192.0.2.9:8873/UDP
			problem port 8872/UDP of a node is the overlay's; such endpoints are not used`},
		{name: "outer addresses; those of ipMode Proxy are not ours", with: func(s *source.Service) {
			s.Type, s.ExternalIPs = "LoadBalancer", ips("203.0.113.1", "2001:db8::f")
			s.LoadBalancerIPs = []source.LoadBalancerIP{{IP: ip("198.51.100.1")}, {IP: ip("198.51.100.2"), Proxy: true}, {IP: ip("2001:db8::e")}}
		}, slices: two, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			198.51.100.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307] outside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			203.0.113.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307] outside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP
			problem external address 2001:db8::f: the Service has no IPv6 ClusterIP
			problem load balancer's address 2001:db8::e: the Service has no IPv6 ClusterIP`},
		{name: "outer addresses that are nodes'", with: func(s *source.Service) { s.ExternalIPs = ips("192.0.2.1", "192.0.2.2") },
			node: func(n *Node) { n.Addrs = map[netip.Addr]struct{}{ip("192.0.2.1"): {}, ip("192.0.2.2"): {}} }, slices: two[:0], want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside reject
			192.0.2.1:80/TCP inside reject outside reject
			192.0.2.2:80/TCP inside reject outside reject`},
		{name: "an external address that is the ClusterIP opens nothing", with: func(s *source.Service) { s.ExternalIPs = ips("10.96.0.1") }, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside reject`},
		{name: "affinity everywhere, in whole seconds", with: func(s *source.Service) { nodePort(s); s.Affinity = 90*time.Second + 1 }, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside reject affinity 91
			192.0.2.1:30080/TCP inside reject outside reject affinity 91`},
		{name: "ports by name and protocol", with: func(s *source.Service) {
			s.Ports = []source.ServicePort{{Name: "dns", Protocol: source.UDP, Port: 53}, {Name: "dns-tcp", Protocol: source.TCP, Port: 53}, {Name: "sig", Protocol: source.SCTP, Port: 53}}
		}, slices: []*source.EndpointSlice{
			slice(t, "dns UDP 5353, dns-tcp TCP 5454", "10.1.0.5 here"),
			slice(t, "dns UDP 1053, dns-tcp UDP 1054, sig SCTP 9", "10.1.0.6 here"), // another number; one of another protocol
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:53/SCTP inside [10.1.0.6:9]
			10.96.0.1:53/TCP inside [10.1.0.5:5454]
			10.96.0.1:53/UDP inside [10.1.0.5:5353 10.1.0.6:1053]
			alive 10.1.0.5:5353/UDP 10.1.0.5:5454/TCP 10.1.0.6:1053/UDP 10.1.0.6:9/SCTP`},
		{name: "an unnamed port", with: func(s *source.Service) { s.Ports[0].Name = "" },
			slices: []*source.EndpointSlice{{Ports: []source.SlicePort{{Protocol: source.TCP, Port: 8080}}, Endpoints: two[0].Endpoints[:1]}}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080]
			alive 10.1.0.5:8080/TCP`},
		{name: "headless", with: func(s *source.Service) { s.Headless, s.ClusterIPs = true, nil }, slices: two},
		{name: "external name", with: func(s *source.Service) { s.Type, s.ClusterIPs = "ExternalName", nil }, slices: two},
		{name: "another proxy's", with: func(s *source.Service) { s.ProxyName = "mesh" }, slices: two},
	} {
		tc.run(t)
	}
}

// An outer address may be somebody's that has ports of its own, such as the one by which a
// cluster's API servers are found; but for one that Weft gives and announces.
func TestOtherPortsOfOuterAddresses(t *testing.T) {
	balanced := func(class string) func(*source.Service) {
		return func(s *source.Service) {
			s.Type, s.LoadBalancerClass, s.ExternalIPs = "LoadBalancer", class, ips("203.0.113.1")
			s.LoadBalancerIPs = []source.LoadBalancerIP{{IP: ip("198.51.100.1")}}
		}
	}
	classless := func(n *Node) { n.Classless = true }
	somebodys := `
		10.96.0.1 rejects other ports
		10.96.0.1:80/TCP inside reject
		198.51.100.1:80/TCP inside reject outside reject
		203.0.113.1:80/TCP inside reject outside reject`
	ours := strings.Replace(somebodys, "198.51.100.1:80", "198.51.100.1 rejects other ports\n198.51.100.1:80", 1)
	for _, tc := range []compileCase{
		{name: "no class", with: balanced(""), want: somebodys},
		{name: "no class, which is ours", node: classless, with: balanced(""), want: ours},
		{name: "our class", with: balanced("weft.dev/l2"), want: ours},
		{name: "another class", node: classless, with: balanced("example.org/bgp"), want: somebodys},
		{name: "ours, and as external address, too", with: func(s *source.Service) {
			balanced("weft.dev/l2")(s)
			s.ExternalIPs = ips("198.51.100.1", "203.0.113.1")
		}, want: ours},
		{name: "ours, but a node has it", node: func(n *Node) { n.Addrs = map[netip.Addr]struct{}{ip("198.51.100.1"): {}} },
			with: balanced("weft.dev/l2"), want: somebodys},
	} {
		tc.run(t)
	}
}

// Forwarding is what the Service says, else what the node does; it is outer addresses'
// matter, and none where backends are local.
func TestForwarding(t *testing.T) {
	two := []*source.EndpointSlice{slice(t, "http TCP 8080", "10.1.0.5 here", "10.1.1.5 there")}
	says := func(what string, local bool) func(*source.Service) {
		return func(s *source.Service) {
			nodePort(s)
			s.ExternalLocal = local
			if what != "" {
				s.Annotations = map[string]string{"weft.dev/forwarding": what}
			}
		}
	}
	passes := func(n *Node) { n.Pass = true }
	want := func(how string) string {
		return `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]
			192.0.2.1:30080/TCP inside [10.1.0.5:8080 10.1.1.5:8080 maglev 307] outside [10.1.0.5:8080 10.1.1.5:8080 maglev 307]` + how + `
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP`
	}
	problem := `
			problem annotation weft.dev/forwarding: "DSR" is neither snat nor dsr; it counts as not there`
	for _, tc := range []compileCase{
		{name: "nobody says anything", with: says("", false), want: want("")},
		{name: "the node", node: passes, with: says("", false), want: want(" passed on")},
		{name: "the Service", with: says("dsr", false), want: want(" passed on")},
		{name: "the Service against the node", node: passes, with: says("snat", false), want: want("")},
		{name: "something else", node: passes, with: says("DSR", false), want: want(" passed on") + problem},
		{name: "local backends", with: says("dsr", true), want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.5:8080 10.1.1.5:8080]
			192.0.2.1:30080/TCP inside [10.1.0.5:8080 10.1.1.5:8080] outside [10.1.0.5:8080]
			alive 10.1.0.5:8080/TCP 10.1.1.5:8080/TCP`},
	} {
		tc.slices = two
		tc.run(t)
	}
}

func TestSourceRanges(t *testing.T) {
	balanced := func(s *source.Service) {
		s.Type, s.ClusterIPs = "LoadBalancer", ips("10.96.0.1", "fd96::1")
		s.Ports[0].NodePort = 30080
		s.LoadBalancerIPs = []source.LoadBalancerIP{{IP: ip("198.51.100.1")}, {IP: ip("2001:db8::e")}}
	}
	rest := `
		10.96.0.1 rejects other ports
		10.96.0.1:80/TCP inside reject
		192.0.2.1:30080/TCP inside reject outside reject
		198.51.100.1:80/TCP inside reject outside reject V4
		[2001:db8::1]:30080/TCP inside reject outside reject
		[2001:db8::e]:80/TCP inside reject outside reject V6
		[fd96::1]:80/TCP inside reject
		fd96::1 rejects other ports`
	want := func(v4, v6 string) string {
		return strings.NewReplacer(" V4", v4, " V6", v6).Replace(rest)
	}
	for _, tc := range []compileCase{
		{name: "none", want: want("", "")},
		{name: "of both families, on the load balancer's addresses only",
			with: func(s *source.Service) { s.SourceRanges = prefixes("10.0.0.0/8", "172.16.0.0/12", "fd00::/8") },
			want: want(" from [10.0.0.0/8 172.16.0.0/12]", " from [fd00::/8]")},
		{name: "none of a family: nobody of it", with: func(s *source.Service) { s.SourceRanges = prefixes("10.0.0.0/8") },
			want: want(" from [10.0.0.0/8]", " from []")},
		{name: "all; the node is among them, which may have the address itself",
			with: func(s *source.Service) { s.SourceRanges = prefixes("0.0.0.0/0", "::/0") },
			want: want(" from [0.0.0.0/0 198.51.100.1/32]", " from [2001:db8::e/128 ::/0]")},
	} {
		with := tc.with
		tc.with = func(s *source.Service) {
			balanced(s)
			if with != nil {
				with(s)
			}
		}
		tc.run(t)
	}
}

// An address that is there as the load balancer's, too, keeps its ranges.
func TestStricterClaimOfAnAddressWins(t *testing.T) {
	compileCase{name: "twice", with: func(s *source.Service) {
		s.Type, s.ExternalIPs = "LoadBalancer", ips("198.51.100.1")
		s.LoadBalancerIPs = []source.LoadBalancerIP{{IP: ip("198.51.100.1")}}
		s.SourceRanges = prefixes("10.0.0.0/8")
	}, want: `
		10.96.0.1 rejects other ports
		10.96.0.1:80/TCP inside reject
		198.51.100.1:80/TCP inside reject outside reject from [10.0.0.0/8]`}.run(t)
}
