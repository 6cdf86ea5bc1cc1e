package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
)

// serviceName names a Service.
type serviceName struct{ namespace, name string }

func (k serviceName) String() string { return k.namespace + "/" + k.name }

// apiServer is the Service by which the cluster's own parts find its API. It must not
// become empty because the API server that says so is the one that is gone.
var apiServer = serviceName{"default", "kubernetes"}

// serviceBook is what was compiled for each Service, so that a change of one compiles
// that one. It is not safe for concurrent use.
type serviceBook struct {
	// put says what the owners of Services' rows want.
	put func([]serviceRows)
	// held fills rows without backends with those that the kernel has, and says
	// whether there are some.
	held func(*service.Rows) bool

	node     service.Node
	services []*source.Service                 // as they were seen last
	slices   source.List[source.EndpointSlice] // likewise
	entries  map[serviceName]*serviceEntry
	waiting  map[serviceName]struct{} // for update: what prepare left

	// Sums over the entries.
	served, backends int
	healths          map[serviceName]service.Health
	troubled         map[serviceName][]string // problems
	noted            bool                     // healths or troubled changed; whoever reads them resets it
}

// serviceEntry is one Service, or slices that have none.
type serviceEntry struct {
	svc      *source.Service // nil: there are only slices
	slices   []*source.EndpointSlice
	put      bool // it has rows
	backends int  // how many of them are backends
}

// serviceRows is what is wanted for a Service.
type serviceRows struct {
	name serviceName
	service.Rows
}

func newServiceBook(put func([]serviceRows), held func(*service.Rows) bool) *serviceBook {
	return &serviceBook{
		put: put, held: held, entries: map[serviceName]*serviceEntry{},
		waiting: map[serviceName]struct{}{}, healths: map[serviceName]service.Health{}, troubled: map[serviceName][]string{},
	}
}

// update compiles the Services that changed and returns their names: those that are
// other objects than before, or have other slices, or depend on what changed of the
// node. Both lists are sorted by namespace and name. For what did not change it costs a
// comparison of pointers.
func (b *serviceBook) update(node service.Node, services []*source.Service, ss source.List[source.EndpointSlice]) []serviceName {
	dirty := b.look(node, services, ss)
	for k := range b.waiting {
		if e := b.entries[k]; e != nil {
			dirty[k] = e
		}
	}
	b.waiting = map[serviceName]struct{}{} // there may have been many
	return b.compileAll(dirty)
}

// prepare is update while the source has not said all: a Service that has no slices yet is
// left to a later update.
func (b *serviceBook) prepare(node service.Node, services []*source.Service, ss source.List[source.EndpointSlice]) {
	dirty := b.look(node, services, ss)
	for k, e := range dirty {
		if e.svc == nil || len(e.slices) == 0 {
			b.waiting[k] = struct{}{}
			delete(dirty, k)
		}
	}
	b.compileAll(dirty)
}

// look takes up what is known, and returns the Services that must be compiled for it.
func (b *serviceBook) look(node service.Node, services []*source.Service, ss source.List[source.EndpointSlice]) (dirty map[serviceName]*serviceEntry) {
	dirty = map[serviceName]*serviceEntry{}
	entry := func(k serviceName) *serviceEntry {
		e := b.entries[k]
		if e == nil {
			e = &serviceEntry{}
			b.entries[k] = e
		}
		dirty[k] = e
		return e
	}
	changes(b.services, services, compareServices,
		func(s *source.Service) { entry(serviceName{s.Namespace, s.Name}).svc = nil },
		func(s *source.Service) { entry(serviceName{s.Namespace, s.Name}).svc = s })
	source.Differences(b.slices, ss, compareSlices,
		func(s *source.EndpointSlice) {
			e := entry(serviceName{s.Namespace, s.Service})
			e.slices = slices.DeleteFunc(e.slices, func(x *source.EndpointSlice) bool { return x == s })
		},
		func(s *source.EndpointSlice) {
			e := entry(serviceName{s.Namespace, s.Service})
			e.slices = append(e.slices, s)
		})
	concerned := b.concerned(node)
	b.node, b.services, b.slices = node, services, ss
	if concerned != nil {
		for k, e := range b.entries {
			if e.svc != nil && concerned(e) {
				dirty[k] = e
			}
		}
	}
	return dirty
}

// compileAll compiles Services, and returns the names of those whose rows changed.
func (b *serviceBook) compileAll(dirty map[serviceName]*serviceEntry) (changed []serviceName) {
	for names := range slices.Chunk(slices.Collect(maps.Keys(dirty)), compiledTogether) {
		put := b.compile(names)
		for _, r := range put {
			changed = append(changed, r.name)
		}
		if len(put) > 0 {
			b.put(put)
		}
	}
	for k, e := range dirty {
		if e.svc == nil && len(e.slices) == 0 {
			delete(b.entries, k)
		}
	}
	return changed
}

