package daemon

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

func TestAnswersAreTriedFromWhereClientsAsk(t *testing.T) {
	parse := netip.MustParseAddr
	addrs := []netip.Addr{parse("172.18.0.1"), parse("fd18::1")}
	ports := []source.ServicePort{{Port: 80, NodePort: 30080}}
	dsr, snat := map[string]string{service.ForwardingAnnotation: service.DSR}, map[string]string{service.ForwardingAnnotation: service.SNAT}
	lb := []source.LoadBalancerIP{{IP: parse("203.0.113.7")}, {IP: parse("203.0.113.1"), Proxy: true}}
	for _, c := range []struct {
		name     string
		pass     bool
		services []*source.Service
		v4, v6   string // empty: none
	}{
		{"no Services", true, nil, "", ""},
		{"snat", false, []*source.Service{{LoadBalancerIPs: lb, Ports: ports}}, "", ""},
		{"all of dsr but this one", true, []*source.Service{{LoadBalancerIPs: lb, Ports: ports, Annotations: snat}}, "", ""},
		{"not outside", true, []*source.Service{{Ports: []source.ServicePort{{Port: 80}}}}, "", ""},
		{"backends are where they are asked", true, []*source.Service{{LoadBalancerIPs: lb, ExternalLocal: true}}, "", ""},
		{"node port", true, []*source.Service{{Ports: ports}}, "172.18.0.1", "fd18::1"},
		{"load balancer", false, []*source.Service{{LoadBalancerIPs: lb, Annotations: dsr}}, "203.0.113.7", ""},
		{"load balancer and node port", true, []*source.Service{{LoadBalancerIPs: lb, Ports: ports}}, "203.0.113.7", "fd18::1"},
		{"several", true, []*source.Service{{ExternalIPs: []netip.Addr{parse("203.0.113.9"), parse("2001:db8::9")}}, {LoadBalancerIPs: lb}}, "203.0.113.7", "2001:db8::9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := passedFrom(service.Node{Pass: c.pass, NodePortAddrs: addrs}, c.services)
			for i, want := range []string{c.v4, c.v6} {
				if (want == "") == got[i].IsValid() || want != "" && got[i] != parse(want) {
					t.Errorf("got %v, want %q and %q", got, c.v4, c.v6)
				}
			}
		})
	}
}

func TestNodesAreAskedWhoseBackendsCanBePassedOnTo(t *testing.T) {
	n := &node{book: newBook(nil, nil)}
	parse := netip.MustParseAddr
	n.around.self = overlay.Node{Name: "a", Addrs: []netip.Addr{parse("172.18.0.1"), parse("fd18::1")}}
	row := func(pods string, link int) overlay.Peer {
		return overlay.Peer{Prefix: netip.MustParsePrefix(pods), Local: parse("172.18.0.1"), Remote: parse("172.18.0.2"), LinkIndex: link}
	}
	both := []netip.Addr{parse("172.18.0.2"), parse("fd18::2")}
	n.book.entries = map[string]*entry{
		"b": {node: overlay.Node{Name: "b", Addrs: both}, rows: []overlay.Peer{row("10.244.2.0/24", 4), row("fd00:244:2::/64", 4)}},
		"c": {node: overlay.Node{Name: "c", Addrs: both[:1]}, rows: []overlay.Peer{row("10.244.3.0/24", 0), row("fd00:244:3::/64", 4)}},
	}
	got := n.mayAnswer([2]netip.Addr{parse("203.0.113.7"), parse("2001:db8::7")})
	if len(got) != 2 || got[0].Own != both[0] || got[0].Served != parse("203.0.113.7") || got[1].To != parse("fd18::1") || got[1].Node != "b" {
		t.Errorf("targets %+v, want both families of b", got)
	}
	if got := n.mayAnswer([2]netip.Addr{}); got != nil {
		t.Errorf("targets %+v though no Service is forwarded so", got)
	}
	if got := n.mayAnswer([2]netip.Addr{{}, parse("2001:db8::7")}); len(got) != 1 || got[0].Pods != netip.MustParsePrefix("fd00:244:2::/64") {
		t.Errorf("targets %+v, want those of IPv6", got)
	}
}
