package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// A node that is lost, and one that is back, cost what is on it.
func TestServiceBookFollowsLostNodes(t *testing.T) {
	f, b := newFakeServices()
	a, c, api := mkSlice("default", "a-0", "a", "10.0.1.1", "10.0.2.1"), mkSlice("default", "c-0", "c", "10.0.2.2"), mkSlice("default", "d-0", "d", "192.0.2.2", "192.0.2.3")
	a.Endpoints[0].Node, a.Endpoints[1].Node, c.Endpoints[0].Node = "b", "c", "c"
	svcs := []*source.Service{mkService("default", "a", "10.96.0.1"), mkService("default", "c", "10.96.0.2"), mkService("default", "d", "10.96.0.3")}
	sls := source.ListOf([]*source.EndpointSlice{a, c, api})
	for _, tc := range []struct {
		name     string
		lost     string
		addr     string
		want     []string
		backends int
	}{
		{"all are well", "", "", []string{"default/a", "default/c", "default/d"}, 5},
		{"one with a backend is lost", "b", "192.0.2.2", []string{"default/a", "default/d"}, 3},
		{"nothing changes", "b", "192.0.2.2", nil, 3},
		{"another one instead", "c", "192.0.2.3", []string{"default/a", "default/c", "default/d"}, 3},
		{"it is back", "", "", []string{"default/a", "default/c", "default/d"}, 5},
		{"one without backends is lost", "x", "192.0.2.9", nil, 5},
	} {
		node := service.Node{Name: "here", Lost: map[string]bool{}, LostAddrs: map[netip.Addr]struct{}{}}
		if tc.lost != "" {
			node.Lost[tc.lost], node.LostAddrs[addr(tc.addr)] = true, struct{}{}
		}
		b.update(node, svcs, sls)
		if got := f.took(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: compiled %v, want %v", tc.name, got, tc.want)
		}
		if b.backends != tc.backends {
			t.Errorf("%s: %d backends, want %d", tc.name, b.backends, tc.backends)
		}
	}
}

// An endpoint that only its address tells to be on a lost node is in use again when that is no
// node's any more, or another's, whoever is lost.
func TestServiceBookFollowsLostNodesAddresses(t *testing.T) {
	f, b := newFakeServices()
	svcs := []*source.Service{mkService("default", "d", "10.96.0.3")}
	sls := source.ListOf([]*source.EndpointSlice{mkSlice("default", "d-0", "d", "192.0.2.2", "192.0.2.3")})
	lost := map[string]bool{"b": true}
	for _, tc := range []struct {
		name     string
		lost     map[string]bool
		at       []string
		backends int
	}{
		{"a node of it is lost", lost, []string{"192.0.2.2"}, 1},
		{"the node has another address", lost, []string{"192.0.2.9"}, 2},
		{"and its former one again", lost, []string{"192.0.2.9", "192.0.2.2"}, 1},
		{"it is no node any more", lost, nil, 2},
		{"nor lost", map[string]bool{}, nil, 2},
	} {
		node := service.Node{Name: "here", Lost: tc.lost, LostAddrs: map[netip.Addr]struct{}{}, Addrs: map[netip.Addr]struct{}{}}
		for _, at := range tc.at {
			node.LostAddrs[addr(at)] = struct{}{}
			node.Addrs[addr(at)] = struct{}{}
		}
		b.update(node, svcs, sls)
		f.took()
		if b.backends != tc.backends {
			t.Errorf("%s: %d backends, want %d", tc.name, b.backends, tc.backends)
		}
	}
}

// Who finds out which nodes are lost announces addresses, too, and gives the sign of life: it
// must not wait while Services are compiled, of which there are many to do just then.
func TestWhoIsLostIsTakenUpWhileServicesAreCompiled(t *testing.T) {
	s := newServices(Config{}, &tables{}, nil)
	done := make(chan struct{})
	s.mu.Lock()
	go func() {
		s.setLost(map[string]bool{"b": true}, false)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("it waits")
	}
	s.mu.Unlock()
	<-done
	s.remembered(overlay.Node{Name: "a"})
	if n := s.of(); !n.Lost["b"] {
		t.Errorf("lost are %v", n.Lost)
	}
}
