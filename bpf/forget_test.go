package bpf

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// What is remembered of sockets and clients goes with the backend and with its time; what
// is of use stays.
func TestUselessMemoryIsForgotten(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	one, two := at(backend4(1), 5353), at(backend4(2), 5353)
	six := at(backend6(1), 5353)
	n.serve(Place{service4, 53, UDP}, Frontend{}, one)
	n.serve(Place{service6, 53, UDP}, Frontend{}, six)
	n.serve(Place{service4, 80, TCP}, Frontend{Affinity: 100}, at(backend4(1), 8080))
	for _, b := range []netip.AddrPort{one, two, six} {
		udpServer(t, n.host, b)
	}
	tcpServer(t, n.host, at(backend4(1), 8080))
	var s *net.UDPConn
	n.do(n.host, func() { s = udpSocket(t, n.host, at(netip.IPv6Unspecified(), 0)) })
	ask(t, s, at(service4, 53))
	ask(t, s, at(service6, 53))
	if _, _, err := n.dial(n.host, "tcp", at(service4, 80)); err != nil {
		t.Fatal(err)
	}
	gone := func(at Place, generation uint32) bool {
		g, ok, err := get[weftAliveKey, uint32](n.Datapath, weftMapAlive, weftAliveKey{Addr: toAddr(at.Addr), Port: at.Port, Proto: uint8(at.Protocol)})
		must(t, err)
		return !ok || g != generation
	}
	step := func(when string, forgotten, datagrams, clients int) {
		t.Helper()
		got, err := n.Forget(gone)
		if err != nil || got != forgotten {
			t.Errorf("%s: forgot %d, %v, want %d", when, got, err, forgotten)
		}
		if d, c := n.rows(weftMapDatagrams), n.rows(weftMapAffinity); d != datagrams || c != clients {
			t.Errorf("%s: %d rows of datagrams and %d of clients, want %d and %d", when, d, c, datagrams, clients)
		}
	}
	step("all is of use", 0, 4, 1)
	n.serve(Place{service4, 53, UDP}, Frontend{}, two)
	must(t, n.Alive.Delete(Place{one.Addr(), 5353, UDP}))
	ask(t, s, at(service4, 53)) // by the other one now
	step("a backend is gone", 1, 4, 1)
	must(t, n.Alive.Set(Place{six.Addr(), 5353, UDP}, 9)) // another pod's now
	step("the next is of another generation", 2, 2, 1)
	n.pass(t, 200*time.Second)
	step("the time of a client is over", 1, 2, 0)
	if _, from := ask(t, s, at(service4, 53)); from != at(service4, 53) {
		t.Errorf("what was of use is gone: an answer came from %s", from)
	}
}
