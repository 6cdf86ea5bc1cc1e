package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
)

// Of the Services that lead to other nodes' node ports, a node concerns those that have an
// endpoint on it: when many nodes come, each costs what is on it, not all.
func TestServiceBookFollowsOtherNodes(t *testing.T) {
	f, b := newFakeServices()
	var svcs []*source.Service
	var sls []*source.EndpointSlice
	add := func(name string, local bool, nodePort uint16, ends ...string) { // "address node"
		svc := mkService("default", name, fmt.Sprintf("10.96.0.%d", len(svcs)+1))
		svc.ExternalLocal, svc.Ports[0].NodePort = local, nodePort
		svcs = append(svcs, svc)
		for i, end := range ends { // each in a slice of its own
			ip, node, _ := strings.Cut(end, " ")
			s := mkSlice("default", fmt.Sprint(name, "-", i), name, ip)
			s.Endpoints[0].Node = node
			sls = append(sls, s)
		}
	}
	add("a-bare", true, 30001)
	add("b-cluster", false, 30002, "10.0.1.1 b", "10.0.2.1 c")
	add("c-inner", true, 0, "10.0.1.1 b", "10.0.2.1 c")
	add("d-local", true, 30003, "10.0.0.1 a", "10.0.1.1 b")
	add("e-local", true, 30004, "10.0.0.1 a", "10.0.2.1 c")
	add("f-local", true, 30005, "10.0.1.1 b", "10.0.2.1 c")
	add("g-host", true, 30006, "192.0.2.44 d")
	own := addr("192.0.2.1")
	for _, tc := range []struct {
		name   string
		others string   // "name=address …"
		more   []string // addresses of nodes that serve no node ports
		want   []string // nil: none
	}{
		{"first", "b=192.0.2.2 d=192.0.2.4", nil, []string{"a-bare", "b-cluster", "c-inner", "d-local", "e-local", "f-local", "g-host"}},
		{"a node without endpoints came", "b=192.0.2.2 d=192.0.2.4 e=192.0.2.5", nil, nil},
		{"and another, as the first went", "b=192.0.2.2 d=192.0.2.4 f=192.0.2.6", nil, nil},
		{"a node that serves no node ports came", "b=192.0.2.2 c= d=192.0.2.4", nil, nil},
		{"now it does", "b=192.0.2.2 c=192.0.2.3 d=192.0.2.4", nil, []string{"e-local", "f-local"}},
		{"one has another address", "b=192.0.2.22 c=192.0.2.3 d=192.0.2.4", nil, []string{"d-local", "f-local"}},
		{"two change places", "b=192.0.2.3 c=192.0.2.22 d=192.0.2.4", nil, []string{"d-local", "e-local", "f-local"}},
		{"one is gone", "b=192.0.2.3 d=192.0.2.4", nil, []string{"e-local", "f-local"}},
		{"an endpoint's address is a node's", "b=192.0.2.3 d=192.0.2.4", []string{"192.0.2.44"}, []string{"g-host"}},
		{"no longer", "b=192.0.2.3 d=192.0.2.4", nil, []string{"g-host"}},
	} {
		node := service.Node{
			Name: "a", NodePortAddrs: []netip.Addr{own},
			Others: map[string][]netip.Addr{}, Addrs: map[netip.Addr]struct{}{own: {}},
		}
		for _, other := range strings.Fields(tc.others) {
			name, at, _ := strings.Cut(other, "=")
			node.Others[name] = nil
			if at != "" {
				node.Others[name] = []netip.Addr{addr(at)}
				node.Addrs[addr(at)] = struct{}{}
			}
		}
		for _, a := range tc.more {
			node.Addrs[addr(a)] = struct{}{}
		}
		b.update(node, svcs, source.ListOf(sls))
		var want []string
		for _, name := range tc.want {
			want = append(want, "default/"+name)
		}
		if got := f.took(); !slices.Equal(got, want) {
			t.Errorf("%s: compiled %v, want %v", tc.name, got, want)
		}
		fresh, other := newFakeServices()
		other.update(node, svcs, source.ListOf(sls))
		if d := cmp.Diff(fresh.rows, f.rows, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s: rows, if all were compiled (-want +got):\n%s", tc.name, d)
		}
	}
}

// An endpoint at the overlay's port is used until there is a node, and again when that is gone.
func TestServiceBookFollowsOverlays(t *testing.T) {
	f, b := newFakeServices()
	svc := mkService("default", "tunnel", "10.96.0.1")
	svc.Ports[0].Protocol = source.UDP
	slice := mkSlice("default", "tunnel-1", "tunnel", "192.0.2.9")
	slice.Ports[0].Protocol, slice.Ports[0].Port = source.UDP, 8872
	at := bpf.Place{Addr: addr("192.0.2.9"), Port: 8872, Protocol: bpf.UDP}
	node := service.Node{Name: "a", OverlayPort: 8872}
	for i, here := range []bool{false, true, false, true} {
		node.Addrs = map[netip.Addr]struct{}{addr("192.0.2.1"): {}}
		if here {
			node.Addrs[at.Addr] = struct{}{}
		}
		b.update(node, []*source.Service{svc}, source.ListOf([]*source.EndpointSlice{slice}))
		rows := f.rows["default/tunnel"]
		if _, used := rows.Alive[at]; used == here {
			t.Errorf("step %d: a node is there: %t; its overlay is used: %t", i, here, used)
		}
		if said := len(b.troubled) > 0; said != here {
			t.Errorf("step %d: a node is there: %t; problems %v", i, here, b.troubled)
		}
	}
}
