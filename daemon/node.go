package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
	"github.com/weftnet/weft/overlay"
)

// node is this node: what is known, and what is made of it.
type node struct {
	cfg       Config
	log       *slog.Logger
	tables    *tables
	pools     *ipam.Manager
	source    stateSource
	problems  *problems
	services  *services
	allocator *allocator // of load balancers' addresses; nil: there are no pools
	policies  *policies
	announcer *announcer // nil: Services are not ours to serve
	returns   *returner  // likewise
	drops     *drops
	records   *bpf.Records // that drops are made of
	since     time.Time
	// programmed is how long changes of Services took from the source to the kernel.
	programmed prometheus.Histogram

	// offer is what ADD and the pods' repairs go by.
	offer atomic.Pointer[endpoint.Net]
	// remake asks for all pods to be looked at: the MTU or the gateways changed.
	remake chan struct{}
	// poke makes the loop pass: something was found out that it must take up.
	poke chan struct{}
	// backendsChanged asks for sockets to be ended whose backends are gone.
	backendsChanged chan struct{}
	liveFlows       atomic.Int64 // translated per packet, at the last look
	allowedFlows    atomic.Int64 // of isolated pods, at the last look
	firstTook       atomic.Int64 // the first synchronisation, ns
	lostNodes       atomic.Int64
	// gateways has those of the probes' server when they change.
	gateways chan []netip.Addr

	statuses *statuses

	// installed says whether the CNI binary and configuration are what they should be.
	installed atomic.Bool

	// called is when the last CNI call ended (Unix time, ns).
	called atomic.Int64

	mu      sync.Mutex   // guards what follows
	seen    source.State // what observe took up last
	cluster cluster
	around  surroundings
	chains  *chainsWant // what wantChains asked for last
	book    *book
	started bool // the first synchronisation is done and in force
	// recalled: until then, what a former daemon knew is in force.
	recalled bool
	written  []overlay.Node // what rememberNodes wrote last
	// hindrance is why no pods can be attached; nil: they can.
	hindrance  error
	unmeasured error    // why the links could not be asked last what they offer
	remeasure  bool     // they must be, for that or as the nodes are others
	offload    []string // devices whose checksum offload is off
}

func newNode(cfg Config, log *slog.Logger, t *tables, pools *ipam.Manager, src stateSource) *node {
	n := &node{
		cfg: cfg, log: log, tables: t, pools: pools, source: src, since: time.Now(),
		problems: newProblems(log), remake: make(chan struct{}, 1), poke: make(chan struct{}, 1), backendsChanged: make(chan struct{}, 1), gateways: make(chan []netip.Addr, 1),
	}
	n.services, n.drops = newServices(cfg, t, n.problems), newDrops()
	n.services.newPorts = n.poke
	n.allocator = newAllocator(cfg, src, n.problems, log)
	n.programmed = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "weft_service_program_seconds", Help: "Time from a change of Services in the source to its being in the kernel.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // 0.5 ms to 4 s
	})
	n.statuses = newStatuses()
	n.book = newBook(overlay.LookupPaths, func(name string, r peerRows) {
		t.peers.Put(ownerNode(name), r.peers)
		t.nodes.Put(ownerNode(name), r.nodes)
		t.routes.Put(ownerNode(name), r.routes)
	})
	n.around = surroundings{cfg: cfg, self: remembered(cfg.StateDir)}
	n.services.remembered(n.around.self)
	n.offload = t.turnedOff()
	n.offer.Store(&endpoint.Net{
		Gateways: overlay.GatewayAddrs(n.around.self.PodCIDRs),
		Ready:    errors.New("weftd is starting: it has not read its source yet"),
	})
	return n
}

// net is what the node currently offers to pods.
func (n *node) net() endpoint.Net { return *n.offer.Load() }

// known says whether the node knows who it is: from the source, now or formerly.
func (n *node) known() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.around.self.Name != ""
}

