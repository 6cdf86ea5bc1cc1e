package daemon

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// find is the Services and host ports that fit a query. Most of it works on the source's
// objects, which do not change: programming waits only for the page to be made.
func (s *services) find(q api.ServiceQuery) api.ServicePage {
	s.mu.Lock()
	all := s.book.services
	if !s.enabled {
		all = nil
	}
	ports := s.hostPorts()
	s.mu.Unlock()

	var page api.ServicePage
	look := looker{text: []byte(strings.ToLower(q.Text)), service: q.Type, ports: q.Type == "" || q.Type == hostPort}
	take := func(fits bool, show func() (api.Service, bool)) {
		if !fits {
			return
		}
		if page.Found++; page.Found <= q.Offset || len(page.Services) == q.Limit {
			return
		}
		if shown, ok := show(); ok {
			page.Services = append(page.Services, shown)
		}
	}
	for len(all) > 0 || len(ports) > 0 {
		if len(ports) == 0 || len(all) > 0 && compareNames(serviceName{all[0].Namespace, all[0].Name}, ports[0].name) <= 0 {
			svc := all[0]
			all = all[1:]
			k := serviceName{svc.Namespace, svc.Name}
			take(look.fits(svc) && (!q.Troubled || s.isTroubled(k)), func() (api.Service, bool) { return s.showNow(k) })
			continue
		}
		p := ports[0]
		ports = ports[1:]
		take(look.fitsPorts(p) && (!q.Troubled || len(p.shown.Problems) > 0), func() (api.Service, bool) { return p.shown, true })
	}
	return page
}

// hostPorts is a pod with host ports, as it is shown.
type hostPorts struct {
	name  serviceName
	addrs []netip.Addr
	shown api.Service
}

// hostPorts is all of them, by name. s.mu must be held.
func (s *services) hostPorts() []hostPorts {
	var out []hostPorts
	for _, p := range s.ports {
		if len(p.mappings) > 0 {
			out = append(out, hostPorts{p.serviceName(), p.Addrs, p.show()})
		}
	}
	slices.SortFunc(out, func(a, b hostPorts) int { return compareNames(a.name, b.name) })
	return out
}

// showNow is a Service without its backends, unless it has gone.
func (s *services) showNow(k serviceName) (api.Service, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.book.entries[k]
	if e == nil || e.svc == nil {
		return api.Service{}, false
	}
	return s.showService(k, e, false), true
}

// isTroubled says whether a Service has a problem, or is served without a ready backend.
func (s *services) isTroubled(k serviceName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.book.entries[k]
	if len(s.book.troubled[k]) > 0 || e == nil || !e.put {
		return len(s.book.troubled[k]) > 0
	}
	return !slices.ContainsFunc(e.slices, func(sl *source.EndpointSlice) bool {
		return slices.ContainsFunc(sl.Endpoints, func(end source.SliceEndpoint) bool { return end.Ready })
	})
}

// looker says what fits the text and the type of a query.
type looker struct {
	text    []byte // in lower case
	service string // type; empty: any
	ports   bool   // host ports may fit
	scratch []byte
}

func (l *looker) fits(s *source.Service) bool {
	if l.service != "" && l.service != s.Type {
		return false
	}
	return l.named(s.Namespace, s.Name) || slices.ContainsFunc(s.ClusterIPs, l.begins) ||
		slices.ContainsFunc(s.ExternalIPs, l.begins) ||
		slices.ContainsFunc(s.LoadBalancerIPs, func(a source.LoadBalancerIP) bool { return l.begins(a.IP) })
}

func (l *looker) fitsPorts(p hostPorts) bool {
	return l.ports && (l.named(p.name.namespace, p.name.name) || slices.ContainsFunc(p.addrs, l.begins))
}

func (l *looker) named(namespace, name string) bool {
	l.scratch = append(append(append(l.scratch[:0], namespace...), '/'), name...)
	return bytes.Contains(l.scratch, l.text)
}

func (l *looker) begins(a netip.Addr) bool {
	l.scratch = a.AppendTo(l.scratch[:0])
	return bytes.HasPrefix(l.scratch, l.text)
}

// flowCounts is the flows of backends, counted not too often: all flows of the node are
// looked at for it.
type flowCounts struct {
	count func() (map[bpf.Place]int, error)

	mu     sync.Mutex
	latest map[bpf.Place]int
	next   time.Time // not counted again before
}

// countsPart is at most which part of the time flows are counted: one in so many.
const countsPart = 20

func (f *flowCounts) get() (map[bpf.Place]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	began := time.Now()
	if began.Before(f.next) {
		return f.latest, nil
	}
	counts, err := f.count()
	if err != nil {
		return nil, err
	}
	f.latest, f.next = counts, time.Now().Add(countsPart*time.Since(began))
	return counts, nil
}

// FindServices returns some of the Services, with how many flows they began.
func (i *info) FindServices(q api.ServiceQuery) (api.ServicePage, error) {
	page := i.node.services.find(q)
	i.node.announcer.showAnnouncers(page.Services)
	return page, i.addBegun(page.Services)
}

// WatchedService returns one Service with its backends and flows.
func (i *info) WatchedService(name string) ([]api.Service, error) {
	list, err := i.node.services.show(name)
	if err != nil {
		return nil, err
	}
	i.node.announcer.showAnnouncers(list)
	return list, i.addFlows(list, i.flowCounts.get)
}

// addFlows adds the flows of each backend, as counted, and how many the Services began.
func (i *info) addFlows(list []api.Service, count func() (map[bpf.Place]int, error)) error {
	flows, err := count()
	if err != nil {
		return err
	}
	for _, s := range list {
		for j := range s.Backends {
			b := &s.Backends[j]
			at, err := netip.ParseAddrPort(b.Addr)
			if err != nil {
				return fmt.Errorf("backend of Service %s: %w", s.Name, err)
			}
			b.Flows = flows[bpf.Place{Addr: at.Addr(), Port: at.Port(), Protocol: protocolOf(b.Protocol)}]
		}
	}
	return i.addBegun(list)
}

// addBegun adds how many flows began at all places of each Service.
func (i *info) addBegun(list []api.Service) error {
	for j := range list {
		for _, at := range i.node.services.places(list[j].Fronts) {
			n, err := i.dp.Begun(at)
			if err != nil {
				return err
			}
			list[j].Begun += n
		}
	}
	return nil
}

// places is where the kernel has rows for these, each once.
func (s *services) places(fronts []api.ServiceFront) []bpf.Place {
	s.mu.Lock()
	nodePorts := s.node.NodePortAddrs
	s.mu.Unlock()
	var out []bpf.Place
	for _, f := range fronts {
		addrs := nodePorts
		if a, err := netip.ParseAddr(f.Addr); err == nil {
			addrs = []netip.Addr{a}
		}
		for _, a := range addrs {
			at := bpf.Place{Addr: a, Port: f.Port, Protocol: protocolOf(f.Protocol)}
			if !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out
}

// protocolOf is the protocol that has a name; 0: none of Services'.
func protocolOf(name string) bpf.Protocol {
	for _, p := range []bpf.Protocol{bpf.TCP, bpf.UDP, bpf.SCTP} {
		if p.String() == name {
			return p
		}
	}
	return 0
}
