package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Who is not in a load balancer's source ranges gets nothing of it, be it a pod or
// someone outside, and is counted; who is in them is served.
func TestSourceRangesCountPerPacket(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			p := newLane(t, v6, true)
			s := p.Services()
			must(t, s.Frontends.Set(Place{p.vip.Addr(), p.vip.Port(), TCP}, Frontend{Inside: 7, Outside: 7, Ranges: 9}))
			// The ranges of another Service do not let one in.
			must(t, s.Ranges.Set(Range{8, netip.PrefixFrom(p.client.Addr(), p.client.Addr().BitLen())}, struct{}{}))
			for range 3 {
				if verdict, _ := p.send(t, datagram(TCP, p.client, p.vip, 64, syn, nil)); verdict != tcxDrop {
					t.Errorf("out of the ranges: verdict %d, want drop", int32(verdict))
				}
			}
			if diff := cmp.Diff(p.counts(t), map[string]uint64{"drop source-range": 3}); diff != "" {
				t.Errorf("counters (-got +want):\n%s", diff)
			}
			must(t, s.Ranges.Set(Range{9, netip.PrefixFrom(p.client.Addr(), p.client.Addr().BitLen()-4).Masked()}, struct{}{}))
			if _, dst := p.tcp(t, p.client, syn); dst != p.backend {
				t.Errorf("in the ranges: sent to %s, want %s", dst, p.backend)
			}
		})
	}
	t.Run("from outside", func(t *testing.T) {
		p := newLane(t, false, true)
		at := netip.AddrPortFrom(p.outer4, 30080)
		p.serve(t, 8, at, p.backend.Addr())
		must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 8, Outside: 8, Ranges: 9}))
		must(t, p.Services().Ranges.Set(Range{9, netip.MustParsePrefix("203.0.113.0/25")}, struct{}{}))
		p.enter(t, netip.MustParseAddrPort("203.0.113.127:20000"), at, syn)
		packet := datagram(TCP, netip.MustParseAddrPort("203.0.113.128:20000"), at, 64, syn, nil)
		if verdict, _ := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethIPv4, packet), 0); verdict != tcxDrop {
			t.Errorf("out of the ranges: verdict %d, want drop", int32(verdict))
		}
		if diff := cmp.Diff(p.counts(t), map[string]uint64{"drop source-range": 1}); diff != "" {
			t.Errorf("counters (-got +want):\n%s", diff)
		}
	})
}

// With session affinity all connections of one client go to one backend, from pods as
// from outside; without it they do not.
func TestAffinityHoldsPerPacket(t *testing.T) {
	t.Parallel()
	const connections = 64 // that two backends are one by chance: 2^-63
	p := newLane(t, false, true)
	node := netip.AddrPortFrom(p.outer4, 30080)
	for id, at := range map[SetID]netip.AddrPort{7: p.vip, 8: node} {
		p.serve(t, id, at, p.other.sib4, p.other.pod4)
	}
	backends := func(port int) (inside, outside map[netip.AddrPort]bool) {
		inside, outside = map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
		for i := range connections {
			_, dst := p.tcp(t, p.clientAt(port+i), syn)
			inside[dst] = true
			_, dst = p.enter(t, netip.AddrPortFrom(addr("203.0.113.7"), uint16(port+i)), node, syn)
			outside[dst] = true
		}
		return inside, outside
	}
	if inside, outside := backends(20000); len(inside) != 2 || len(outside) != 2 {
		t.Errorf("without affinity: backends %v of a pod, %v from outside, want two", inside, outside)
	}
	for id, at := range map[SetID]netip.AddrPort{7: p.vip, 8: node} {
		must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: id, Outside: id, Affinity: 100}))
	}
	if inside, outside := backends(40000); len(inside) != 1 || len(outside) != 1 {
		t.Errorf("with affinity: backends %v of a pod, %v from outside, want one", inside, outside)
	}
}
