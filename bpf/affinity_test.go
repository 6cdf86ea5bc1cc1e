package bpf

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// later makes it so many seconds later for clients that stay with a backend.
func (d *Datapath) later(t testing.TB, seconds uint32) {
	t.Helper()
	var k weftAffinityKey
	var v weftAffinity
	for it := d.maps[weftMapAffinity].Iterate(); it.Next(&k, &v); {
		v.Until -= seconds
		must(t, d.maps[weftMapAffinity].Put(&k, &v))
	}
}

// A client outside stays with its backend; afterwards it gets any; one that is not known,
// or not any more, gets the one that goes by its address, as on every node.
func TestClientOutsideStaysWithBackend(t *testing.T) {
	w := newTown(t, false)
	at := netip.AddrPortFrom(w.a.outer4, 30080)
	for _, p := range []*pod{w.near, w.other} {
		tcpServer(t, p.ns, netip.AddrPortFrom(p.v4, servePort))
	}
	w.a.serve(t, 7, at, w.near.v4, w.other.v4)
	must(t, w.a.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 7, Outside: 7, Affinity: 100}))
	first := whoServes(t, w.outside.ns, at)
	for range 20 {
		if got := whoServes(t, w.outside.ns, at); got != first {
			t.Fatalf("server %s, want %s", got, first)
		}
	}
	seen := map[string]bool{}
	for range 40 {
		w.a.later(t, 200)
		seen[whoServes(t, w.outside.ns, at)] = true
	}
	if len(seen) != 2 {
		t.Errorf("when its time is over: servers %v, want both", seen)
	}
	w.a.later(t, 200+lapsed)
	if n, err := w.a.Forget(func(Place, uint32) bool { return false }); n != 1 || err != nil {
		t.Errorf("forgot %d clients, %v, want 1", n, err)
	}
	if got := whoServes(t, w.outside.ns, at); got != first {
		t.Errorf("as a new client: server %s, want %s", got, first)
	}
}

// whoServes is the address of the tcpServer that a new connection leads to.
func whoServes(t testing.TB, ns netns.NsHandle, to netip.AddrPort) string {
	t.Helper()
	var c net.Conn
	var err error
	in(t, ns, func() { c, err = net.DialTimeout("tcp", to.String(), 5*time.Second) })
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	must(t, c.(*net.TCPConn).CloseWrite())
	b, err := io.ReadAll(c)
	must(t, err)
	return string(b)
}