// observe takes up what the source says. It compiles nothing.
func (n *node) observe() {
	state := n.source.Snapshot()
	n.mu.Lock()
	n.seen = source.State{Nodes: state.Nodes, Complete: state.Complete}
	n.mu.Unlock()
	if !state.Complete {
		n.problems.sum(problemNotSynced, notSynced(n.cfg.Source, state.Problems))
		return
	}
	n.problems.set(problemNotSynced)
	nodes := overlayNodes(state.Nodes)
	n.mu.Lock()
	c, remeasure := n.cluster, false
	n.mu.Unlock()
	if !c.holds(state.Nodes) {
		c = survey(n.cfg.NodeName, nodes, n.holds)
		c.of = state.Nodes
		remeasure = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cluster, n.remeasure = c, n.remeasure || remeasure
	n.problems.err(problemRemember, n.rememberNodes(nodes))
	n.problems.set(problemConflict, few(8, c.clashes)...)
	what, err := usable(n.cfg.NodeName, c.self)
	for _, kind := range []string{problemNoNode, problemNoPodCIDR, problemNoAddress} {
		if kind == what {
			n.problems.err(kind, err)
		} else {
			n.problems.set(kind)
		}
	}
	if err != nil {
		n.hindrance = err
		return // who we were stays: the pods live on
	}
	if !sameNode(c.self, n.around.self) {
		n.problems.err(problemCorruptState, remember(n.cfg.StateDir, c.self))
	}
	n.around.self = c.self
}

// changeServices takes up what changed of Services in the source, at the time that is
// given, and makes the kernel serve it. It says whether more of the source changed, which
// is left to [node.pass].
func (n *node) changeServices(at time.Time) (more bool, err error) {
	n.allocator.wake()
	state := n.source.Snapshot()
	n.mu.Lock()
	self := n.around.self
	more = state.Complete != n.seen.Complete || !slices.Equal(state.Nodes, n.seen.Nodes)
	n.mu.Unlock()
	if !state.Complete && !n.begun() { // a former daemon may have known more
		return more, nil
	}
	n.follow()
	owners := n.services.update(state, self)
	if len(owners) == 0 {
		return more, nil
	}
	err = n.services.write(owners)
	offerLatest(n.backendsChanged, struct{}{})
	n.programmed.Observe(time.Since(at).Seconds())
	return more, err
}

// changePolicies takes up what changed of policies, pods and namespaces in the source, at
// the time that is given, and makes the kernel enforce it.
func (n *node) changePolicies(at time.Time) error {
	changed, err := n.policies.follow()
	if changed {
		n.policies.took.Observe(time.Since(at).Seconds())
	}
	return err
}

// updateServices says in the tables what the source wants of Services, unless a daemon
// that has just started does not know all of it yet.
func (n *node) updateServices() {
	state := n.source.Snapshot()
	n.mu.Lock()
	self := n.around.self
	n.mu.Unlock()
	if state.Complete || n.begun() {
		n.services.update(state, self)
	}
}

// overlayNodes is the source's nodes as the overlay knows them.
func overlayNodes(nodes []*source.Node) []overlay.Node {
	out := make([]overlay.Node, 0, len(nodes))
	for _, s := range nodes {
		out = append(out, overlay.Node{Name: s.Name, Addrs: s.InternalIPs, PodCIDRs: s.PodCIDRs})
	}
	return out
}

// holds says whether pods of this node have addresses in a prefix.
func (n *node) holds(p netip.Prefix) bool {
	return slices.ContainsFunc(n.pools.Leases(), func(l ipam.Lease) bool {
		return slices.ContainsFunc(l.Addrs, p.Contains)
	})
}

// compile says in all tables what this node needs, going by the source, the uplinks
// and the ways to the others; moved asks the kernel for the former anew, paths for the
// latter. The device is written at once, because the other rows name its index. What
// stands in the way of new pods is noted for publish.
func (n *node) compile(moved, paths bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.around
	s.cluster = n.cluster.prefixes
	if moved || n.remeasure {
		uplinks, mtu, err := n.measure(*s)
		if n.unmeasured, n.remeasure = err, err != nil; err == nil {
			s.uplinks, s.mtu = uplinks, mtu
		}
		n.problems.err(problemMTU, err)
	}

	t := n.tables
	t.device.Put(ownerSelf, selfDevice(*s))
	deviceErr := t.device.Write()
	s.device = overlay.LinkIndex(overlay.DeviceName)
	if deviceErr == nil && s.device == 0 && s.mtu != 0 {
		deviceErr = fmt.Errorf("device %s is not there", overlay.DeviceName)
	}
	wanted, sysctlErr := t.sysctls.Wanted(s.self.PodCIDRs, s.uplinks)
	if sysctlErr == nil {
		t.sysctl.Put(ownerSelf, wanted)
	}
	n.problems.err(problemDevice, errors.Join(deviceErr, sysctlErr))
	t.addrs.Put(ownerSelf, overlay.SelfAddrs(s.overlayConfig(), s.self))
	t.routes.Put(ownerSelf, overlay.SelfRoutes(s.self))
	t.rows.Put(ownerSelf, selfRows(*s))
	t.own.Put(ownerSelf, selfStands(*s))
	t.links.Put(ownerSelf, selfHooks(*s))
	t.offload.Put(ownerSelf, off(n.offload))

	if n.cluster.peers != nil { // nil: the source has not spoken
		n.book.update(s.overlayConfig(), s.self, n.cluster.peers)
	}
	if paths {
		n.book.refreshPaths()
	}
	var unreachable []string
	for _, e := range n.book.sorted() {
		if e.err != nil {
			unreachable = append(unreachable, e.err.Error())
		}
	}
	n.problems.sum(problemPeer, strings.Join(few(8, unreachable), "\n"))

	poolErr := n.pools.SetPools(s.self.PodCIDRs)
	n.problems.err(problemPool, poolErr)
	_, usableErr := usable(n.cfg.NodeName, n.cluster.self)
	n.hindrance = errors.Join(usableErr, n.cluster.lost, n.unmeasured, deviceErr, poolErr)
}

// measure asks the kernel for the uplinks and works out the pods' MTU.
func (n *node) measure(s surroundings) ([]overlay.Uplink, int, error) {
	uplinks, err := overlay.Uplinks(s.self.Addrs)
	if err != nil {
		return nil, 0, err
	}
	mtu, err := overlay.PodMTU(s.overlayConfig(), s.self, uplinks, outerFamilies(s.self, n.cluster.peers))
	return uplinks, mtu, err
}

// publish makes known what pods get, now that the kernel holds what they need for it.
func (n *node) publish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	ready := n.hindrance
	if ready == nil && !n.started && !n.recalled {
		ready = errStarting
	}
	was := n.net()
	now := endpoint.Net{Gateways: overlay.GatewayAddrs(n.around.self.PodCIDRs), MTU: n.around.mtu, Ready: ready}
	n.offer.Store(&now)
	if (was.Ready == nil) != (ready == nil) {
		n.log.Info("ready for pods", "ready", ready == nil, "err", ready, "mtu", now.MTU)
	}
	changed := !slices.Equal(was.Gateways, now.Gateways)
	if changed || was.MTU == 0 { // the latter: just started
		offerLatest(n.gateways, now.Gateways)
	}
	if (changed || was.MTU != now.MTU) && now.MTU != 0 {
		offerLatest(n.remake, struct{}{})
	}
}

