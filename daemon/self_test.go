package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// netip's types compare with ==.
var compareIP = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// mkNode is a node with these addresses and, behind "|", pod prefixes.
func mkNode(name, spec string) overlay.Node {
	n := overlay.Node{Name: name}
	addrs, prefixes, _ := strings.Cut(spec, "|")
	for _, a := range strings.Fields(addrs) {
		n.Addrs = append(n.Addrs, addr(a))
	}
	for _, p := range strings.Fields(prefixes) {
		n.PodCIDRs = append(n.PodCIDRs, prefix(p))
	}
	return n
}

func TestSurveySortsOutWhoHasWhichPrefix(t *testing.T) {
	none := func(netip.Prefix) bool { return false }
	all := func(netip.Prefix) bool { return true }
	for _, tc := range []struct {
		name     string
		nodes    []overlay.Node
		held     func(netip.Prefix) bool
		self     string // our prefixes
		peers    map[string]string
		prefixes string
		lost     bool
		clashes  int
	}{
		{"alone", []overlay.Node{mkNode("b", "192.0.2.2|10.0.1.0/24")}, none, "10.0.1.0/24", map[string]string{}, "10.0.1.0/24", false, 0},
		{"not there", []overlay.Node{mkNode("a", "192.0.2.1|10.0.0.0/24")}, none, "", map[string]string{"a": "10.0.0.0/24"}, "10.0.0.0/24", false, 0},
		{"neighbours are merged", []overlay.Node{mkNode("a", "|10.0.0.0/24"), mkNode("b", "|10.0.1.0/24")}, none,
			"10.0.1.0/24", map[string]string{"a": "10.0.0.0/24"}, "10.0.0.0/23", false, 0},
		{"we win", []overlay.Node{mkNode("b", "|10.0.1.0/24"), mkNode("c", "|10.0.1.0/24")}, none,
			"10.0.1.0/24", map[string]string{"c": ""}, "10.0.1.0/24", false, 1},
		{"we lose", []overlay.Node{mkNode("a", "|10.0.1.0/24"), mkNode("b", "|10.0.1.0/24")}, none,
			"", map[string]string{"a": "10.0.1.0/24"}, "10.0.1.0/24", true, 1},
		{"we lose, but pods live there", []overlay.Node{mkNode("a", "|10.0.1.0/24"), mkNode("b", "|10.0.1.0/24")}, all,
			"10.0.1.0/24", map[string]string{"a": "10.0.1.0/24"}, "10.0.1.0/24", true, 1},
		{"others' dispute", []overlay.Node{mkNode("a", "|10.0.0.0/16"), mkNode("b", "|10.1.0.0/24"), mkNode("c", "|10.0.1.0/24")}, none,
			"10.1.0.0/24", map[string]string{"a": "10.0.0.0/16", "c": ""}, "10.0.0.0/16 10.1.0.0/24", false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := survey("b", tc.nodes, tc.held)
			peers := map[string]string{}
			for name, n := range c.peers {
				peers[name] = text(n.PodCIDRs)
			}
			if got := text(c.self.PodCIDRs); got != tc.self {
				t.Errorf("own prefixes: got %q, want %q", got, tc.self)
			}
			if d := cmp.Diff(tc.peers, peers); d != "" {
				t.Errorf("peers (-want +got):\n%s", d)
			}
			if got := text(c.prefixes); got != tc.prefixes {
				t.Errorf("cluster: got %q, want %q", got, tc.prefixes)
			}
			if (c.lost != nil) != tc.lost || len(c.clashes) != tc.clashes {
				t.Errorf("got lost %v and clashes %q", c.lost, c.clashes)
			}
		})
	}
}

