package service

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// Which endpoints a policy chooses. The wanted text is that of the cluster address,
// then that of the node port.
func TestPolicies(t *testing.T) {
	internal := func(s *source.Service) { nodePort(s); s.InternalLocal = true }
	externalLocal := func(s *source.Service) { nodePort(s); s.ExternalLocal = true }
	all := "alive 10.1.0.1:8080/TCP 10.1.0.2:8080/TCP 10.1.1.1:8080/TCP 10.1.1.2:8080/TCP"
	for _, tc := range []struct {
		name     string
		with     func(*source.Service)
		ends     []string
		cluster  string // after 10.96.0.1:80/TCP
		nodePort string // after 192.0.2.1:30080/TCP
	}{
		{name: "Cluster: all that are ready", with: nodePort,
			ends:     []string{"10.1.0.1 here", "10.1.0.2 here unready", "10.1.1.1 there", "10.1.1.2 there leaving"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]"},
		{name: "Cluster: if none is ready, those that are leaving", with: nodePort,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here leaving", "10.1.1.1 there dying", "10.1.1.2 there leaving"},
			cluster:  "inside [10.1.0.2:8080 10.1.1.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.2:8080 10.1.1.2:8080 maglev 307] outside [10.1.0.2:8080 10.1.1.2:8080 maglev 307]"},
		{name: "Cluster: none at all", with: nodePort,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there dying", "10.1.1.2 there unready"},
			cluster:  "inside reject",
			nodePort: "inside reject outside reject"},

		{name: "external Local: inside still all, outside those of this node", with: externalLocal,
			ends:     []string{"10.1.0.1 here", "10.1.0.2 here leaving", "10.1.1.1 there", "10.1.1.2 there"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.1:8080 10.1.1.2:8080]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 10.1.1.2:8080] outside [10.1.0.1:8080]"},
		{name: "external Local: if none is ready here, those that are leaving here", with: externalLocal,
			ends:     []string{"10.1.0.1 here leaving", "10.1.0.2 here leaving", "10.1.1.1 there", "10.1.1.2 there"},
			cluster:  "inside [10.1.1.1:8080 10.1.1.2:8080]",
			nodePort: "inside [10.1.1.1:8080 10.1.1.2:8080] outside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]"},
		{name: "external Local: others have some", with: externalLocal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there", "10.1.1.2 there"},
			cluster:  "inside [10.1.1.1:8080 10.1.1.2:8080]",
			nodePort: "inside [10.1.1.1:8080 10.1.1.2:8080] outside drop"},
		{name: "external Local: others have some that are leaving", with: externalLocal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there leaving", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.1.1:8080]",
			nodePort: "inside [10.1.1.1:8080] outside drop"},
		{name: "external Local: none at all", with: externalLocal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there unready", "10.1.1.2 there dying"},
			cluster:  "inside reject",
			nodePort: "inside reject outside reject"},

		{name: "internal Local: the cluster address only", with: internal,
			ends:     []string{"10.1.0.1 here", "10.1.0.2 here leaving", "10.1.1.1 there", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]"},
		{name: "internal Local: if none is ready here, those that are leaving here", with: internal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here leaving", "10.1.1.1 there", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.2:8080]",
			nodePort: "inside [10.1.1.1:8080] outside [10.1.1.1:8080]"},
		{name: "internal Local: others have some", with: internal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there leaving", "10.1.1.2 there unready"},
			cluster:  "inside drop",
			nodePort: "inside [10.1.1.1:8080] outside [10.1.1.1:8080]"},
		{name: "internal Local: none at all", with: internal,
			ends:     []string{"10.1.0.1 here unready", "10.1.0.2 here dying", "10.1.1.1 there dying", "10.1.1.2 there unready"},
			cluster:  "inside reject",
			nodePort: "inside reject outside reject"},
		{name: "both Local", with: func(s *source.Service) { externalLocal(s); s.InternalLocal = true },
			ends:     []string{"10.1.0.1 here", "10.1.0.2 here", "10.1.1.1 there", "10.1.1.2 there"},
			cluster:  "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.0.2:8080 10.1.1.1:8080 10.1.1.2:8080] outside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]"},

		{name: "hints of zones", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z1", "10.1.0.2 here unready", "10.1.1.1 there zones=z2", "10.1.1.2 there zones=z2,z1"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.2:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.2:8080 maglev 307]"},
		{name: "hints do not count if a ready one has none", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z1 nodes=here", "10.1.0.2 here unready", "10.1.1.1 there leaving", "10.1.1.2 there"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.2:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.2:8080 maglev 307]"},
		{name: "hints do not count if none has ours", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z2", "10.1.0.2 here zones=z1 leaving", "10.1.1.1 there zones=z3", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]"},
		{name: "hints of nodes go before those of zones", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z1 nodes=here", "10.1.0.2 here zones=z1 nodes=there", "10.1.1.1 there zones=z1 nodes=there", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080]",
			nodePort: "inside [10.1.0.1:8080] outside [10.1.0.1:8080]"},
		{name: "without hints for this node those of zones", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z1 nodes=there", "10.1.0.2 here zones=z2 nodes=there", "10.1.1.1 there zones=z1 nodes=there", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]"},
		{name: "hints of nodes do not count if one has only those of zones", with: nodePort,
			ends:     []string{"10.1.0.1 here zones=z1", "10.1.0.2 here zones=z1 nodes=here", "10.1.1.1 there zones=z2 nodes=there", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307] outside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]"},
		{name: "hints of zones do not count if one has only those of nodes", with: nodePort,
			ends:     []string{"10.1.0.1 here nodes=there", "10.1.0.2 here zones=z1 nodes=there", "10.1.1.1 there unready", "10.1.1.2 there unready"},
			cluster:  "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307] outside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]"},
		{name: "hints do not count for Local", with: func(s *source.Service) { externalLocal(s); s.InternalLocal = true },
			ends:     []string{"10.1.0.1 here zones=z2", "10.1.0.2 here zones=z2", "10.1.1.1 there zones=z1", "10.1.1.2 there zones=z2"},
			cluster:  "inside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]",
			nodePort: "inside [10.1.1.1:8080] outside [10.1.0.1:8080 10.1.0.2:8080 maglev 307]"},
		{name: "hints do not count for those that are leaving", with: nodePort,
			ends:     []string{"10.1.0.1 here leaving zones=z1 nodes=here", "10.1.0.2 here unready", "10.1.1.1 there leaving zones=z2 nodes=there", "10.1.1.2 there dying"},
			cluster:  "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]",
			nodePort: "inside [10.1.0.1:8080 10.1.1.1:8080 maglev 307] outside [10.1.0.1:8080 10.1.1.1:8080 maglev 307]"},
	} {
		compileCase{name: tc.name, with: tc.with,
			slices: []*source.EndpointSlice{slice(t, "http TCP 8080", tc.ends[:2]...), slice(t, "http TCP 8080", tc.ends[2:]...)},
			want: strings.Join([]string{"10.96.0.1 rejects other ports", "10.96.0.1:80/TCP " + tc.cluster,
				"192.0.2.1:30080/TCP " + tc.nodePort, all}, "\n"),
		}.run(t)
	}
}

// Of a Service that another program serves only the ports of its ClusterIPs are known.
func TestLeftToAnotherProgram(t *testing.T) {
	node := testNode
	node.Left = true
	svc := webService(func(s *source.Service) {
		s.Type, s.ClusterIPs, s.ExternalIPs = "LoadBalancer", ips("10.96.0.1", "fd00:96::1"), ips("198.51.100.9")
		s.LoadBalancerIPs = []source.LoadBalancerIP{{IP: ip("198.51.100.1")}}
		s.ExternalLocal, s.HealthCheckNodePort, s.Ports[0].NodePort = true, 32000, 30080
		s.Ports = append(s.Ports, source.ServicePort{Name: "dns", Protocol: source.UDP, Port: 53})
	})
	want := Rows{Frontends: map[bpf.Place]bpf.Frontend{
		{Addr: ip("10.96.0.1"), Port: 80, Protocol: bpf.TCP}:  {},
		{Addr: ip("10.96.0.1"), Port: 53, Protocol: bpf.UDP}:  {},
		{Addr: ip("fd00:96::1"), Port: 80, Protocol: bpf.TCP}: {},
		{Addr: ip("fd00:96::1"), Port: 53, Protocol: bpf.UDP}: {},
	}}
	if diff := cmp.Diff(Compile(node, svc, nil), want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	svc.ProxyName = "mesh"
	if got := Compile(node, svc, nil); len(got.Frontends) != 0 {
		t.Errorf("of a third program's: got %v", got.Frontends)
	}
}

// Nothing is Local to a node without a name, nor in the zone of one without a zone.
func TestNamelessNode(t *testing.T) {
	ends := slice(t, "http TCP 8080", "10.1.0.1 x zones=z1 nodes=x")
	ends.Endpoints[0].Node, ends.Endpoints[0].Hints = "", &source.Hints{ForZones: []string{""}, ForNodes: []string{""}}
	other := slice(t, "http TCP 8080", "10.1.0.2 x zones=z1 nodes=x")
	compileCase{name: "nameless", node: func(n *Node) { n.Name, n.Zone = "", "" },
		with:   func(s *source.Service) { nodePort(s); s.ExternalLocal = true },
		slices: []*source.EndpointSlice{ends, other}, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080 10.1.0.2:8080]
			192.0.2.1:30080/TCP inside [10.1.0.1:8080 10.1.0.2:8080] outside drop
			alive 10.1.0.1:8080/TCP 10.1.0.2:8080/TCP`}.run(t)
}

// UDP has no end that could be waited for: a flow to what is not chosen must end.
func TestAliveUDP(t *testing.T) {
	udp := func(s *source.Service) {
		s.Ports = []source.ServicePort{{Name: "dns", Protocol: source.UDP, Port: 53, NodePort: 30053}}
		s.Type, s.ExternalLocal = "NodePort", true
	}
	compileCase{name: "udp", with: udp, slices: []*source.EndpointSlice{
		slice(t, "dns UDP 53", "10.1.0.1 here leaving", "10.1.0.2 here unready", "10.1.1.1 there", "10.1.1.2 there leaving"),
	}, want: `
		10.96.0.1 rejects other ports
		10.96.0.1:53/UDP inside [10.1.1.1:53]
		192.0.2.1:30053/UDP inside [10.1.1.1:53] outside [10.1.0.1:53]
		alive 10.1.0.1:53/UDP 10.1.1.1:53/UDP`}.run(t)
}

func TestEndpointInTwoSlices(t *testing.T) {
	stale := slice(t, "http TCP 8080", "10.1.0.1 here unready", "10.1.0.2 here uid=old leaving")
	fresh := slice(t, "http TCP 8080", "10.1.0.1 here", "10.1.0.2 here uid=new")
	dying := slice(t, "http TCP 8080", "10.1.0.1 here dying")
	leaving := slice(t, "http TCP 8080", "10.1.0.1 here leaving")
	for name, ss := range map[string][]*source.EndpointSlice{"dying first": {dying, leaving}, "leaving first": {leaving, dying}} {
		compileCase{name: name, slices: ss, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080]
			alive 10.1.0.1:8080/TCP`}.run(t)
	}
	for name, ss := range map[string][]*source.EndpointSlice{"old first": {stale, fresh}, "new first": {fresh, stale}} {
		compileCase{name: name, slices: ss, want: `
			10.96.0.1 rejects other ports
			10.96.0.1:80/TCP inside [10.1.0.1:8080 10.1.0.2:8080]
			alive 10.1.0.1:8080/TCP 10.1.0.2:8080/TCP`}.run(t)
		r := Compile(testNode, webService(nil), ss)
		for _, g := range r.Backends {
			if g.Addr == ip("10.1.0.2") && g.Generation != generation("new", g.Addr) {
				t.Errorf("%s: got generation %d of %s, want that of the one that is ready", name, g.Generation, g.Addr)
			}
		}
	}
}

// Two ports may lead to one place, of which two slices may say different things.
func TestTwoPortsOnePlace(t *testing.T) {
	two := func(s *source.Service) {
		s.Ports = append(s.Ports, source.ServicePort{Name: "alt", Protocol: source.TCP, Port: 81})
	}
	compileCase{name: "one place", with: two, slices: []*source.EndpointSlice{
		slice(t, "http TCP 8080", "10.1.0.1 here uid=new"),
		slice(t, "alt TCP 8080", "10.1.0.1 here uid=old"),
	}, want: `
		10.96.0.1 rejects other ports
		10.96.0.1:80/TCP inside [10.1.0.1:8080]
		10.96.0.1:81/TCP inside [10.1.0.1:8080]
		alive 10.1.0.1:8080/TCP`}.run(t)
}

func TestHealth(t *testing.T) {
	checked := func(s *source.Service) {
		s.Type, s.ExternalLocal, s.HealthCheckNodePort = "LoadBalancer", true, 32000
		s.ClusterIPs = ips("10.96.0.1", "fd96::1")
		s.Ports = append(s.Ports, source.ServicePort{Name: "admin", Protocol: source.TCP, Port: 81})
	}
	ss := []*source.EndpointSlice{
		slice(t, "http TCP 8080, admin TCP 8081", "10.1.0.1 here", "10.1.0.2 here", "10.1.0.3 here leaving", "10.1.0.4 here unready", "10.1.1.1 there"),
		slice(t, "http TCP 8080, admin TCP 8081", "10.1.0.2 here", "10.1.0.5 here"), // one is moving
		slice(t, "http TCP 8080, admin TCP 8081", "fd00::1 here"),
	}
	for _, tc := range []struct {
		name string
		with func(*source.Service)
		want *Health
	}{
		{"counts each address of this node once", func(*source.Service) {}, &Health{"shop", "web", 32000, 3}},
		{"of the other family", func(s *source.Service) { s.ClusterIPs = ips("fd96::1") }, &Health{"shop", "web", 32000, 1}},
		{"not for the policy Cluster", func(s *source.Service) { s.ExternalLocal = false }, nil},
		{"not for another type", func(s *source.Service) { s.Type = "NodePort" }, nil},
		{"not without a port", func(s *source.Service) { s.HealthCheckNodePort = 0 }, nil},
	} {
		r := Compile(testNode, webService(func(s *source.Service) { checked(s); tc.with(s) }), ss)
		check(t, r)
		if (r.Health == nil) != (tc.want == nil) || (r.Health != nil && *r.Health != *tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, r.Health, tc.want)
		}
	}
}
