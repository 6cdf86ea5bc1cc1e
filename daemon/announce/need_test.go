package announce

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/daemon/source"
)

func TestWhatTheServicesOfAnAddressNeed(t *testing.T) {
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	service := func(name string, local bool, ips ...netip.Addr) *source.Service {
		s := &source.Service{Namespace: "x", Name: name, Type: "LoadBalancer", ExternalLocal: local}
		for _, ip := range ips {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, source.LoadBalancerIP{IP: ip})
		}
		return s
	}
	slice := func(of string, ipv6 bool, ends ...source.SliceEndpoint) *source.EndpointSlice {
		return &source.EndpointSlice{Namespace: "x", Name: of, Service: of, IPv6: ipv6,
			Ports: []source.SlicePort{{Port: 80, Protocol: source.TCP}}, Endpoints: ends}
	}
	ready := func(node string) source.SliceEndpoint {
		return source.SliceEndpoint{Node: node, Ready: true, Serving: true}
	}
	leaving := source.SliceEndpoint{Node: "l", Serving: true, Terminating: true}
	waiting := source.SliceEndpoint{Node: "w"}
	proxied := service("p", false, a4)
	proxied.LoadBalancerIPs[0].Proxy = true
	others := service("o", false, a4)
	others.ProxyName = "other"
	for _, c := range []struct {
		name     string
		services []*source.Service
		slices   []*source.EndpointSlice
		want     map[netip.Addr]Need
	}{
		{"Cluster: any node", []*source.Service{service("c", false, a4, a6)}, nil,
			map[netip.Addr]Need{a4: {Services: []string{"x/c"}}, a6: {Services: []string{"x/c"}}}},
		{"Local: nodes with ready endpoints of the family", []*source.Service{service("l", true, a4, a6)},
			[]*source.EndpointSlice{slice("l", false, ready("n1"), ready("n2"), leaving, waiting), slice("l", true, ready("n2")), slice("m", false, ready("n3"))},
			map[netip.Addr]Need{
				a4: {Services: []string{"x/l"}, Nodes: map[string]bool{"n1": true, "n2": true}},
				a6: {Services: []string{"x/l"}, Nodes: map[string]bool{"n2": true}}}},
		{"Local: those that leave, if none is ready", []*source.Service{service("l", true, a4)},
			[]*source.EndpointSlice{slice("l", false, leaving, waiting)},
			map[netip.Addr]Need{a4: {Services: []string{"x/l"}, Nodes: map[string]bool{"l": true}}}},
		{"Local: no endpoint, no node", []*source.Service{service("l", true, a4)}, nil,
			map[netip.Addr]Need{a4: {Services: []string{"x/l"}, Nodes: map[string]bool{}}}},
		{"shared: what both need", []*source.Service{service("l", true, a4), service("m", true, a4), service("c", false, a4)},
			[]*source.EndpointSlice{slice("l", false, ready("n1"), ready("n2")), slice("m", false, ready("n2"), ready("n3"))},
			map[netip.Addr]Need{a4: {Services: []string{"x/l", "x/m", "x/c"}, Nodes: map[string]bool{"n2": true}}}},
		{"shared: no node has both", []*source.Service{service("l", true, a4), service("m", true, a4)},
			[]*source.EndpointSlice{slice("l", false, ready("n1")), slice("m", false, ready("n3"))},
			map[netip.Addr]Need{a4: {Services: []string{"x/l", "x/m"}, Nodes: map[string]bool{"n1": true, "n3": true}, Split: true}}},
		{"shared: one has no endpoint", []*source.Service{service("l", true, a4), service("m", true, a4)},
			[]*source.EndpointSlice{slice("m", false, ready("n3"))},
			map[netip.Addr]Need{a4: {Services: []string{"x/l", "x/m"}, Nodes: map[string]bool{"n3": true}}}},
		{"not ours", []*source.Service{proxied, others, {Namespace: "x", Name: "f", LoadBalancerIPs: []source.LoadBalancerIP{{IP: a6}}}}, nil,
			map[netip.Addr]Need{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Needs(c.services, source.ListOf(c.slices), func(s *source.Service) bool { return s.Type == "LoadBalancer" })
			if diff := cmp.Diff(got, c.want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("needs (-got +want):\n%s", diff)
			}
		})
	}
	if !(Need{}).Has("any") || (Need{Nodes: map[string]bool{}}).Has("any") {
		t.Error("no Nodes are all nodes, and empty ones none")
	}
}