// The nodes are sorted out again if one is another than before, or a prefix is disputed: who
// has it depends on what lives in it.
func TestSurveyHoldsWhileNodesAreTheSame(t *testing.T) {
	a, b := &source.Node{Name: "a"}, &source.Node{Name: "b"}
	made := cluster{of: []*source.Node{a, b}}
	for _, tc := range []struct {
		name  string
		c     cluster
		nodes []*source.Node
		want  bool
	}{
		{"the same", made, []*source.Node{a, b}, true},
		{"one is another", made, []*source.Node{a, {Name: "b"}}, false},
		{"one is gone", made, []*source.Node{a}, false},
		{"in dispute", cluster{of: made.of, clashes: []string{"a and b"}}, made.of, false},
		{"a former daemon's, and there are none", cluster{peers: map[string]overlay.Node{"a": {}}}, nil, false},
	} {
		if got := tc.c.holds(tc.nodes); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func text(prefixes []netip.Prefix) string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

func TestUsableNamesWhatIsMissing(t *testing.T) {
	for _, tc := range []struct {
		node overlay.Node
		want string
	}{
		{overlay.Node{}, problemNoNode},
		{mkNode("a", "192.0.2.1|"), problemNoPodCIDR},
		{mkNode("a", "|10.0.0.0/24"), problemNoAddress},
		{mkNode("a", "192.0.2.1|10.0.0.0/24"), ""},
		{mkNode("a", "2001:db8::1|fd00:1::/64"), ""},
	} {
		if what, err := usable("a", tc.node); what != tc.want || (err == nil) != (what == "") {
			t.Errorf("usable(%+v) = %q, %v, want %q", tc.node, what, err, tc.want)
		}
	}
}

func TestOwnRows(t *testing.T) {
	s := surroundings{
		cfg: DefaultConfig(), self: mkNode("a", "192.0.2.1 2001:db8::1|10.0.1.0/24 fd00:1::/64"), mtu: 1450,
		uplinks: []overlay.Uplink{{Index: 2, Name: "eth0", MTU: 1500}, {Index: 3, Name: "eth1", MTU: 1500}},
	}
	host := bpf.Endpoint{Flags: bpf.EndpointHost}
	wantRows := map[netip.Addr]bpf.Endpoint{
		addr("192.0.2.1"): host, addr("2001:db8::1"): host, addr("10.0.1.1"): host, addr("fd00:1::1"): host,
	}
	if d := cmp.Diff(wantRows, selfRows(s), compareIP); d != "" {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
	wantHooks := map[bpf.Hook]struct{}{
		{Program: bpf.FromUplink, IfIndex: 2}: {}, {Program: bpf.FromUplink, IfIndex: 3}: {},
		{Program: bpf.ToUplink, IfIndex: 2}: {}, {Program: bpf.ToUplink, IfIndex: 3}: {},
	}
	if d := cmp.Diff(wantHooks, selfHooks(s)); d != "" {
		t.Errorf("hooks without device (-want +got):\n%s", d)
	}
	s.device = 9
	wantHooks[bpf.Hook{Program: bpf.ToOverlay, IfIndex: 9}] = struct{}{}
	wantHooks[bpf.Hook{Program: bpf.FromOverlay, IfIndex: 9}] = struct{}{}
	if d := cmp.Diff(wantHooks, selfHooks(s)); d != "" {
		t.Errorf("hooks (-want +got):\n%s", d)
	}
	wantStands := map[bpf.Stand]netip.Addr{
		{}: addr("10.0.1.1"), {IPv6: true}: addr("fd00:1::1"),
		{Nodes: true}: addr("192.0.2.1"), {Nodes: true, IPv6: true}: addr("2001:db8::1"),
		{Ports: true}: addr("192.0.2.1"), {Ports: true, IPv6: true}: addr("2001:db8::1"),
	}
	if d := cmp.Diff(wantStands, selfStands(s), compareIP); d != "" {
		t.Errorf("addresses that stand in (-want +got):\n%s", d)
	}
	wantDevice := map[string]overlay.DeviceSpec{
		overlay.DeviceName: {MAC: overlay.NodeMAC(addr("192.0.2.1")), MTU: 1450, Port: overlay.DefaultPort},
	}
	if d := cmp.Diff(wantDevice, selfDevice(s)); d != "" {
		t.Errorf("device (-want +got):\n%s", d)
	}
	if s.mtu = 0; len(selfDevice(s)) != 0 {
		t.Errorf("a device without an MTU: %v", selfDevice(s))
	}
}

// fakeKernel answers path lookups and keeps what the book says.
type fakeKernel struct {
	paths  map[netip.Addr]overlay.Path
	asked  int
	puts   []string
	rows   map[string]map[netip.Prefix]bpf.Peer
	nodes  map[string]map[netip.Addr]netip.Addr
	routes map[string]map[overlay.RouteKey]overlay.Route
}

func newFakeKernel() (*fakeKernel, *book) {
	k := &fakeKernel{
		paths: map[netip.Addr]overlay.Path{},
		rows:  map[string]map[netip.Prefix]bpf.Peer{}, nodes: map[string]map[netip.Addr]netip.Addr{}, routes: map[string]map[overlay.RouteKey]overlay.Route{},
	}
	lookup := func(addrs []netip.Addr) (map[netip.Addr]overlay.Path, error) {
		found := map[netip.Addr]overlay.Path{}
		for _, a := range addrs {
			k.asked++
			if p, ok := k.paths[a]; ok {
				found[a] = p
			}
		}
		return found, nil
	}
	put := func(name string, r peerRows) {
		k.puts = append(k.puts, name)
		k.rows[name], k.nodes[name], k.routes[name] = r.peers, r.nodes, r.routes
	}
	return k, newBook(lookup, put)
}

// way is a path over a device.
func (k *fakeKernel) way(to string, link, mtu int) {
	k.paths[addr(to)] = overlay.Path{LinkIndex: link, LinkMTU: mtu, MTU: mtu, NextHop: addr(to), OnLink: true}
}

// took returns and forgets who was put.
func (k *fakeKernel) took() []string {
	out := k.puts
	k.puts = nil
	slices.Sort(out)
	return out
}

// An address of a node that the overlay does not use is known as a node's, no more.
func TestNodesOtherAddressesPassNothingOn(t *testing.T) {
	n := mkNode("b", "192.0.2.2 2001:db8::2|10.0.2.0/24 fd00:2::/64")
	rows := []overlay.Peer{
		{Prefix: prefix("10.0.2.0/24"), Remote: addr("192.0.2.2"), Local: addr("192.0.2.1")},
		{Prefix: prefix("fd00:2::/64"), Remote: addr("192.0.2.2"), Local: addr("192.0.2.1")},
	}
	want := map[netip.Addr]netip.Addr{addr("192.0.2.2"): addr("192.0.2.1"), addr("2001:db8::2"): {}}
	if d := cmp.Diff(want, bpfNodes(n, rows), compareIP); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
}

func TestBookCompilesOnlyWhatChanged(t *testing.T) {
	k, b := newFakeKernel()
	self := mkNode("a", "192.0.2.1|10.0.1.0/24")
	cfg := overlay.Config{Device: 9}
	nodes := map[string]overlay.Node{
		"b": mkNode("b", "192.0.2.2|10.0.2.0/24"),
		"c": mkNode("c", "192.0.2.3|10.0.3.0/24"),
	}
	for i, a := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.4"} {
		k.way(a, 2, 1500-i)
	}
	step := func(name string, wantPuts []string, wantAsked int) {
		t.Helper()
		k.asked = 0
		b.update(cfg, self, nodes)
		if d := cmp.Diff(wantPuts, k.took()); d != "" {
			t.Errorf("%s: compiled (-want +got):\n%s", name, d)
		}
		if k.asked != wantAsked {
			t.Errorf("%s: asked for %d paths, want %d", name, k.asked, wantAsked)
		}
	}
	step("first", []string{"b", "c"}, 2)
	want := bpf.Peer{
		Remote: addr("192.0.2.3"), Local: addr("192.0.2.1"), NextHop: addr("192.0.2.3"),
		MAC: overlay.NodeMAC(addr("192.0.2.3")), LinkIndex: 2, MTU: 1449,
	}
	if d := cmp.Diff(map[netip.Prefix]bpf.Peer{prefix("10.0.3.0/24"): want}, k.rows["c"], compareIP); d != "" {
		t.Errorf("rows of c (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[netip.Addr]netip.Addr{addr("192.0.2.3"): addr("192.0.2.1")}, k.nodes["c"], compareIP); d != "" {
		t.Errorf("addresses of c (-want +got):\n%s", d)
	}
	step("nothing changed", nil, 0)
	nodes["d"] = mkNode("d", "192.0.2.4|10.0.4.0/24")
	step("one more", []string{"d"}, 1)
	nodes["b"] = mkNode("b", "192.0.2.2|10.0.5.0/24")
	step("another prefix", []string{"b"}, 0)
	delete(nodes, "c")
	step("one less", []string{"c"}, 0)
	if k.rows["c"] != nil || k.nodes["c"] != nil || k.routes["c"] != nil {
		t.Errorf("a node that is gone keeps rows %v, addresses %v, routes %v", k.rows["c"], k.nodes["c"], k.routes["c"])
	}
	cfg.Device = 10
	step("another device", []string{"b", "d"}, 0)
	self = mkNode("a", "192.0.2.9|10.0.1.0/24")
	step("another address of ours", []string{"b", "d"}, 0)
}

func TestBookFollowsTheWays(t *testing.T) {
	k, b := newFakeKernel()
	self := mkNode("a", "192.0.2.1|10.0.1.0/24")
	nodes := map[string]overlay.Node{
		"b": mkNode("b", "192.0.2.2|10.0.2.0/24"),
		"c": mkNode("c", "192.0.2.3|10.0.3.0/24"),
	}
	k.way("192.0.2.2", 2, 1500)
	b.update(overlay.Config{Device: 9}, self, nodes)
	k.took()
	deadEnd := map[overlay.RouteKey]overlay.Route{
		{Dst: prefix("10.0.3.0/24"), Metric: overlay.MetricUnreachable}: {Unreachable: true},
	}
	if d := cmp.Diff(deadEnd, k.routes["c"], compareIP); d != "" {
		t.Errorf("routes to a node without a way (-want +got):\n%s", d)
	}

	k.way("192.0.2.3", 2, 1500)
	b.refreshPaths()
	if d := cmp.Diff([]string{"c"}, k.took()); d != "" {
		t.Errorf("a way appeared: compiled (-want +got):\n%s", d)
	}
	if len(k.rows["c"]) != 1 || b.entries["c"].err != nil {
		t.Errorf("a way appeared: rows %v, error %v", k.rows["c"], b.entries["c"].err)
	}
	k.way("192.0.2.2", 3, 1400)
	b.refreshPaths()
	if got := k.rows["b"][prefix("10.0.2.0/24")]; got.LinkIndex != 3 || got.MTU != 1350 {
		t.Errorf("another uplink: got %+v", got)
	}
	k.took()

	delete(k.paths, addr("192.0.2.2"))
	b.refreshPaths()
	if len(k.rows["b"]) != 1 || b.entries["b"].err == nil {
		t.Errorf("a way vanished: rows %v, error %v; want the former row, and an error", k.rows["b"], b.entries["b"].err)
	}
	k.took()
	b.refreshPaths()
	if got := k.took(); len(got) != 0 {
		t.Errorf("still no way: compiled %v", got)
	}
	k.way("192.0.2.2", 3, 1400)
	b.refreshPaths()
	if b.entries["b"].err != nil {
		t.Errorf("the way is back: error %v", b.entries["b"].err)
	}
}

func TestOuterFamiliesOfThePeers(t *testing.T) {
	self := mkNode("a", "192.0.2.1 2001:db8::1|10.0.1.0/24")
	nodes := map[string]overlay.Node{"b": mkNode("b", "192.0.2.2|"), "c": mkNode("c", "2001:db8::3|"), "d": mkNode("d", "|")}
	var got []string
	for _, p := range outerFamilies(self, nodes) {
		got = append(got, p.Remote.String())
	}
	if d := cmp.Diff([]string{"192.0.2.2", "2001:db8::3"}, got); d != "" {
		t.Errorf("remotes (-want +got):\n%s", d)
	}
}

func TestRememberedNodeSurvives(t *testing.T) {
	dir := t.TempDir()
	if got := remembered(dir); got.Name != "" {
		t.Errorf("without a past: got %+v", got)
	}
	want := mkNode("a", "192.0.2.1 2001:db8::1|10.0.1.0/24 fd00:1::/64")
	if err := remember(dir, want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, remembered(dir), compareIP); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
