package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// found is the names on a page, and how many fit.
func found(s *services, q api.ServiceQuery) (int, []string) {
	page := s.find(q)
	var names []string
	for _, svc := range page.Services {
		names = append(names, svc.Namespace+"/"+svc.Name)
	}
	return page.Found, names
}

func TestFindServices(t *testing.T) {
	_, book := newFakeServices()
	outer := mkService("shop", "web", "10.96.1.1")
	outer.Type = "LoadBalancer"
	outer.LoadBalancerIPs = []source.LoadBalancerIP{{IP: addr("192.0.2.80")}}
	book.update(service.Node{Name: "a"}, []*source.Service{
		mkService("default", "dns", "fd00:96::53"), mkService("default", "web", "10.96.0.2"), outer,
	}, source.ListOf([]*source.EndpointSlice{mkSlice("default", "web-1", "web", "10.0.0.1"), mkSlice("shop", "web-1", "web", "10.0.0.2")}))
	book.troubled[serviceName{"shop", "web"}] = []string{"another has its address"}
	s := &services{name: "a", enabled: true, book: book, ports: map[api.Ref]*podPorts{
		{ContainerID: "c", IfName: "eth0"}: {
			Ports:    endpoint.Ports{PodNamespace: "default", PodName: "proxy", Addrs: []netip.Addr{addr("10.0.9.9")}},
			mappings: []service.PortMapping{{HostPort: 80, ContainerPort: 8080, Protocol: bpf.TCP}},
		},
	}}
	for name, tc := range map[string]struct {
		q     api.ServiceQuery
		found int
		want  []string
	}{
		"all":             {api.ServiceQuery{}, 4, []string{"default/dns", "default/proxy", "default/web", "shop/web"}},
		"a page":          {api.ServiceQuery{Offset: 1, Limit: 2}, 4, []string{"default/proxy", "default/web"}},
		"past the end":    {api.ServiceQuery{Offset: 9}, 4, nil},
		"name":            {api.ServiceQuery{Text: "WEB"}, 2, []string{"default/web", "shop/web"}},
		"namespace":       {api.ServiceQuery{Text: "shop/"}, 1, []string{"shop/web"}},
		"ClusterIP":       {api.ServiceQuery{Text: "10.96.0.2"}, 1, []string{"default/web"}},
		"IPv6":            {api.ServiceQuery{Text: "fd00:96"}, 1, []string{"default/dns"}},
		"outer address":   {api.ServiceQuery{Text: "192.0.2."}, 1, []string{"shop/web"}},
		"pod's address":   {api.ServiceQuery{Text: "10.0.9.9"}, 1, []string{"default/proxy"}},
		"type":            {api.ServiceQuery{Type: "LoadBalancer"}, 1, []string{"shop/web"}},
		"host ports":      {api.ServiceQuery{Type: "HostPort"}, 1, []string{"default/proxy"}},
		"trouble":         {api.ServiceQuery{Troubled: true}, 2, []string{"default/dns", "shop/web"}},
		"all that is set": {api.ServiceQuery{Text: "web", Type: "LoadBalancer", Troubled: true}, 1, []string{"shop/web"}},
		"nothing":         {api.ServiceQuery{Text: "no such"}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.q.Limit == 0 {
				tc.q.Limit = 50
			}
			n, names := found(s, tc.q)
			if d := cmp.Diff(tc.want, names); d != "" || n != tc.found {
				t.Errorf("%d fit, want %d; names (-want +got):\n%s", n, tc.found, d)
			}
		})
	}
}

// A Service without a single ready backend is trouble when it is served; what is not served
// is none.
func TestTroubleIsNoReadyBackend(t *testing.T) {
	_, book := newFakeServices()
	down := mkSlice("default", "down-1", "down", "10.0.0.1")
	down.Endpoints[0].Ready = false
	headless := mkService("default", "headless", "10.96.0.3")
	headless.ClusterIPs = nil
	book.update(service.Node{Name: "a"}, []*source.Service{mkService("default", "down", "10.96.0.1"), headless},
		source.ListOf([]*source.EndpointSlice{down}))
	s := &services{name: "a", enabled: true, book: book}
	if n, names := found(s, api.ServiceQuery{Troubled: true, Limit: 10}); n != 1 || names[0] != "default/down" {
		t.Errorf("in trouble are %v, want default/down alone", names)
	}
}

func TestPlacesAreCountedOnce(t *testing.T) {
	s := &services{}
	s.node.NodePortAddrs = []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}
	got := s.places([]api.ServiceFront{
		{Addr: "10.96.0.1", Port: 80, Protocol: "TCP"}, {Addr: "*", Port: 30080, Protocol: "UDP"}, {Addr: "*", Port: 30080, Protocol: "UDP"},
	})
	want := []bpf.Place{
		{Addr: addr("10.96.0.1"), Port: 80, Protocol: bpf.TCP},
		{Addr: addr("192.0.2.1"), Port: 30080, Protocol: bpf.UDP}, {Addr: addr("2001:db8::1"), Port: 30080, Protocol: bpf.UDP},
	}
	if d := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); d != "" {
		t.Errorf("places (-want +got):\n%s", d)
	}
}

// Who watches a Service does not make the daemon look at all flows all the time; an error is
// not kept.
func TestFlowsAreNotCountedTooOften(t *testing.T) {
	calls, broken := 0, errors.New("broken")
	f := flowCounts{count: func() (map[bpf.Place]int, error) {
		calls++
		if calls == 1 {
			return nil, broken
		}
		return map[bpf.Place]int{{}: calls}, nil
	}}
	if _, err := f.get(); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if _, err := f.get(); err != nil || calls != 2 {
		t.Fatalf("after an error: %v, and %d calls", err, calls)
	}
	f.next = time.Now().Add(time.Hour)
	if got, err := f.get(); err != nil || got[bpf.Place{}] != 2 {
		t.Errorf("too early: got %v, %v, want what was counted before", got, err)
	}
	f.next = time.Now()
	if got, err := f.get(); err != nil || got[bpf.Place{}] != 3 {
		t.Errorf("later: got %v, %v, want a new count", got, err)
	}
}

// BenchmarkFindServices is one look at the last page of 30,000 Services.
func BenchmarkFindServices(b *testing.B) {
	_, book := newFakeServices()
	var svcs []*source.Service
	for i := range 30_000 {
		svcs = append(svcs, mkService("default", fmt.Sprintf("svc-%05d", i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()))
	}
	book.update(service.Node{Name: "a"}, svcs, source.List[source.EndpointSlice]{})
	s := &services{name: "a", enabled: true, book: book}
	for name, q := range map[string]api.ServiceQuery{
		"all": {}, "name": {Text: "svc-29"}, "address": {Text: "10.96.117"}, "troubled": {Troubled: true},
	} {
		b.Run(name, func(b *testing.B) {
			q.Limit, q.Offset = 50, 1
			for b.Loop() {
				if s.find(q).Found == 0 {
					b.Fatal("nothing found")
				}
			}
		})
	}
}
