package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

const zoneLabel = "topology.kubernetes.io/zone"

// healthRetry is how often health check ports are tried again that could not be opened.
const healthRetry = 10 * time.Second

// services is the Services and host ports of this node: what is known, and what is made
// of it. It locks itself.
type services struct {
	name     string
	cfg      Config
	enabled  bool           // Services are ours to serve
	prefixes []netip.Prefix // of the addresses that serve node ports; none: all
	tables   *tables
	problems *problems
	answers  chan healthChecks // the latest, for serveHealth
	newPorts chan struct{}     // tells that masquerade is to take other ports
	newLost  chan struct{}     // tells that lost is another

	// having is the attachments that are in ports, so that others need not wait for mu.
	having sync.Map
	// lost is the nodes that are; likewise.
	lost atomic.Pointer[lostNodes]

	mu    sync.Mutex
	begun bool           // the source has spoken
	self  overlay.Node   // what node was made of, besides lost
	nodes []*source.Node // likewise
	moved bool           // prepare has met other addresses that serve node ports
	node  service.Node
	pods  []*source.Pod
	book  *serviceBook
	ports map[api.Ref]*podPorts
	// exposed is the ports that masquerade keeps away from.
	exposed *exposedPorts
	// What health checks were last told, and their addresses.
	told healthChecks
}

// lostNodes is the other nodes that are lost; cutOff: all are, which is rather this one.
type lostNodes struct {
	names  map[string]bool
	cutOff bool
}

// healthChecks is what the health checks of Services answer, by name, and where.
type healthChecks struct {
	addrs []netip.Addr
	want  map[string]service.Health
}

func newServices(cfg Config, t *tables, p *problems) *services {
	prefixes, _ := cfg.nodePortPrefixes() // validated
	s := &services{
		name: cfg.NodeName, cfg: cfg, enabled: cfg.Services, prefixes: prefixes, tables: t, problems: p,
		answers: make(chan healthChecks, 1), newPorts: make(chan struct{}, 1), newLost: make(chan struct{}, 1), exposed: newExposedPorts(), ports: map[api.Ref]*podPorts{},
	}
	s.book = newServiceBook(s.putServices, t.heldRows)
	return s
}

// of is this node as Services are compiled for it.
func (s *services) of() service.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// remembered takes up who the node was, for the host ports of pods that live on.
func (s *services) remembered(self overlay.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setNode(self, nil)
}

// setLost takes up which nodes are lost. The map is not to be changed any more. It does not wait
// for mu: who calls it has more to do, just when there is much to compile.
func (s *services) setLost(lost map[string]bool, cutOff bool) {
	s.lost.Store(&lostNodes{lost, cutOff})
	offerLatest(s.newLost, struct{}{})
}

// begin says that what is known of the pods is all that will be known for now.
func (s *services) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
}

// update takes up what the source says and says in the tables what changed thereby. It
// returns the owners of the rows that did. self is this node without prefixes that it
// lost.
func (s *services) update(state source.State, self overlay.Node) (owners []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun, s.pods = true, state.Pods
	moved := s.setNode(self, state.Nodes) || s.moved
	s.moved = false
	s.book.noted = s.book.noted || moved
	for _, k := range s.book.update(s.node, state.Services, s.slicesOf(state)) {
		owners = append(owners, ownerService(k))
	}
	for ref, p := range s.ports {
		if uid := s.uidOf(p); moved || uid != p.uid {
			s.compilePorts(ref, p, uid)
			s.book.noted = true
			owners = append(owners, ownerPorts(ref))
		}
	}
	s.expose(ownerFormer, nil) // it is known who has what
	if s.book.noted {
		s.report()
	}
	return owners
}

// prepare says in the tables what is known of Services while the source has not said all, so
// that less is left to do when it has. Nothing may be written before that: a set would lose
// backends that the kernel has.
func (s *services) prepare(state source.State) {
	i := slices.IndexFunc(state.Nodes, func(n *source.Node) bool { return n.Name == s.name })
	if i < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved = s.setNode(overlayNodes(state.Nodes[i : i+1])[0], state.Nodes) || s.moved
	s.book.prepare(s.node, state.Services, s.slicesOf(state))
}

// slicesOf is the endpoints that count: none if another program serves Services.
func (s *services) slicesOf(state source.State) source.List[source.EndpointSlice] {
	if !s.enabled {
		return source.List[source.EndpointSlice]{}
	}
	return state.Slices
}