// offerLatest puts v into a channel of size 1, in the place of what is there.
func offerLatest[T any](ch chan T, v T) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

// begin says that the first synchronisation is in force.
func (n *node) begin() {
	n.mu.Lock()
	n.started = true
	n.mu.Unlock()
}

// begun says whether the first synchronisation is in force.
func (n *node) begun() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.started
}

// off is the wanted rows of the table offload.
func off(links []string) map[string]bool {
	rows := map[string]bool{}
	for _, l := range links {
		rows[l] = false
	}
	return rows
}

// nodes is this node and its peers, as `weft nodes` shows them.
func (n *node) nodes() []api.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := map[int]string{}
	for _, u := range n.around.uplinks {
		names[u.Index] = u.Name
	}
	self := n.around.self
	out := make([]api.Node, 0, 1+len(n.book.entries))
	if self.Name != "" {
		me := api.Node{Name: self.Name, Self: true, PodCIDRs: self.PodCIDRs, MTU: n.around.mtu, Via: "this node", Reach: "ok"}
		if len(self.Addrs) > 0 {
			me.Addr = self.Addrs[0]
		}
		out = append(out, me)
	}
	for _, e := range n.book.sorted() {
		out = append(out, showNode(e.node, e.rows, e.err, names, e.reach))
	}
	return out
}

// peerCount is the number of other nodes known.
func (n *node) peerCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.book.entries)
}

// reaches is how they answer.
func (n *node) reaches() []api.Reach {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.book.reaches()
}

// allProblems is our problems and the source's; never nil.
func (n *node) allProblems() []api.Problem {
	all := append(n.problems.all(), n.source.Snapshot().Problems...)
	for _, c := range n.pools.Corrupt() {
		all = append(all, api.Problem{
			What: problemCorruptState, Since: n.since,
			Text: fmt.Sprintf("a lease file could not be read and is now %s: %s; look whose it was, then remove it", c.Path, c.Err),
		})
	}
	return all
}
