package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/daemon/source"
)

// Usage is how many addresses of a pool and family there are.
type Usage struct {
	Pool   string
	Family string // IPv4 or IPv6
	Used   int    // that Services have by their status
	Free   float64
}

// Use is the usage of all pools, and how many Services do not have what they want.
func Use(w World) (list []Usage, refused int) {
	a := newAllocation(w)
	for _, s := range a.spaces {
		u := Usage{Pool: s.pool.Name, Family: family(s.ipv6)}
		for _, r := range s.ranges {
			u.Free += exact(r)
		}
		list = append(list, u)
	}
	seen := map[netip.Addr]bool{}
	for _, s := range w.Services {
		if !Ours(s, w.Classless) {
			continue
		}
		if c := s.Balancer.Condition; c.Reason != "" && !c.True {
			refused++
		}
		for _, l := range s.LoadBalancerIPs {
			i := slices.IndexFunc(a.spaces, func(sp *space) bool {
				return slices.ContainsFunc(sp.ranges, func(r Range) bool { return r.Contains(l.IP) })
			})
			if i >= 0 && !seen[l.IP] {
				seen[l.IP] = true
				list[i].Used++
				list[i].Free--
			}
		}
	}
	return list, refused
}

// exact is how many addresses a range has, as exactly as a float64 does.
func exact(r Range) float64 {
	n := 1.0
	x, y := r.First.As16(), r.Last.As16()
	scale := 1.0
	for i := 15; i >= 0; i-- {
		n += scale * (float64(y[i]) - float64(x[i]))
		scale *= 256
	}
	return n
}

// Problems says what stands in the way of Services' addresses: which Services that are ours
// do not have those that they want, and which pools have addresses of pods.
func Problems(w World, nodes []*source.Node) []string {
	var out []string
	for _, p := range w.Pools {
		for _, n := range nodes {
			for _, c := range n.PodCIDRs {
				if overlap(p, rangeOf(c)) != nil {
					out = append(out, fmt.Sprintf("pool %s has addresses of the pod prefix %s of node %s, which are not given: take them out of load-balancer-pools", p.Name, c, n.Name))
				}
			}
		}
	}
	for _, s := range w.Services {
		if !Ours(s, w.Classless) || s.Balancer.Condition.Reason == "" { // nobody has decided yet
			continue
		}
		if why := Why(s); why != "" {
			out = append(out, fmt.Sprintf("service %s/%s: %s", s.Namespace, s.Name, why))
		}
	}
	return out
}

// Applied is a Service whose status is what was decided.
func Applied(g source.Grant) *source.Service {
	s, b := *g.Service, *g.Service.Balancer
	s.LoadBalancerIPs, b.Condition, s.Balancer = nil, g.Condition, &b
	for _, ip := range g.IPs {
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, source.LoadBalancerIP{IP: ip})
	}
	if s.Type != "LoadBalancer" {
		s.LoadBalancerIPs = nil
		if g.Condition.Reason == "" {
			s.Balancer = nil
		}
	}
	return &s
}

// Is says whether a Service's status is what was decided.
func Is(s *source.Service, g source.Grant) bool {
	var c source.Condition
	if s.Balancer != nil {
		c = s.Balancer.Condition
	}
	return c == g.Condition && (holds(s, g.IPs) || s.Type != "LoadBalancer")
}

// Why says why a Service that is ours has no address, or not those that it wants, by what
// its status says; "" if it has them.
func Why(s *source.Service) string {
	c := s.Balancer.Condition
	switch {
	case c.Reason == "" && len(s.LoadBalancerIPs) == 0:
		return "no load balancer's address yet"
	case c.Reason != "" && !c.True:
		return "load balancer's address: " + c.Message
	}
	return ""
}
