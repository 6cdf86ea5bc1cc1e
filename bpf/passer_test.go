package bpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Who is no node, or not by the address that the overlay uses, passes nothing on.
func TestOnlyNodesPassOn(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	r.knows(t, r.b, r.b.pod4)
	inner := ethernet(mac{2, 0x1f, 0x90}, mac{2}, ethIPv4, datagram(TCP, r.client, r.at, 64, syn, nil))
	for _, c := range []struct {
		name     string
		src, dst netip.Addr
		want     uint32
	}{
		{"a node", r.a.outer4, r.b.outer4, tcxRedirect},
		{"a stranger", addr("192.0.2.77"), r.b.outer4, tcxDrop},
		{"a node by another address", r.a.outer6, r.b.outer6, tcxDrop},
		{"a node to another address", r.a.outer4, r.b.gw4, tcxDrop},
	} {
		outer := header{src: c.src, dst: c.dst, proto: protoUDP}
		packet := outer.packet(udp(50000, 8872, vxlan(8, 88, inner)))
		verdict, _ := r.b.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
		if verdict != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, int32(verdict), int32(c.want))
		}
	}
	if diff := cmp.Diff(r.b.counts(t), map[string]uint64{"drop unknown-sender": 3}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
}

// Source ranges are the first node's matter, policies that of the backend's node, which
// knows the client.
func TestWhoJudgesPassedFlows(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	b := r.b.pod4
	r.knows(t, r.a, b)
	r.knows(t, r.b, b)
	must(t, r.a.Services().Frontends.Set(Place{r.at.Addr(), r.at.Port(), TCP}, Frontend{Inside: relayed, Outside: relayed, Ranges: 5, Flags: FrontendPass}))
	if way, out := r.carry(t, r.a, datagram(TCP, r.client, r.at, 64, syn, nil)); way != "a" || out != nil {
		t.Errorf("outside of the ranges: %s", r.text(way, out))
	}
	must(t, r.a.Services().Ranges.Set(Range{5, netip.PrefixFrom(r.client.Addr(), 24).Masked()}, struct{}{}))
	r.want(t, "in the ranges", r.a, syn, "ab", r.client, b)

	must(t, r.b.Classes().Set(netip.PrefixFrom(r.client.Addr(), 24).Masked(), 9))
	isolate := func(set RuleSet, v Verdict) {
		must(t, r.b.Rules().Set(RuleKey{Set: set, Class: 9}, RuleRow{{Last: 65535, Verdict: v}}))
		r.b.isolate(t, b, set, 0)
	}
	isolate(100, Deny)
	r.client = netip.AddrPortFrom(r.client.Addr(), 41000)
	if way, out := r.carry(t, r.a, datagram(TCP, r.client, r.at, 64, syn, nil)); way != "ab" || out != nil {
		t.Errorf("denied: %s", r.text(way, out))
	}
	isolate(101, Allow)
	r.want(t, "allowed", r.a, syn, "ab", r.client, b)
	if diff := cmp.Diff(r.b.counts(t), map[string]uint64{"drop policy-ingress": 1}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
}