// setNode makes s.node, and says whether addresses that serve node ports changed.
func (s *services) setNode(self overlay.Node, nodes []*source.Node) bool {
	var lost map[string]bool
	cutOff := false
	if now := s.lost.Load(); now != nil {
		lost, cutOff = now.names, now.cutOff
	}
	if sameNode(self, s.self) && slices.Equal(nodes, s.nodes) && same(lost, s.node.Lost) && cutOff == s.node.CutOff {
		return false
	}
	s.self, s.nodes = self, nodes
	was := s.node.NodePortAddrs
	n := service.Node{
		Name: s.name, Own: s.node.Own, Addrs: map[netip.Addr]struct{}{}, OverlayPort: s.cfg.Port,
		NodePortAddrs: nodePortAddrs(s.prefixes, self.Addrs), Pass: s.cfg.Forwarding == service.DSR,
		Classless: s.cfg.LoadBalancerDefault, Left: !s.enabled,
		Others: make(map[string][]netip.Addr, len(nodes)), Lost: lost, LostAddrs: map[netip.Addr]struct{}{}, CutOff: cutOff,
	}
	for _, a := range self.Addrs {
		n.Addrs[a.Unmap()] = struct{}{}
	}
	for _, other := range nodes {
		if other.Name == s.name {
			n.Zone = other.Labels[zoneLabel]
		} else {
			n.Others[other.Name] = nodePortAddrs(s.prefixes, other.InternalIPs)
		}
		for _, a := range other.InternalIPs {
			n.Addrs[a.Unmap()] = struct{}{}
			if lost[other.Name] {
				n.LostAddrs[a.Unmap()] = struct{}{}
			}
		}
	}
	s.node = n
	return !slices.Equal(was, n.NodePortAddrs)
}

// write makes the kernel hold the rows of these owners: what is referred to is written
// first and deleted last. It goes on past what fails.
func (s *services) write(owners []string) error {
	var errs []error
	for _, t := range s.tables.byOwner() {
		for _, o := range owners {
			errs = append(errs, t.WriteOwner(o))
		}
	}
	for _, t := range slices.Backward(s.tables.byOwner()) {
		for _, o := range owners {
			errs = append(errs, t.PruneOwner(o))
		}
	}
	return errors.Join(errs...)
}

// report makes problems known, and tells the health checks what changed.
func (s *services) report() {
	s.book.noted = false
	var texts []string
	for _, k := range slices.SortedFunc(maps.Keys(s.book.troubled), compareNames) {
		for _, p := range s.book.troubled[k] {
			texts = append(texts, fmt.Sprintf("service %s: %s", k, p))
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(s.ports), compareRefs) {
		for _, p := range s.ports[ref].problems {
			texts = append(texts, fmt.Sprintf("pod %s: %s", s.ports[ref].name(), p))
		}
	}
	s.problems.sum(problemService, strings.Join(few(8, texts), "\n"))

	now := healthChecks{addrs: s.node.NodePortAddrs, want: make(map[string]service.Health, len(s.book.healths))}
	for k, h := range s.book.healths {
		now.want[k.String()] = h
	}
	if slices.Equal(now.addrs, s.told.addrs) && maps.Equal(now.want, s.told.want) {
		return
	}
	s.told = now
	offerLatest(s.answers, now)
}

// count is the Services that are served, the backends in their sets, and what cannot be
// served as it wants.
func (s *services) count() (served, backends, troubled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	troubled = len(s.book.troubled)
	for _, p := range s.ports {
		if len(p.problems) > 0 {
			troubled++
		}
	}
	if s.enabled {
		served = s.book.served
	}
	return served, s.book.backends, troubled
}

// serveHealth answers the health checks of Services until ctx is done.
func (s *services) serveHealth(ctx context.Context) error {
	var server service.HealthServer
	defer server.Close()
	var now healthChecks
	retry := time.NewTimer(healthRetry)
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now = <-s.answers:
		case <-retry.C:
		}
		texts := server.Set(now.addrs, now.want)
		if retry.Stop(); len(texts) > 0 {
			retry.Reset(healthRetry)
		}
		s.problems.set(problemHealthCheck, few(8, texts)...)
	}
}

// byOwner is the tables of Services, as services.write uses them.
func (t *tables) byOwner() []ownedTable {
	return []ownedTable{t.alive, t.backends, t.maglev, t.ranges, t.sets, t.frontends}
}

// ownedTable is a [reconcile.Table] of whatever row type.
type ownedTable interface {
	WriteOwner(string) error
	PruneOwner(string) error
}
