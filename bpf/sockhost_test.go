package bpf

import (
	"net"
	"net/netip"
	"testing"
)

// At some places the node's own sockets are served by a set of their own, all ways; pods'
// are not.
func TestSocketsOfTheHostHaveTheirOwnSet(t *testing.T) {
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
