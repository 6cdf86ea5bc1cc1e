package daemon

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
)

// fakeServices keeps what a book says.
type fakeServices struct {
	rows map[string]service.Rows
	puts []string
	held func(*service.Rows) bool
}

func newFakeServices() (*fakeServices, *serviceBook) {
	f := &fakeServices{rows: map[string]service.Rows{}, held: func(*service.Rows) bool { return false }}
	return f, newServiceBook(func(all []serviceRows) {
		for _, r := range all {
			f.puts = append(f.puts, r.name.String())
			f.rows[r.name.String()] = r.Rows
		}
	}, func(r *service.Rows) bool { return f.held(r) })
}

// took returns and forgets who was put.
func (f *fakeServices) took() []string {
	out := f.puts
	f.puts = nil
	slices.Sort(out)
	return out
}

// mkService is a Service with one port.
func mkService(namespace, name, ip string) *source.Service {
	return &source.Service{
		Namespace: namespace, Name: name, Type: "ClusterIP", ClusterIPs: []netip.Addr{addr(ip)},
		Ports: []source.ServicePort{{Protocol: source.TCP, Port: 80}},
	}
}

// mkSlice is a slice of ready endpoints on port 8080.
func mkSlice(namespace, name, service string, ips ...string) *source.EndpointSlice {
	s := &source.EndpointSlice{Namespace: namespace, Name: name, Service: service, Ports: []source.SlicePort{{Protocol: source.TCP, Port: 8080}}}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, source.SliceEndpoint{IP: addr(ip), Ready: true, Serving: true, Node: "a", TargetUID: ip})
	}
	return s
}

func TestServiceBookCompilesOnlyWhatChanged(t *testing.T) {
	f, b := newFakeServices()
	node := service.Node{Name: "a", NodePortAddrs: []netip.Addr{addr("192.0.2.1")}, Addrs: map[netip.Addr]struct{}{addr("192.0.2.1"): {}}}
	svcs := []*source.Service{mkService("default", "a", "10.96.0.1"), mkService("default", "b", "10.96.0.2"), mkService("other", "a", "10.96.0.3")}
	sls := []*source.EndpointSlice{mkSlice("default", "a-1", "a", "10.0.0.1"), mkSlice("default", "b-1", "b", "10.0.0.2"), mkSlice("other", "a-1", "a", "10.0.0.3")}
	step := func(name string, backends int, want ...string) {
		t.Helper()
		got := []string{}
		for _, k := range b.update(node, svcs, source.ListOf(sls)) {
			got = append(got, k.String())
		}
		slices.Sort(got)
		if want == nil {
			want = []string{}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: changed (-want +got):\n%s", name, d)
		}
		if puts := f.took(); !slices.Equal(puts, want) {
			t.Errorf("%s: put %v, want %v", name, puts, want)
		}
		rows := 0
		for _, r := range f.rows {
			rows += len(r.Backends)
		}
		if rows != backends || b.backends != backends {
			t.Errorf("%s: %d backends, the book says %d, want %d", name, rows, b.backends, backends)
		}
	}
	step("first", 3, "default/a", "default/b", "other/a")
	step("nothing", 3)

	sls = slices.Clone(sls)
	sls[1] = mkSlice("default", "b-1", "b", "10.0.0.2", "10.0.0.4")
	step("a slice changed", 4, "default/b")
	sls = slices.Insert(slices.Clone(sls), 1, mkSlice("default", "a-2", "a", "10.0.0.5"))
	step("a slice came", 5, "default/a")
	sls = slices.Clone(sls)
	sls[1] = mkSlice("default", "a-2", "b", "10.0.0.5")
	step("a slice went to another Service", 5, "default/a", "default/b")
	sls = slices.Delete(slices.Clone(sls), 1, 2)
	step("a slice is gone", 4, "default/b")

	svcs = slices.Clone(svcs)
	svcs[2] = mkService("other", "a", "10.96.0.33")
	step("a Service changed", 4, "other/a")
	if _, ok := f.rows["other/a"].Frontends[bpf.Place{Addr: addr("10.96.0.33"), Port: 80, Protocol: bpf.TCP}]; !ok {
		t.Error("it is not served where it is now")
	}
	svcs = svcs[:2]
	step("a Service is gone", 3, "other/a")
	if len(f.rows["other/a"].Frontends) != 0 || b.served != 2 {
		t.Errorf("rows of a Service that is gone: %v; %d are served", f.rows["other/a"], b.served)
	}
	svcs = append(slices.Clone(svcs), mkService("other", "a", "10.96.0.3"))
	step("it comes back to its slices", 4, "other/a")

	headless := mkService("default", "b", "10.96.0.2")
	headless.Headless = true
	svcs = slices.Clone(svcs)
	svcs[1] = headless
	step("a Service is not served any more", 2, "default/b")
	sls = slices.Clone(sls)
	sls[1] = mkSlice("default", "b-1", "b", "10.0.0.7")
	step("slices of one that is not served", 2)
	sls, svcs = sls[:2], nil
	step("all are gone", 0, "default/a", "other/a")
	sls = nil
	step("their slices, too", 0)
	if len(b.entries) != 0 || b.served != 0 {
		t.Errorf("left: %v, %d served", b.entries, b.served)
	}
}

