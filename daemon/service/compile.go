// Package service turns a Service and its EndpointSlices, or a pod's host ports, into
// rows of the kernel's tables (docs/services.md), and answers a Service's health check.
//
// What is served where, and by whom, is as the API of Kubernetes says; where it says
// nothing, as kube-proxy 1.33 and later do it.
package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/loadbalancer"
	"github.com/weftnet/weft/daemon/source"
)

// maxBackends is how many backends a set can have: slots in a Maglev row have 16 bits.
const maxBackends = 65535

// Node is what rows depend on besides the objects. Its maps are not changed, but replaced.
type Node struct {
	Name, Zone string
	// NodePortAddrs are this node's addresses that serve node ports, unmapped.
	NodePortAddrs []netip.Addr
	// Others are the addresses that serve node ports on the other nodes, by their names;
	// it may be nil.
	Others map[string][]netip.Addr
	// Own are all addresses of this node's devices, unmapped; it may be nil. Only there,
	// and at NodePortAddrs, is a host port with a hostIP served.
	Own map[netip.Addr]struct{}
	// Classless: Services of type LoadBalancer without a class are Weft's, too (setting
	// load-balancer-default).
	Classless bool
	// Pass: Services that say nothing of it are forwarded by [DSR].
	Pass bool
	// Left: another program serves Services, and the kernel only knows where (see [Compile]).
	Left bool
	// Addrs are those of all nodes of the cluster, this one and others; it may be nil.
	// If a Service has one of them as load balancer's address, its other ports belong to
	// that node and are not rejected.
	Addrs map[netip.Addr]struct{}
	// OverlayPort is the UDP port of the overlay on each of these. No Service leads there:
	// what a node sends in its clients' stead would be taken for its own.
	OverlayPort uint16
	// Lost are the other nodes that do not answer any more, and LostAddrs their addresses;
	// both may be nil. Their endpoints get nothing new as long as there are others.
	Lost      map[string]bool
	LostAddrs map[netip.Addr]struct{}
	// CutOff: all other nodes are lost, which is rather this one. Then they are for what is
	// inside only: who comes from outside has found a way, and when there is one to the other
	// nodes, too, connections that come back here must go on to the same backends.
	CutOff bool
}

// IsLost says whether an endpoint is on a node that is lost.
func (n *Node) IsLost(e *source.SliceEndpoint) bool {
	if len(n.Lost) == 0 {
		return false
	}
	_, at := n.LostAddrs[e.IP]
	return at || n.Lost[e.Node]
}

// Rows are what one owner wants of the kernel's tables ([bpf.Services]). Maps without
// rows may be nil.
type Rows struct {
	Alive     map[bpf.Place]uint32
	Backends  map[bpf.Slot]bpf.Backend
	Maglev    map[bpf.Block]bpf.MaglevRow
	Ranges    map[bpf.Range]struct{}
	Sets      map[bpf.SetID]bpf.Set
	Frontends map[bpf.Place]bpf.Frontend
	Health    *Health  // nil: the Service wants no health check of its own
	Problems  []string // what cannot be served, and why
}

func newRows(frontends, sets, endpoints int) Rows {
	return Rows{
		Alive:     make(map[bpf.Place]uint32, endpoints),
		Backends:  make(map[bpf.Slot]bpf.Backend, endpoints),
		Sets:      make(map[bpf.SetID]bpf.Set, sets),
		Frontends: make(map[bpf.Place]bpf.Frontend, frontends),
	}
}

func (r *Rows) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// front adds a place, unless the same owner has it: what comes first stays.
func (r *Rows) front(at bpf.Place, f bpf.Frontend) {
	if _, ok := r.Frontends[at]; !ok {
		r.Frontends[at] = f
	}
}

type compiler struct {
	Rows
	node   Node
	svc    *source.Service
	slices []*source.EndpointSlice
	pass   bool       // what comes from outside goes by [DSR]
	barred bool       // an endpoint is a node's overlay
	ends   []endpoint // of the port at hand
	chosen []endpoint // of the set at hand
	whole  []endpoint // that would be, but for those on lost nodes; nil: the same, or not all of it
}

// external is an address that is the Service's own, besides its ClusterIPs.
type external struct {
	addr   netip.Addr
	ranges bpf.SetID
	ours   bool // Weft gives and announces it
}

// Compile makes the rows of one Service. All slices must be its own; their order, and
// that of what is in them, makes no difference. Of a Service that is left to another program
// these are the ports of its ClusterIPs, without backends: what pods send there is judged
// where its backend is known. Elsewhere that program hides who sends.
func Compile(node Node, svc *source.Service, ss []*source.EndpointSlice) Rows {
	if svc.Headless || svc.Type == "ExternalName" || svc.ProxyName != "" {
		return Rows{}
	}
	if node.Left {
		return left(svc)
	}
	ends := 0
	for _, s := range ss {
		ends += len(s.Endpoints) * len(s.Ports)
	}
	c := compiler{Rows: newRows(2*len(svc.Ports)+1, 2*len(svc.Ports), ends), node: node, svc: svc, slices: ss}
	pass, problem := Passes(node, svc)
	if c.pass = pass; problem != "" {
		c.Problems = append(c.Problems, problem)
	}
	for _, ip := range svc.ClusterIPs {
		c.family(ip)
	}
	c.otherFamilies()
	c.health()
	if c.barred {
		c.problem("port %d/UDP of a node is the overlay's; such endpoints are not used", node.OverlayPort)
	}
	return c.Rows
}

