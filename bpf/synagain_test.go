package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// A client whose SYN had no answer sends it again. If its backend gets no new flows any more,
// as it is on a node that is lost, or not ready, another one has it; connections stay where
// they are, and so do those whose backend is still to be chosen.
func TestSYNThatComesAgainGoesToWhatIsChosen(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, outside := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v outside=%v", v6, outside), func(t *testing.T) {
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
					must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 8, Outside: 8}))
				}
				send := func(flags byte) (src, dst netip.AddrPort) {
					t.Helper()
					if outside {
						return p.enter(t, client, at, flags)
					}
					_, out := p.send(t, datagram(TCP, client, at, 64, flags, nil))
					return tupleOf(out)
				}
				serve(backends...)
				_, first := send(syn)
				for range 20 {
					if _, got := send(syn); got != first {
						t.Fatalf("the SYN came to %s, the same one again to %s", first, got)
					}
				}
				left := slices.DeleteFunc(slices.Clone(backends), func(a netip.Addr) bool { return a == first.Addr() })
				serve(left...)
				src, second := send(syn)
				if !slices.Contains(left, second.Addr()) {
					t.Fatalf("the SYN that comes again goes to %s, want one of %v", second, left)
				}
				if got := p.where(t, client); got != "brief" {
					t.Fatalf("the flow is %q, want brief, and no row of the former one", got)
				}
				answer := datagram(TCP, second, src, 64, syn|ack, nil)
				inner, outer := ethernet(mac{}, mac{10}, ethType(answer), answer), header{src: p.other.outer4, dst: p.outer4, proto: protoUDP}
				p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethIPv4, outer.packet(udp(50000, 8872, vxlan(8, 87, inner)))), 0) // noted, whatever the way on
				send(ack)
				if got := p.where(t, client); got != "live" {
					t.Fatalf("the flow is %q, want live", got)
				}
				left = slices.DeleteFunc(left, func(a netip.Addr) bool { return a == second.Addr() })
				serve(left...)
				if _, got := send(ack); got != second {
					t.Errorf("a connection to %s goes on with %s", second, got)
				}
				serve()
				if _, got := send(ack); got != second {
					t.Errorf("without any to be chosen, a connection to %s goes on with %s", second, got)
				}
			})
		}
	}
}

// The same, where another node answers: the node that is asked passes it on elsewhere.
func TestPassedSYNThatComesAgainGoesToWhatIsChosen(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		r := newRelay(t, v6, false)
		b, c := r.pod(r.b), r.pod(r.c)
		for _, n := range r.nodes() {
			r.knows(t, n, b)
		}
		r.want(t, "first", r.a, syn, "ab", r.client, b)
		r.want(t, "again", r.a, syn, "ab", r.client, b)
		r.knows(t, r.a, c)
		r.knows(t, r.c, c)
		r.want(t, "its node is lost", r.a, syn, "ac", r.client, c)
		r.want(t, "open", r.a, ack, "ac", r.client, c)
	}
}
