package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// pass lets the affinities be as if that time had passed.
func (d *Datapath) pass(t testing.TB, since time.Duration) {
	t.Helper()
	var k weftAffinityKey
	var v weftAffinity
	for it := d.maps[weftMapAffinity].Iterate(); it.Next(&k, &v); {
		v.Until -= uint32(since / time.Second)
		must(t, d.maps[weftMapAffinity].Put(&k, &v))
	}
}

// A client whose packets are translated stays with its backend as long as the affinity
// lasts, and no longer: also through a node port, where a hash chooses.
func TestPacketsStayWithBackend(t *testing.T) {
	t.Parallel()
	for _, outside := range []bool{false, true} {
		p := newLane(t, false, true)
		at := netip.AddrPortFrom(p.outer4, 30080)
		backends := []netip.Addr{p.backend.Addr()}
		for range 2 {
			backends = append(backends, backends[len(backends)-1].Next())
		}
		p.serve(t, 8, at, backends...)
		must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 8, Outside: 8, Affinity: 1}))
		port := uint16(20000)
		next := func() netip.Addr { // the backend of one more connection
			t.Helper()
			port++
			if outside {
				_, dst := p.enter(t, netip.AddrPortFrom(addr("198.51.100.7"), port), at, syn)
				return dst.Addr()
			}
			_, out := p.send(t, datagram(TCP, netip.AddrPortFrom(p.client.Addr(), port), at, 64, syn, nil))
			_, dst := tupleOf(out)
			return dst.Addr()
		}
		first := next()
		for range 20 {
			p.pass(t, -time.Minute) // however slow this test is
			if got := next(); got != first {
				t.Fatalf("outside=%v: backend %s, want %s", outside, got, first)
			}
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			p.pass(t, time.Hour)
			if next() != first {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("outside=%v: the backend is still the same when the affinity is long over", outside)
			}
		}
	}
}

// A backend that gets no new flows any more, as it is not ready or ends, but lives, gets none
// of the client that stayed with it either; one whose slot is another now keeps its clients.
func TestNoAffinityToWhatIsNotChosen(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, outside := range []bool{false, true} {
			p := newLane(t, v6, true)
			at, client := netip.AddrPortFrom(p.outer4, 30080), netip.MustParseAddrPort("198.51.100.7:20000")
			if v6 {
				at, client = netip.AddrPortFrom(p.outer6, 30080), netip.MustParseAddrPort("[2001:db8:7::7]:20000")
			}
			if !outside {
				client = netip.AddrPortFrom(p.client.Addr(), 20000)
			}
			backends := []netip.Addr{p.backend.Addr()}
			for range 3 {
				backends = append(backends, backends[len(backends)-1].Next())
			}
			serve := func(some ...netip.Addr) { // the others live on
				t.Helper()
				p.serve(t, 8, at, some...)
				must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 8, Outside: 8, Affinity: 86400}))
			}
			next := func() netip.Addr { // the backend of one more connection
				t.Helper()
				client = netip.AddrPortFrom(client.Addr(), client.Port()+1)
				if outside {
					_, dst := p.enter(t, client, at, syn)
					return dst.Addr()
				}
				_, out := p.send(t, datagram(TCP, client, at, 64, syn, nil))
				_, dst := tupleOf(out)
				return dst.Addr()
			}
			serve(backends...)
			for len(backends) > 1 {
				was := next()
				backends = slices.DeleteFunc(backends, func(a netip.Addr) bool { return a == was })
				for n := range backends { // ever fewer are before it
					serve(append(backends[n:len(backends):len(backends)], was)...)
					if got := next(); got != was {
						t.Fatalf("v6=%v, outside=%v: a client of %s came to %s", v6, outside, was, got)
					}
				}
				serve(backends...)
				if got := next(); !slices.Contains(backends, got) {
					t.Fatalf("v6=%v, outside=%v: a client of %s came to %s, want one of %s", v6, outside, was, got, backends)
				}
			}
		}
	}
}