func left(svc *source.Service) Rows {
	r := Rows{Frontends: make(map[bpf.Place]bpf.Frontend, len(svc.ClusterIPs)*len(svc.Ports))}
	for _, ip := range svc.ClusterIPs {
		for _, p := range svc.Ports {
			r.front(bpf.Place{Addr: ip, Port: p.Port, Protocol: bpf.Protocol(p.Protocol)}, bpf.Frontend{})
		}
	}
	return r
}

// family makes the rows of the family of a ClusterIP.
func (c *compiler) family(ip netip.Addr) {
	outer := c.externals(ip.Is6())
	nodes := ofFamily(c.node.NodePortAddrs, ip.Is6())
	for _, p := range c.svc.Ports {
		c.port(ip, outer, nodes, p)
		if p.NodePort != 0 && len(nodes) == 0 {
			c.problem("%s: the node has no %s address for its nodePort %d", portText(p), familyText(ip.Is6()), p.NodePort)
		}
	}
	c.address(ip)
	for _, o := range outer {
		if o.ours { // any other may be somebody's that has ports of its own
			c.address(o.addr)
		}
	}
}

// port makes the rows of one port in one family.
func (c *compiler) port(ip netip.Addr, outer []external, nodes []netip.Addr, p source.ServicePort) {
	c.collect(p, ip.Is6())
	if p.Protocol != source.UDP { // a flow may stay with an endpoint that gets no new ones
		for _, e := range c.ends {
			c.Alive[e.place(p.Protocol)] = e.generation
		}
	}
	onNodes := p.NodePort != 0 && len(nodes) > 0
	exposed := len(outer) > 0 || onNodes
	var cluster, local, ownPort bpf.SetID
	if exposed || !c.svc.InternalLocal {
		c.chooseCluster()
		cluster = c.set(p, ip.Is6(), "cluster", 0, exposed && !c.svc.ExternalLocal)
	}
	outside := cluster
	if exposed && !c.svc.ExternalLocal && c.node.CutOff {
		c.chooseOf(func(endpoint) bool { return true })
		outside = c.set(p, ip.Is6(), "cut off", 0, true)
	}
	if onNodes {
		ownPort = c.ownPort(p, ip.Is6())
	}
	if c.svc.InternalLocal || (exposed && c.svc.ExternalLocal) {
		flags := c.chooseLocal()
		local = c.set(p, ip.Is6(), "local", flags, exposed && c.svc.ExternalLocal)
	}

	f := bpf.Frontend{Inside: cluster, Affinity: seconds(c.svc.Affinity)}
	if c.svc.InternalLocal {
		f.Inside = local
	}
	proto := bpf.Protocol(p.Protocol)
	c.front(bpf.Place{Addr: ip, Port: p.Port, Protocol: proto}, f)
	// From inside an outer address is a detour that is not taken, so that its policy
	// does not count there.
	f.Inside, f.Outside = cluster, outside
	if c.svc.ExternalLocal {
		f.Outside = local
	}
	if c.pass {
		f.Flags = bpf.FrontendPass
	}
	for _, o := range outer {
		f.Ranges = o.ranges
		c.front(bpf.Place{Addr: o.addr, Port: p.Port, Protocol: proto}, f)
	}
	f.Ranges, f.Host = 0, ownPort
	if onNodes {
		for _, a := range nodes {
			c.front(bpf.Place{Addr: a, Port: p.NodePort, Protocol: proto}, f)
		}
	}
}

// externals are the outer addresses of a family; those with ranges first, as theirs is
// the stricter claim if an address is there twice.
func (c *compiler) externals(ipv6 bool) []external {
	var out []external
	var ranges bpf.SetID
	for _, lb := range c.svc.LoadBalancerIPs {
		if c.svc.Type != "LoadBalancer" || lb.Proxy || lb.IP.Is6() != ipv6 {
			continue
		}
		if len(c.svc.SourceRanges) > 0 && ranges == 0 {
			ranges = c.ranges(ipv6)
		}
		if ranges != 0 && c.nodeInRanges(ipv6) {
			// The address may be one of the node's, which then is its source, too.
			c.Ranges[bpf.Range{Ranges: ranges, Prefix: netip.PrefixFrom(lb.IP, lb.IP.BitLen())}] = struct{}{}
		}
		out = append(out, external{lb.IP, ranges, loadbalancer.Ours(c.svc, c.node.Classless)})
	}
	for _, ip := range c.svc.ExternalIPs {
		if ip.Is6() == ipv6 {
			out = append(out, external{addr: ip})
		}
	}
	return out
}