// concerned says which Services must be compiled because the node is another than
// before; nil: none.
func (b *serviceBook) concerned(node service.Node) func(*serviceEntry) bool {
	was := b.node
	if was.Name != node.Name || was.Zone != node.Zone || !slices.Equal(was.NodePortAddrs, node.NodePortAddrs) {
		return func(*serviceEntry) bool { return true }
	}
	if same(was.Addrs, node.Addrs) && same(was.Others, node.Others) && same(was.Lost, node.Lost) && was.CutOff == node.CutOff {
		return nil
	}
	lost := differ(was.Lost, node.Lost)
	lostAddrs := differ(was.LostAddrs, node.LostAddrs)
	if was.CutOff != node.CutOff { // then it counts for all that are, or were
		for _, n := range []*service.Node{&was, &node} {
			maps.Copy(lost, n.Lost)
			for a := range n.LostAddrs {
				lostAddrs[a] = true
			}
		}
	}
	// Nodes come and go; few of their addresses are a Service's.
	changed := differ(was.Addrs, node.Addrs)
	moved := map[string]bool{} // other nodes whose node ports are elsewhere now
	for name, at := range was.Others {
		if !slices.Equal(at, node.Others[name]) {
			moved[name] = true
		}
	}
	for name, at := range node.Others {
		if !slices.Equal(at, was.Others[name]) {
			moved[name] = true
		}
	}
	if len(changed) == 0 && len(moved) == 0 && len(lost) == 0 && len(lostAddrs) == 0 {
		return nil
	}
	return func(e *serviceEntry) bool {
		return slices.ContainsFunc(e.svc.ClusterIPs, func(a netip.Addr) bool { return changed[a] }) ||
			slices.ContainsFunc(e.svc.ExternalIPs, func(a netip.Addr) bool { return changed[a] }) ||
			slices.ContainsFunc(e.svc.LoadBalancerIPs, func(l source.LoadBalancerIP) bool { return changed[l.IP] }) ||
			(e.asksNodes() || e.leadsTo(source.UDP, node.OverlayPort)) && e.hasEndpoint(func(s *source.SliceEndpoint) bool { return moved[s.Node] || changed[s.IP] }) ||
			len(lost)+len(lostAddrs) > 0 && e.hasEndpoint(func(s *source.SliceEndpoint) bool { return lost[s.Node] || lostAddrs[s.IP] })
	}
}

// differ is the keys that only one of two maps has.
func differ[K comparable, V any](a, b map[K]V) map[K]bool {
	out := map[K]bool{}
	for k := range a {
		if _, too := b[k]; !too {
			out[k] = true
		}
	}
	for k := range b {
		if _, too := a[k]; !too {
			out[k] = true
		}
	}
	return out
}

// asksNodes says that a node's own sockets may be served by other nodes' node ports.
func (e *serviceEntry) asksNodes() bool {
	return e.svc.ExternalLocal && slices.ContainsFunc(e.svc.Ports, func(p source.ServicePort) bool { return p.NodePort != 0 })
}

// leadsTo says whether endpoints have this port.
func (e *serviceEntry) leadsTo(protocol source.Protocol, port uint16) bool {
	return slices.ContainsFunc(e.slices, func(s *source.EndpointSlice) bool {
		return slices.ContainsFunc(s.Ports, func(p source.SlicePort) bool { return p.Protocol == protocol && p.Port == port })
	})
}

// hasEndpoint says whether there is an endpoint of that kind.
func (e *serviceEntry) hasEndpoint(is func(*source.SliceEndpoint) bool) bool {
	for _, s := range e.slices {
		for i := range s.Endpoints {
			if is(&s.Endpoints[i]) {
				return true
			}
		}
	}
	return false
}

// same says that two maps are one, without a look at what is in them: there is something for
// each node, and the node is asked about with every change of a Service.
func same[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// compiledTogether is how many Services are compiled before their rows are put: those of
// all would take much memory.
const compiledTogether = 512

// compile makes the rows of some Services, on several processors if there are many, and
// returns those that are others than before.
func (b *serviceBook) compile(names []serviceName) (put []serviceRows) {
	all := make([]service.Rows, len(names))
	parallel(len(names), func(i int) {
		if e := b.entries[names[i]]; e.svc != nil {
			all[i] = service.Compile(b.node, e.svc, e.slices)
		}
	})
	for i, k := range names {
		if rows := all[i]; b.take(k, b.entries[k], &rows) {
			put = append(put, serviceRows{k, rows})
		}
	}
	return put
}

// take takes up one Service's rows, and says whether others are wanted now.
func (b *serviceBook) take(k serviceName, e *serviceEntry, rows *service.Rows) bool {
	keep := false
	if k == apiServer && !b.node.Left && len(rows.Frontends) > 0 && len(rows.Backends) == 0 {
		if keep = e.backends > 0; keep || b.held(rows) {
			rows.Problems = append(rows.Problems, "it has no endpoint now; the former ones are kept, as this is the way to the API server")
		}
	}
	b.note(k, rows)
	had := e.put
	if keep || !had && len(rows.Frontends) == 0 {
		return false
	}
	b.backends += len(rows.Backends) - e.backends
	e.put, e.backends = len(rows.Frontends) > 0, len(rows.Backends)
	switch {
	case e.put && !had:
		b.served++
	case had && !e.put:
		b.served--
	}
	return true
}

// note keeps what is not for the kernel.
func (b *serviceBook) note(k serviceName, rows *service.Rows) {
	_, tells := b.healths[k]
	b.noted = b.noted || tells || rows.Health != nil || len(rows.Problems) > 0 || len(b.troubled[k]) > 0
	delete(b.healths, k)
	if rows.Health != nil {
		b.healths[k] = *rows.Health
	}
	delete(b.troubled, k)
	if len(rows.Problems) > 0 {
		b.troubled[k] = rows.Problems
	}
}

// changes tells what is in only one of two lists, sorted by compare: of two objects
// that compare equal, first that the former is gone, then that the latter came.
func changes[T any](before, now []*T, compare func(a, b *T) int, gone, came func(*T)) {
	for i, j := 0, 0; i < len(before) || j < len(now); {
		var c int
		switch {
		case i == len(before):
			c = 1
		case j == len(now):
			c = -1
		case before[i] == now[j]:
			i++
			j++
			continue
		default:
			c = compare(before[i], now[j])
		}
		if c <= 0 {
			gone(before[i])
			i++
		}
		if c >= 0 {
			came(now[j])
			j++
		}
	}
}

func compareServices(a, b *source.Service) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareSlices(a, b *source.EndpointSlice) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
