package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Outer returns the addresses that self and peer know each other by: both ends
// come to the same result, or the check of the sender would fail at one of them.
// The family is that of self's first InternalIP if the peer has it, and so it is
// for the peer; where each would prefer another and both have both, the node
// whose name sorts first decides.
func Outer(self, peer Node) (local, remote netip.Addr, err error) {
	first, second := self, peer
	if peer.Name < self.Name {
		first, second = peer, self
	}
	for _, a := range slices.Concat(first.Addrs, second.Addrs) {
		local, ok := ofFamily(self.Addrs, a.Is4())
		if !ok {
			continue
		}
		if remote, ok := ofFamily(peer.Addrs, a.Is4()); ok {
			return local, remote, nil
		}
	}
	return netip.Addr{}, netip.Addr{}, fmt.Errorf("node %s %v, this node %v: %w",
		peer.Name, peer.Addrs, self.Addrs, ErrNoAddress)
}

// ofFamily returns the first address of a family.
func ofFamily(addrs []netip.Addr, is4 bool) (netip.Addr, bool) {
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() == is4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Remotes returns the addresses of peer whose paths Compile needs, the outer
// address first.
func Remotes(cfg Config, self, peer Node) ([]netip.Addr, error) {
	_, remote, err := Outer(self, peer)
	if err != nil {
		return nil, err
	}
	out := []netip.Addr{remote}
	if cfg.Mode == ModeDirect || cfg.Mode == ModeAuto {
		if other, ok := ofFamily(peer.Addrs, !remote.Is4()); ok {
			if _, ok := ofFamily(self.Addrs, other.Is4()); ok {
				out = append(out, other)
			}
		}
	}
	return out, nil
}

// Compile returns what this node needs for one peer: a row for each of its pod
// prefixes whose family we have pods of, and the kernel's routes. It is pure;
// paths has the ways to the addresses that [Remotes] names.
//
// Encapsulated, the route is `PREFIX via PEER dev weft-vxlan onlink src OURS mtu
// N`. With a next hop the kernel keeps one neighbour per node and not one per
// pod: the device is NOARP, so the kernel makes that neighbour itself, resolved,
// without asking anybody (net/ipv4/arp.c arp_constructor, net/ipv6/ndisc.c
// ndisc_constructor), and the program at the device's egress puts the right MACs
// in place. PEER is the peer's gateway address; for IPv6 the link-local address
// of its device, because IPv6 takes a global next hop only if no other route
// leads there (net/ipv6/route.c ip6_route_check_nh_onlink). Directly routed it is
// `PREFIX via NEXTHOP dev UPLINK onlink src OURS mtu N`.
//
// One bad prefix does not spoil the others: rows are valid beside an error. A way
// that is too narrow gives an error ([ErrMTU]) and rows with the smallest MTU of
// the family: a forged "too big" must not cut a node off.
func Compile(cfg Config, self, peer Node, paths map[netip.Addr]Path) ([]Peer, map[RouteKey]Route, error) {
	local, remote, err := Outer(self, peer)
	if err != nil {
		return nil, nil, err
	}
	var (
		peers  []Peer
		routes = map[RouteKey]Route{}
		errs   []error
	)
	for _, prefix := range peer.PodCIDRs {
		prefix = prefix.Masked()
		src, ok := gatewayOf(self.PodCIDRs, prefix.Addr().Is4())
		if !ok {
			continue // no pods of this family here: nobody to talk to it
		}
		if err := checkPrefix(self, peer, prefix); err != nil {
			errs = append(errs, err)
			continue
		}
		p := Peer{Name: peer.Name, Prefix: prefix, Local: local, Remote: remote}
		if err := p.choose(cfg, self, peer, paths); err != nil {
			errs = append(errs, fmt.Errorf("node %s %s: %w", peer.Name, prefix, err))
			continue
		}
		if cfg.MTU > 0 {
			p.MTU = min(p.MTU, cfg.MTU)
		}
		if err := checkMTU(p.MTU, prefix.Addr().Is6()); err != nil {
			errs = append(errs, fmt.Errorf("node %s %s: %w", peer.Name, prefix, err))
			p.MTU = minMTU(prefix.Addr().Is6()) // small packets still get through
		}
		peers = append(peers, p)
		route := Route{LinkIndex: cfg.Device, Gateway: gateway(prefix), OnLink: true, Src: src, MTU: p.MTU}
		switch {
		case p.Direct:
			route.LinkIndex, route.Gateway = p.LinkIndex, p.NextHop
		case prefix.Addr().Is6():
			route.Gateway = linkLocal(p.MAC)
		}
		if route.LinkIndex != 0 {
			routes[RouteKey{Dst: prefix}] = route
		}
	}
	return peers, routes, errors.Join(errs...)
}

// choose fills in the way to p.Prefix.
func (p *Peer) choose(cfg Config, self, peer Node, paths map[netip.Addr]Path) error {
	if cfg.Mode == ModeDirect || cfg.Mode == ModeAuto {
		local, remote, ok := directEnds(self, peer, p.Prefix.Addr().Is4())
		path, known := paths[remote]
		switch {
		case ok && known && (path.OnLink || cfg.Mode == ModeDirect):
			p.Local, p.Remote, p.Direct = local, remote, true
			p.NextHop, p.LinkIndex, p.MTU = path.NextHop, path.LinkIndex, path.MTU
			return nil
		case cfg.Mode == ModeDirect && !ok:
			return fmt.Errorf("mode direct: %w", ErrNoAddress)
		case cfg.Mode == ModeDirect:
			return fmt.Errorf("no path to %s", remote)
		}
	}
	path, ok := paths[p.Remote]
	if !ok {
		return fmt.Errorf("no path to %s", p.Remote)
	}
	p.MAC = NodeMAC(p.Remote)
	p.NextHop, p.LinkIndex, p.MTU = path.NextHop, path.LinkIndex, path.MTU-Overhead(p.Remote)
	return nil
}

// directEnds returns the addresses for plain routing of a family: the nodes'
// addresses of that family, or for IPv4 also IPv6 ones (a route may have an IPv6
// next hop for IPv4, RFC 5549, and not the other way round).
func directEnds(self, peer Node, is4 bool) (local, remote netip.Addr, ok bool) {
	families := []bool{is4}
	if is4 {
		families = append(families, false)
	}
	for _, f := range families {
		local, okLocal := ofFamily(self.Addrs, f)
		remote, okRemote := ofFamily(peer.Addrs, f)
		if okLocal && okRemote {
			return local, remote, true
		}
	}
	return netip.Addr{}, netip.Addr{}, false
}

// checkPrefix refuses prefixes that cannot be a node's.
func checkPrefix(self, peer Node, prefix netip.Prefix) error {
	for _, own := range self.PodCIDRs {
		if own.Overlaps(prefix) {
			return fmt.Errorf("node %s %s, ours %s: %w", peer.Name, prefix, own, ErrOverlap)
		}
	}
	if !gateway(prefix).IsValid() {
		return fmt.Errorf("node %s: pod prefix %s has no room for pods", peer.Name, prefix)
	}
	for _, a := range slices.Concat(self.Addrs, peer.Addrs) {
		if prefix.Contains(a.Unmap()) {
			return fmt.Errorf("node %s: pod prefix %s contains the node address %s", peer.Name, prefix, a)
		}
	}
	return nil
}

// SelfRoutes returns the routes of the node's own pod prefixes: packets for pods
// that do not exist end here, with ICMP, and do not leave by the default route.
func SelfRoutes(self Node) map[RouteKey]Route {
	routes := map[RouteKey]Route{}
	for _, p := range self.PodCIDRs {
		routes[RouteKey{Dst: p.Masked(), Metric: MetricUnreachable}] = Route{Unreachable: true}
	}
	return routes
}

// SelfAddrs returns the addresses of the device: the gateways, as /32 and /128.
// There are none while the device does not exist.
func SelfAddrs(cfg Config, self Node) map[AddrKey]struct{} {
	rows := map[AddrKey]struct{}{}
	if cfg.Device == 0 {
		return rows
	}
	for _, a := range GatewayAddrs(self.PodCIDRs) {
		rows[AddrKey{LinkIndex: cfg.Device, Prefix: netip.PrefixFrom(a, a.BitLen())}] = struct{}{}
	}
	return rows
}