// ranges makes the rows of loadBalancerSourceRanges. Ranges that are all of the other
// family let nobody of this one in.
func (c *compiler) ranges(ipv6 bool) bpf.SetID {
	id := hashID("ranges", c.svc.Namespace, c.svc.Name, familyText(ipv6))
	if c.Ranges == nil {
		c.Ranges = make(map[bpf.Range]struct{}, len(c.svc.SourceRanges))
	}
	for _, p := range c.svc.SourceRanges {
		if p.Addr().Is6() == ipv6 {
			c.Ranges[bpf.Range{Ranges: id, Prefix: p.Masked()}] = struct{}{}
		}
	}
	return id
}

func (c *compiler) nodeInRanges(ipv6 bool) bool {
	return slices.ContainsFunc(c.svc.SourceRanges, func(p netip.Prefix) bool {
		return p.Addr().Is6() == ipv6 && slices.ContainsFunc(c.node.NodePortAddrs, p.Contains)
	})
}

// address makes the row that rejects the other ports of an address, unless a node has it.
func (c *compiler) address(ip netip.Addr) {
	if _, nodes := c.node.Addrs[ip]; !nodes && !slices.Contains(c.node.NodePortAddrs, ip) {
		c.front(bpf.Place{Addr: ip}, bpf.Frontend{})
	}
}

// otherFamilies tells of addresses whose family the Service does not have.
func (c *compiler) otherFamilies() {
	has := func(ip netip.Addr) bool {
		return slices.ContainsFunc(c.svc.ClusterIPs, func(own netip.Addr) bool { return own.Is6() == ip.Is6() })
	}
	for _, ip := range c.svc.ExternalIPs {
		if !has(ip) {
			c.problem("external address %s: the Service has no %s ClusterIP", ip, familyText(ip.Is6()))
		}
	}
	for _, lb := range c.svc.LoadBalancerIPs {
		if !lb.Proxy && !has(lb.IP) {
			c.problem("load balancer's address %s: the Service has no %s ClusterIP", lb.IP, familyText(lb.IP.Is6()))
		}
	}
}

// set makes a set of the chosen endpoints.
func (c *compiler) set(p source.ServicePort, ipv6 bool, policy string, flags uint32, outside bool) bpf.SetID {
	id := hashID(policy, c.svc.Namespace, c.svc.Name, p.Name, protocolText(p.Protocol), familyText(ipv6))
	if len(c.chosen) > maxBackends {
		c.problem("%s: %d endpoints; only %d are used", portText(p), len(c.chosen), maxBackends)
		c.chosen = c.chosen[:maxBackends]
	}
	set := bpf.Set{Count: uint32(len(c.chosen)), Flags: flags}
	for i, e := range c.chosen {
		c.Backends[bpf.Slot{Set: id, Slot: uint32(i)}] = bpf.Backend{Addr: e.at.Addr(), Port: e.at.Port(), Generation: e.generation}
		if p.Protocol == source.UDP {
			c.Alive[e.place(p.Protocol)] = e.generation
		}
	}
	if outside && len(c.chosen) > 1 {
		set.Maglev = c.maglev(id)
	}
	c.Sets[id] = set
	return id
}

// maglev writes the Maglev table of the chosen endpoints and returns its size.
func (c *compiler) maglev(id bpf.SetID) uint32 {
	table := c.table()
	if c.Maglev == nil {
		c.Maglev = make(map[bpf.Block]bpf.MaglevRow, len(table)/bpf.MaglevBlock+1)
	}
	n := uint32(0)
	for block := range slices.Chunk(table, bpf.MaglevBlock) {
		var row bpf.MaglevRow
		copy(row[:], block)
		c.Maglev[bpf.Block{Set: id, Block: n}] = row
		n++
	}
	return uint32(len(table))
}

// health counts what the health check of a Service tells: addresses of this node that
// are ready for it. With two families, of the one that has more.
func (c *compiler) health() {
	if c.svc.Type != "LoadBalancer" || !c.svc.ExternalLocal || c.svc.HealthCheckNodePort == 0 {
		return
	}
	c.Health = &Health{Namespace: c.svc.Namespace, Name: c.svc.Name, Port: c.svc.HealthCheckNodePort}
	for _, own := range c.svc.ClusterIPs {
		seen := map[netip.Addr]struct{}{}
		for _, s := range c.slices {
			if s.IPv6 != own.Is6() || len(s.Ports) == 0 {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Ready && c.local(&e) {
					seen[e.IP] = struct{}{}
				}
			}
		}
		c.Health.Local = max(c.Health.Local, len(seen))
	}
}

func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

func ofFamily(in []netip.Addr, ipv6 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		if a.Is6() == ipv6 {
			out = append(out, a)
		}
	}
	return out
}

func familyText(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

func protocolText(p source.Protocol) string { return bpf.Protocol(p).String() }

func portText(p source.ServicePort) string {
	return fmt.Sprintf("port %s", cmp.Or(p.Name, fmt.Sprintf("%d/%s", p.Port, protocolText(p.Protocol))))
}
