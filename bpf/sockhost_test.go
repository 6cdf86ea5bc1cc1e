package bpf

import (
	"net"
	"net/netip"
	"testing"
)

// At some places the node's own sockets are served by a set of their own, all ways; pods'
// are not.
func TestSocketsOfTheHostHaveTheirOwnSet(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	for i, c := range []struct {
		service          netip.Addr
		inside, host     netip.Addr
		network, unbound string
	}{
		{service4, backend4(1), backend4(2), "udp4", "0.0.0.0:0"},
		{service6, backend6(1), backend6(2), "udp6", "[::]:0"},
	} {
		for _, ns := range []struct {
			name string
			host bool
		}{{"host", true}, {"pod", false}} {
			want, to := c.inside, at(c.service, 80)
			handle := n.pod
			if ns.host {
				want, handle = c.host, n.host
			}
			for _, a := range []netip.Addr{c.inside, c.host} {
				tcpServer(t, handle, at(a, 8080))
				udpServer(t, handle, at(a, 8080))
			}
			for _, affinity := range []uint32{0, 100} {
				if !ns.host && affinity != 0 {
					continue // the packets' programs' matter
				}
				for _, p := range []Protocol{TCP, UDP} {
					own := SetID(1000+i)<<8 | SetID(p)
					must(t, n.Alive.Set(Place{c.host, 8080, p}, 7))
					must(t, n.Backends.Set(Slot{own, 0}, Backend{c.host, 8080, 7}))
					must(t, n.Sets.Set(own, Set{Count: 1}))
					n.serve(Place{c.service, 80, p}, Frontend{Host: own, Affinity: affinity}, at(c.inside, 8080))
				}
				conn, got, err := n.dial(handle, "tcp", to)
				must(t, err)
				if got != want.String() || conn.RemoteAddr().String() != to.String() {
					t.Errorf("%s, TCP to %s: server %s, peer %s; want %s", ns.name, to, got, conn.RemoteAddr(), want)
				}
				if ns.host { // else the packets' programs' matter
					conn, got, err = n.dial(handle, "udp", to)
					must(t, err)
					if got != want.String() || conn.RemoteAddr().String() != to.String() {
						t.Errorf("%s, UDP to %s: server %s, peer %s; want %s", ns.name, to, got, conn.RemoteAddr(), want)
					}
				}
				var s *net.UDPConn
				n.do(handle, func() { s = udpSocket(t, handle, netip.MustParseAddrPort(c.unbound)) })
				if got, from := ask(t, s, to); got != want.String() || from != to {
					t.Errorf("%s, datagram to %s: server %s, answer from %s; want %s", ns.name, to, got, from, want)
				}
			}
		}
	}
}

// Where netfilter serves Services, sockets reach nothing here but host ports.
func TestSocketsBesideNetfilterReachHostPorts(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	must(t, n.Datapath.Close())
	must(t, Remove(n.o.Dir))
	n.o.Config = besideNetfilter.Config
	n.start()
	own := map[bool]netip.Addr{true: netip.MustParseAddr("127.0.0.1"), false: netip.IPv6Loopback()}
	for _, service := range []netip.Addr{service4, service6} {
		backend := backend4(1)
		if service.Is6() {
			backend = backend6(1)
		}
		tcpServer(t, n.host, at(backend, 8080))
		udpServer(t, n.host, at(backend, 8080))
		for _, p := range []Protocol{TCP, UDP} {
			n.serve(Place{service, 80, p}, Frontend{}, at(backend, 8080))
			n.serve(Place{own[service.Is4()], 82, p}, Frontend{Flags: FrontendHostPort}, at(backend, 8080))
			must(t, n.Frontends.Set(Place{service, 81, p}, Frontend{}))
		}
		for _, network := range []string{"tcp", "udp"} {
			if _, got, err := n.dial(n.host, network, at(own[service.Is4()], 82)); err != nil || got != backend.String() {
				t.Errorf("%s to a host port: server %q, error %v; want %s", network, got, err, backend)
			}
			for _, port := range []uint16{80, 81, 99} {
				_, got, err := n.dial(n.host, network, at(service, port))
				if err == nil && got != "" {
					t.Errorf("%s to port %d of a Service: server %q", network, port, got)
				}
			}
		}
	}
}
