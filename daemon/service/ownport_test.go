package service

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// What the node itself gets at its own node ports with the policy Local: other nodes' pods
// by those nodes' node ports.
func TestOwnNodePorts(t *testing.T) {
	local := func(s *source.Service) { nodePort(s); s.ExternalLocal = true }
	others := func(n *Node) {
		n.Others = map[string][]netip.Addr{"there": ips("192.0.2.2", "192.0.2.22", "2001:db8::2"), "far": ips("192.0.2.3"), "mute": nil}
		n.Addrs = map[netip.Addr]struct{}{ip("192.0.2.1"): {}, ip("192.0.2.2"): {}, ip("192.0.2.3"): {}}
	}
	for _, tc := range []compileCase{
		{name: "a slot for each endpoint, those of this node as they are", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.1 here", "10.1.1.1 there", "10.1.1.2 there", "10.1.2.1 far"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080 10.1.1.1:8080 10.1.1.2:8080 10.1.2.1:8080]
			192.0.2.1:30080/TCP inside [10.1.0.1:8080 10.1.1.1:8080 10.1.1.2:8080 10.1.2.1:8080] outside [10.1.0.1:8080] host [10.1.0.1:8080 192.0.2.2:30080 192.0.2.2:30080 192.0.2.3:30080]
			alive 10.1.0.1:8080/TCP 10.1.1.1:8080/TCP 10.1.1.2:8080/TCP 10.1.2.1:8080/TCP 192.0.2.2:30080/TCP 192.0.2.3:30080/TCP`},
		{name: "a connection lives as long as its node has any endpoint", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.1 there unready", "10.1.2.1 far"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.2.1:8080]
			192.0.2.1:30080/TCP inside [10.1.2.1:8080] outside drop host [192.0.2.3:30080]
			alive 10.1.1.1:8080/TCP 10.1.2.1:8080/TCP 192.0.2.2:30080/TCP 192.0.2.3:30080/TCP`},
		{name: "also if what is chosen is all here", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.1 here", "10.1.1.1 there leaving", "10.1.2.1 far unready"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080]
			192.0.2.1:30080/TCP inside [10.1.0.1:8080] outside [10.1.0.1:8080]
			alive 10.1.0.1:8080/TCP 10.1.1.1:8080/TCP 10.1.2.1:8080/TCP 192.0.2.2:30080/TCP 192.0.2.3:30080/TCP`},
		{name: "also if hints keep what is here", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.1 here nodes=here", "10.1.1.1 there nodes=there"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080]
			192.0.2.1:30080/TCP inside [10.1.0.1:8080] outside [10.1.0.1:8080]
			alive 10.1.0.1:8080/TCP 10.1.1.1:8080/TCP 192.0.2.2:30080/TCP`},
		{name: "also if nothing is chosen", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.1 there unready"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside reject
			192.0.2.1:30080/TCP inside reject outside reject
			alive 10.1.1.1:8080/TCP 192.0.2.2:30080/TCP`},
		{name: "those that are leaving, if there are no others", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.1 there leaving", "10.1.2.1 far unready"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.1.1:8080]
			192.0.2.1:30080/TCP inside [10.1.1.1:8080] outside drop host [192.0.2.2:30080]
			alive 10.1.1.1:8080/TCP 10.1.2.1:8080/TCP 192.0.2.2:30080/TCP 192.0.2.3:30080/TCP`},
		{name: "datagrams do not wait for what gets no new ones", node: others, with: func(s *source.Service) {
			local(s)
			s.Ports[0].Protocol = source.UDP
		}, slices: []*source.EndpointSlice{
			slice(t, "http UDP 8080", "10.1.1.1 there unready", "10.1.2.1 far"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/UDP inside [10.1.2.1:8080]
			192.0.2.1:30080/UDP inside [10.1.2.1:8080] outside drop host [192.0.2.3:30080]
			alive 10.1.2.1:8080/UDP 192.0.2.3:30080/UDP`},
		{name: "the other family", node: others, with: func(s *source.Service) { local(s); s.ClusterIPs = ips("fd96::1") }, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "fd00:1::1 there", "fd00:2::1 far"),
		}, want: `
			[2001:db8::1]:30080/TCP inside [[fd00:1::1]:8080 [fd00:2::1]:8080] outside drop host [[2001:db8::2]:30080 [fd00:2::1]:8080]
			[fd96::1]:80/TCP inside [[fd00:1::1]:8080 [fd00:2::1]:8080]
			fd96::1 rejects other ports
			alive [2001:db8::2]:30080/TCP [fd00:1::1]:8080/TCP [fd00:2::1]:8080/TCP`},
		{name: "no other way to what is here, on an address of its node, or on one without node ports or name", with: local, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.0.1 here", "192.0.2.2 there", "10.1.3.1 mute", "10.1.4.1 unknown"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080 10.1.3.1:8080 10.1.4.1:8080 192.0.2.2:8080]
			192.0.2.1:30080/TCP inside [10.1.0.1:8080 10.1.3.1:8080 10.1.4.1:8080 192.0.2.2:8080] outside [10.1.0.1:8080]
			alive 10.1.0.1:8080/TCP 10.1.3.1:8080/TCP 10.1.4.1:8080/TCP 192.0.2.2:8080/TCP`},
		{name: "not for the policy Cluster", with: nodePort, node: others, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.1 there"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.1.1:8080]
			192.0.2.1:30080/TCP inside [10.1.1.1:8080] outside [10.1.1.1:8080]
			alive 10.1.1.1:8080/TCP`},
		{name: "not for SCTP, which sockets do not ask about", node: others, with: func(s *source.Service) {
			local(s)
			s.Ports[0].Protocol = source.SCTP
		}, slices: []*source.EndpointSlice{
			slice(t, "http SCTP 8080", "10.1.1.1 there"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/SCTP inside [10.1.1.1:8080]
			192.0.2.1:30080/SCTP inside [10.1.1.1:8080] outside drop
			alive 10.1.1.1:8080/SCTP`},
		{name: "not at outer addresses", node: others, with: func(s *source.Service) { local(s); s.ExternalIPs = ips("203.0.113.1") }, slices: []*source.EndpointSlice{
			slice(t, "http TCP 8080", "10.1.1.1 there"),
		}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.1.1:8080]
			192.0.2.1:30080/TCP inside [10.1.1.1:8080] outside drop host [192.0.2.2:30080]
			203.0.113.1:80/TCP inside [10.1.1.1:8080] outside drop
			alive 10.1.1.1:8080/TCP 192.0.2.2:30080/TCP`},
	} {
		tc.run(t)
	}
}

// A pod in its node's network may listen on the very port: what is alive there is one.
func TestOwnNodePortThatIsAnEndpoint(t *testing.T) {
	node := testNode
	node.Others = map[string][]netip.Addr{"there": ips("192.0.2.2")}
	node.Addrs = map[netip.Addr]struct{}{ip("192.0.2.2"): {}}
	for _, p := range []source.Protocol{source.TCP, source.UDP} {
		svc := webService(func(s *source.Service) {
			nodePort(s)
			s.ExternalLocal, s.Ports[0].Protocol = true, p
		})
		proto := map[source.Protocol]string{source.TCP: "TCP", source.UDP: "UDP"}[p]
		r := Compile(node, svc, []*source.EndpointSlice{
			slice(t, "http "+proto+" 30080", "192.0.2.2 there uid=host"),
			slice(t, "http "+proto+" 8080", "10.1.1.1 there"),
		})
		check(t, r)
		at := bpf.Place{Addr: ip("192.0.2.2"), Port: 30080, Protocol: bpf.Protocol(p)}
		if got, want := r.Alive[at], generation("host", at.Addr); got != want {
			t.Errorf("%s: generation %d, want the pod's, %d", at, got, want)
		}
	}
}