func TestServiceBookFollowsTheNode(t *testing.T) {
	f, b := newFakeServices()
	outer := mkService("default", "outer", "10.96.0.1")
	outer.ExternalIPs = []netip.Addr{addr("192.0.2.9")}
	local := mkService("default", "local", "10.96.0.3") // its own node ports lead to other nodes'
	local.ExternalLocal, local.Ports[0].NodePort = true, 30080
	svcs := []*source.Service{mkService("default", "inner", "10.96.0.2"), local, outer}
	ends := mkSlice("default", "local-1", "local", "10.0.0.1", "10.0.0.2")
	ends.Endpoints[0].Node, ends.Endpoints[1].Node = "b", "c"
	others := func(name, at string) map[string][]netip.Addr { return map[string][]netip.Addr{name: {addr(at)}} }
	addrs := func(s ...string) map[netip.Addr]struct{} {
		m := map[netip.Addr]struct{}{}
		for _, a := range s {
			m[addr(a)] = struct{}{}
		}
		return m
	}
	all := []string{"default/inner", "default/local", "default/outer"}
	for _, tc := range []struct {
		name string
		node service.Node
		want []string
	}{
		{"first", service.Node{Name: "a", Addrs: addrs("192.0.2.1")}, all},
		{"the same", service.Node{Name: "a", Addrs: addrs("192.0.2.1")}, nil},
		{"another node came", service.Node{Name: "a", Addrs: addrs("192.0.2.1", "192.0.2.2")}, nil},
		{"a node has a Service's address", service.Node{Name: "a", Addrs: addrs("192.0.2.1", "192.0.2.9")}, []string{"default/outer"}},
		{"no longer", service.Node{Name: "a", Addrs: addrs("192.0.2.1")}, []string{"default/outer"}},
		{"another zone", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1")}, all},
		{"another address of ours", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1"), NodePortAddrs: []netip.Addr{addr("192.0.2.1")}}, all},
		{"another node serves node ports", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1"), NodePortAddrs: []netip.Addr{addr("192.0.2.1")}, Others: others("b", "192.0.2.2")}, []string{"default/local"}},
		{"at another address", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1"), NodePortAddrs: []netip.Addr{addr("192.0.2.1")}, Others: others("b", "192.0.2.3")}, []string{"default/local"}},
		{"it is another one's", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1"), NodePortAddrs: []netip.Addr{addr("192.0.2.1")}, Others: others("c", "192.0.2.3")}, []string{"default/local"}},
		{"as before", service.Node{Name: "a", Zone: "z", Addrs: addrs("192.0.2.1"), NodePortAddrs: []netip.Addr{addr("192.0.2.1")}, Others: others("c", "192.0.2.3")}, nil},
	} {
		b.update(tc.node, svcs, source.ListOf([]*source.EndpointSlice{ends}))
		if got := f.took(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: put %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestAPIServersServiceNeverBecomesEmpty(t *testing.T) {
	svcs := []*source.Service{mkService("default", "kubernetes", "10.96.0.1")}
	full := []*source.EndpointSlice{mkSlice("default", "kubernetes", "kubernetes", "192.0.2.1")}
	notReady := mkSlice("default", "kubernetes", "kubernetes", "192.0.2.1")
	notReady.Endpoints[0].Ready, notReady.Endpoints[0].Serving = false, false
	for name, empty := range map[string][]*source.EndpointSlice{
		"no slice": nil, "no endpoint": {mkSlice("default", "kubernetes", "kubernetes")}, "none is ready": {notReady},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := newFakeServices()
			b.update(service.Node{Name: "a"}, svcs, source.ListOf(full))
			was := f.rows["default/kubernetes"]
			f.took()
			for range 2 { // and again, for another reason
				b.update(service.Node{Name: "a", Zone: name}, svcs, source.ListOf(empty))
			}
			if puts := f.took(); puts != nil || len(was.Backends) != 1 {
				t.Errorf("put %v after %v", puts, was)
			}
			if len(b.troubled[apiServer]) != 1 || b.backends != 1 {
				t.Errorf("problems %q, %d backends", b.troubled[apiServer], b.backends)
			}
			b.update(service.Node{Name: "a", Zone: name}, svcs, source.ListOf(full))
			if puts := f.took(); len(puts) != 1 || len(b.troubled) != 0 {
				t.Errorf("when there are endpoints again: put %v, problems %v", puts, b.troubled)
			}
			if b.update(service.Node{Name: "a", Zone: name}, nil, source.List[source.EndpointSlice]{}); len(f.rows["default/kubernetes"].Frontends) != 0 {
				t.Error("a Service that was deleted is kept")
			}
		})
	}
	t.Run("after a restart", func(t *testing.T) {
		f, b := newFakeServices()
		f.held = func(r *service.Rows) bool {
			for id := range r.Sets {
				r.Sets[id] = bpf.Set{Count: 1}
				r.Backends[bpf.Slot{Set: id}] = bpf.Backend{Addr: addr("192.0.2.1"), Port: 6443, Generation: 1}
			}
			return true
		}
		b.update(service.Node{Name: "a"}, svcs, source.List[source.EndpointSlice]{})
		if r := f.rows["default/kubernetes"]; len(r.Backends) != 1 || len(b.troubled) != 1 || b.backends != 1 {
			t.Errorf("rows %v, problems %v", r, b.troubled)
		}
	})
	t.Run("another Service", func(t *testing.T) {
		f, b := newFakeServices()
		other := []*source.Service{mkService("default", "web", "10.96.0.1")}
		b.update(service.Node{Name: "a"}, other, source.ListOf([]*source.EndpointSlice{mkSlice("default", "x", "web", "10.0.0.1")}))
		b.update(service.Node{Name: "a"}, other, source.List[source.EndpointSlice]{})
		if r := f.rows["default/web"]; len(r.Backends) != 0 || len(r.Frontends) == 0 {
			t.Errorf("got %v, want places without backends", r)
		}
	})
}

func TestChangesOfSortedLists(t *testing.T) {
	mk := func(names ...string) (out []*source.Service) {
		for _, n := range names {
			out = append(out, mkService("n", n, "10.96.0.1"))
		}
		return out
	}
	abc := mk("a", "b", "c")
	for name, tc := range map[string]struct {
		before, now []*source.Service
		want        string
	}{
		"nothing":       {nil, nil, ""},
		"the same":      {abc, abc, ""},
		"came":          {nil, abc, "+a +b +c "},
		"gone":          {abc, nil, "-a -b -c "},
		"in the middle": {abc, []*source.Service{abc[0], abc[2]}, "-b "},
		"another":       {abc, slices.Concat(abc[:1], mk("b"), abc[2:]), "-b +b "},
		"at the ends":   {abc, slices.Concat(mk("A"), abc[1:], mk("d")), "+A -a +d "},
	} {
		got := ""
		changes(tc.before, tc.now, compareServices,
			func(s *source.Service) { got += fmt.Sprintf("-%s ", s.Name) },
			func(s *source.Service) { got += fmt.Sprintf("+%s ", s.Name) })
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// With every change of a Service the book is given the node anew: that it is the same costs
// nothing for each node of the cluster.
func TestServiceBookDoesNotWalkTheNodes(t *testing.T) {
	_, b := newFakeServices()
	node := service.Node{Name: "a", Addrs: map[netip.Addr]struct{}{}, Others: map[string][]netip.Addr{}}
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})
		node.Addrs[a], node.Others[fmt.Sprint(i)] = struct{}{}, []netip.Addr{a}
	}
	b.update(node, nil, source.List[source.EndpointSlice]{})
	if !same(b.node.Addrs, node.Addrs) || !same(b.node.Others, node.Others) || b.concerned(node) != nil {
		t.Error("the same node concerns Services, or its maps are looked through")
	}
	again := node
	again.Addrs, again.Others = maps.Clone(node.Addrs), maps.Clone(node.Others)
	if same(b.node.Addrs, again.Addrs) || b.concerned(again) != nil {
		t.Error("another node of the same content concerns Services, or is taken for the same")
	}
	delete(again.Others, "7")
	if b.concerned(again) == nil {
		t.Error("a node is gone, and nothing is concerned")
	}
}

// TestServiceBookPreparesWhatIsKnown tells a book of Services and slices as they become known,
// in any order. It compiles no Service before it has slices, and in the end has said what one
// does that is told of all at once.
func TestServiceBookPreparesWhatIsKnown(t *testing.T) {
	node := service.Node{Name: "a", NodePortAddrs: []netip.Addr{addr("192.0.2.1")}}
	var svcs []*source.Service
	var sls []*source.EndpointSlice
	for i := range 40 {
		name := fmt.Sprintf("s%02d", i)
		svcs = append(svcs, mkService("default", name, fmt.Sprintf("10.96.0.%d", i)))
		for n := range i % 3 { // some have no slice, some two
			sls = append(sls, mkSlice("default", fmt.Sprintf("%s-%d", name, n), name, fmt.Sprintf("10.%d.0.%d", n, i)))
		}
	}
	whole, all := newFakeServices()
	all.update(node, svcs, source.ListOf(sls))
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		f, b := newFakeServices()
		known, shown := make([]bool, len(svcs)), make([]bool, len(sls))
		for range 4 {
			var some []*source.Service
			for i, v := range svcs {
				if known[i] = known[i] || r.IntN(3) == 0; known[i] {
					some = append(some, v)
				}
			}
			var ends []*source.EndpointSlice
			for i, e := range sls {
				if shown[i] = shown[i] || r.IntN(3) == 0; shown[i] {
					ends = append(ends, e)
				}
			}
			b.prepare(node, some, source.ListOf(ends))
			for name, rows := range f.rows {
				if len(rows.Backends) == 0 {
					t.Fatalf("seed %d: %s was compiled without slices", seed, name)
				}
			}
		}
		b.update(node, svcs, source.ListOf(sls))
		if d := cmp.Diff(whole.rows, f.rows, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Fatalf("seed %d: rows (-want +got):\n%s", seed, d)
		}
		if b.served != all.served || b.backends != all.backends || len(b.waiting) > 0 {
			t.Errorf("seed %d: %d served by %d backends, %d wait; want %d by %d", seed, b.served, b.backends, len(b.waiting), all.served, all.backends)
		}
		f.took()
		if b.update(node, svcs, source.ListOf(sls)); f.took() != nil {
			t.Errorf("seed %d: compiled once more", seed)
		}
	}
}
