package loadbalancer

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/daemon/source"
)

// World is what the allocation goes by.
type World struct {
	Pools     []Pool
	Classless bool              // Services without a class are ours, too
	Services  []*source.Service // by namespace and name
	Reserved  []netip.Prefix    // addresses in them are never given
}

// Reserved is the prefixes of which no Service may have an address: those of pods, and the
// addresses of nodes.
func Reserved(nodes []*source.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range nodes {
		out = append(out, n.PodCIDRs...)
		for _, a := range n.InternalIPs {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
	}
	return out
}

// Allocate returns the Services whose status must be another than it is, by namespace and
// name.
//
// What a Service has it keeps if a pool still admits it there; of two that have one address
// and may not share it, the first by name. Then requests are granted, of addresses that no
// other has, and the others get what is free. An address that a Service gives up is free
// only when its status says so: decisions may be written in any order.
func Allocate(w World) []source.Grant {
	a := newAllocation(w)
	for _, s := range w.Services {
		if Ours(s, w.Classless) {
			a.keep(s)
		}
	}
	for _, s := range w.Services {
		if s.Balancer != nil {
			a.block(s)
		}
	}
	for _, s := range w.Services {
		if Ours(s, w.Classless) {
			a.request(s)
		}
	}
	var grants []source.Grant
	for _, s := range w.Services {
		var g source.Grant
		switch {
		case Ours(s, w.Classless):
			g = a.grant(s)
		case s.Balancer != nil && s.Balancer.Condition.Reason != "":
			g = a.leave(s)
		default:
			continue
		}
		if g.Condition != s.Balancer.Condition || !holds(s, g.IPs) {
			grants = append(grants, g)
		}
	}
	return grants
}

// holds says whether a Service's status has exactly these addresses, as we write them.
func holds(s *source.Service, ips []netip.Addr) bool {
	return slices.EqualFunc(s.LoadBalancerIPs, ips, func(l source.LoadBalancerIP, ip netip.Addr) bool {
		return l.IP == ip && !l.Proxy
	})
}

// allocation is one call of Allocate.
type allocation struct {
	pools    []Pool
	reserved []netip.Prefix // those that have addresses of pools
	spaces   []*space       // in the order of the pools
	holders  map[netip.Addr][]*source.Service
	blocked  map[netip.Addr]bool // somebody's who shall not have them any more
	sharing  map[shareKey][]netip.Addr
	kept     map[*source.Service][]netip.Addr
	answers  map[*source.Service]answer // of those that ask for addresses
}

// shareKey is what Services have in common that may share addresses.
type shareKey struct{ namespace, value string }

func newAllocation(w World) *allocation {
	a := &allocation{
		pools: w.Pools, holders: map[netip.Addr][]*source.Service{}, blocked: map[netip.Addr]bool{},
		sharing: map[shareKey][]netip.Addr{}, kept: map[*source.Service][]netip.Addr{}, answers: map[*source.Service]answer{},
	}
	for _, p := range w.Reserved {
		if slices.ContainsFunc(w.Pools, func(pool Pool) bool { return overlap(pool, rangeOf(p.Masked())) != nil }) {
			a.reserved = append(a.reserved, p)
		}
	}
	for i := range a.pools {
		for _, ipv6 := range []bool{false, true} {
			if s := newSpace(&a.pools[i], ipv6, a.reserved); len(s.ranges) > 0 {
				a.spaces = append(a.spaces, s)
			}
		}
	}
	return a
}

// poolOf is the pool that has an address; nil: none, or it may not be given.
func (a *allocation) poolOf(ip netip.Addr) *Pool {
	if a.isReserved(ip) {
		return nil
	}
	for i := range a.pools {
		if a.pools[i].Contains(ip) {
			return &a.pools[i]
		}
	}
	return nil
}

func (a *allocation) isReserved(ip netip.Addr) bool {
	return slices.ContainsFunc(a.reserved, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// keep lets a Service have what its status says, as far as it may.
func (a *allocation) keep(s *source.Service) {
	asked, _ := requests(s)
	for _, l := range s.LoadBalancerIPs {
		p := a.poolOf(l.IP)
		if p == nil || !p.admits(s) || p.Manual && !slices.Contains(asked, l.IP) || !has(s.Balancer, l.IP) || a.hindrance(s, l.IP) != "" {
			continue
		}
		if slices.ContainsFunc(a.kept[s], func(ip netip.Addr) bool { return ip.Is6() == l.IP.Is6() }) {
			continue // one of a family is enough
		}
		a.kept[s] = append(a.kept[s], l.IP)
		a.give(s, l.IP)
	}
}

// block keeps from others what a Service's status has and is not to have any more.
func (a *allocation) block(s *source.Service) {
	for _, l := range s.LoadBalancerIPs {
		if len(a.holders[l.IP]) == 0 && !a.blocked[l.IP] && a.poolOf(l.IP) != nil {
			a.blocked[l.IP] = true
			a.count(l.IP)
		}
	}
}

// give lets a Service have an address.
func (a *allocation) give(s *source.Service, ip netip.Addr) {
	if len(a.holders[ip]) == 0 && !a.blocked[ip] {
		a.count(ip)
	}
	a.holders[ip] = append(a.holders[ip], s)
	if k, ok := keyOf(s); ok && !slices.Contains(a.sharing[k], ip) {
		a.sharing[k] = append(a.sharing[k], ip)
	}
}

// drop takes back what was given in this call.
func (a *allocation) drop(s *source.Service, ip netip.Addr) {
	a.holders[ip] = slices.DeleteFunc(a.holders[ip], func(x *source.Service) bool { return x == s })
	if len(a.holders[ip]) > 0 {
		return
	}
	delete(a.holders, ip)
	for _, sp := range a.spaces {
		if sp.spans(ip) {
			sp.used--
		}
	}
	if k, ok := keyOf(s); ok {
		a.sharing[k] = slices.DeleteFunc(a.sharing[k], func(x netip.Addr) bool { return x == ip })
	}
}

func (a *allocation) count(ip netip.Addr) {
	for _, sp := range a.spaces {
		if sp.spans(ip) {
			sp.used++
		}
	}
}

// free finds an address of a family for a Service: one that it may share, else one that
// nobody has. Invalid, if there is none.
func (a *allocation) free(s *source.Service, ipv6 bool) netip.Addr {
	if k, ok := keyOf(s); ok {
		for _, ip := range a.sharing[k] {
			if p := a.poolOf(ip); ip.Is6() == ipv6 && p != nil && p.admits(s) && !p.Manual && !a.blocked[ip] && a.hindrance(s, ip) == "" {
				return ip
			}
		}
	}
	for _, sp := range a.spaces {
		if sp.ipv6 != ipv6 || sp.pool.Manual || !sp.pool.admits(s) || sp.used >= sp.size {
			continue
		}
		for i, first := uint64(0), sp.first(s); i < sp.size; i++ {
			if ip := sp.at((first + i) % sp.size); len(a.holders[ip]) == 0 && !a.blocked[ip] {
				return ip
			}
		}
	}
	return netip.Addr{}
}

// leave decides about a Service that is not ours any more: what it has of our pools is taken
// from it. One that is no LoadBalancer any more has nothing.
func (a *allocation) leave(s *source.Service) source.Grant {
	g := source.Grant{Service: s}
	for _, l := range s.LoadBalancerIPs {
		if !slices.ContainsFunc(a.pools, func(p Pool) bool { return p.Contains(l.IP) }) {
			g.IPs = append(g.IPs, l.IP)
		}
	}
	return g
}
