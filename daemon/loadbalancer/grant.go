package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/source"
)

// Reasons of the condition [source.BalancerCondition], besides [source.ReasonAllocated].
const (
	ReasonPartly    = "Partly"         // true: it has one family; the other it need not have
	ReasonNoPool    = "NoPool"         // no pool is for it
	ReasonExhausted = "Exhausted"      // the pools that are have no free address
	ReasonRefused   = "RequestRefused" // it cannot have what it asks for; what it has it keeps
)

// answer is what became of the addresses that a Service asks for.
type answer struct {
	granted []netip.Addr
	refused []lack
	unclear bool // what it asks for cannot be read: it may be of any family
}

// request lets a Service have what it asks for, as far as it can.
func (a *allocation) request(s *source.Service) {
	asked, err := requests(s)
	if len(asked) == 0 && err == nil {
		return
	}
	var out answer
	if err != nil {
		out.unclear = true
		out.refused = append(out.refused, lack{ReasonRefused, err.Error()})
	}
	for _, ip := range asked {
		if slices.Contains(a.kept[s], ip) {
			out.granted = append(out.granted, ip)
			continue
		}
		if why := a.refusal(s, ip); why != "" {
			out.refused = append(out.refused, lack{ReasonRefused, why})
			continue
		}
		// What it had stays its own until its status says otherwise.
		out.granted = append(out.granted, ip)
		a.give(s, ip)
	}
	a.answers[s] = out
}

// grant decides what a Service that is ours shall have.
func (a *allocation) grant(s *source.Service) source.Grant {
	answer := a.answers[s]
	lacks := answer.refused
	asked, _ := requests(s)
	var ips []netip.Addr
	families := familiesOf(s.Balancer)
	for _, ipv6 := range families {
		of := func(ip netip.Addr) bool { return ip.Is6() == ipv6 }
		have := pick(answer.granted, of)
		if !have.IsValid() {
			have = pick(a.kept[s], of)
		}
		if !have.IsValid() && !answer.unclear && !slices.ContainsFunc(asked, of) {
			if have = a.free(s, ipv6); have.IsValid() {
				a.give(s, have)
			} else {
				lacks = append(lacks, a.lack(s, ipv6))
			}
		}
		if have.IsValid() {
			ips = append(ips, have)
		}
	}
	if s.Balancer.NeedsBoth && len(ips) < len(families) && len(a.kept[s]) == 0 { // both, or none
		for _, ip := range ips {
			a.drop(s, ip)
		}
		ips = nil
	}
	return source.Grant{Service: s, IPs: ips, Condition: condition(s, ips, lacks)}
}

// familiesOf is those of a Service, in its order; true is IPv6.
func familiesOf(b *source.Balancer) []bool {
	switch {
	case b.IPv4 && b.IPv6:
		return []bool{b.IPv6First, !b.IPv6First}
	case b.IPv6:
		return []bool{true}
	}
	return []bool{false}
}

func pick(ips []netip.Addr, is func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(ips, is); i >= 0 {
		return ips[i]
	}
	return netip.Addr{}
}

// refusal says why a Service cannot have the address that it asks for; "" if it can.
func (a *allocation) refusal(s *source.Service, ip netip.Addr) string {
	p := a.poolOf(ip)
	switch {
	case a.isReserved(ip):
		return fmt.Sprintf("%s is an address of a node, or of pods", ip)
	case p == nil:
		return fmt.Sprintf("%s is in no pool", ip)
	case !p.admits(s):
		return fmt.Sprintf("%s is in pool %s, which is not for Services of namespace %s%s", ip, p.Name, s.Namespace, withClass(s))
	case a.blocked[ip]:
		return fmt.Sprintf("%s is still being taken from another Service", ip)
	}
	return a.hindrance(s, ip)
}

// lack is why a Service does not have all that it wants.
type lack struct{ reason, text string }

// lack says why there is no address of a family for a Service.
func (a *allocation) lack(s *source.Service, ipv6 bool) lack {
	var names []string
	for _, sp := range a.spaces {
		if sp.ipv6 == ipv6 && sp.pool.admits(s) && !sp.pool.Manual {
			names = append(names, sp.pool.Name)
		}
	}
	if len(names) == 0 {
		return lack{ReasonNoPool, fmt.Sprintf("no pool has %s addresses for Services of namespace %s%s", family(ipv6), s.Namespace, withClass(s))}
	}
	return lack{ReasonExhausted, fmt.Sprintf("no %s address is free in %s", family(ipv6), strings.Join(names, ", "))}
}

func withClass(s *source.Service) string {
	if s.LoadBalancerClass == "" {
		return " without a class"
	}
	return " with class " + s.LoadBalancerClass
}

// condition says what became of a Service's wants.
func condition(s *source.Service, ips []netip.Addr, lacks []lack) source.Condition {
	if len(lacks) == 0 {
		return source.Condition{True: true, Reason: source.ReasonAllocated}
	}
	c := source.Condition{Reason: lacks[0].reason}
	var texts []string
	for _, l := range lacks {
		texts = append(texts, l.text)
	}
	c.Message = strings.Join(texts, "; ")
	refused := slices.ContainsFunc(lacks, func(l lack) bool { return l.reason == ReasonRefused })
	switch {
	case refused && len(ips) > 0 && c.Reason == ReasonRefused:
		c.Message += "; it has " + join(ips)
	case len(ips) > 0 && !refused && !s.Balancer.NeedsBoth:
		c.True, c.Reason = true, ReasonPartly
	}
	return c
}

func join(ips []netip.Addr) string {
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ", ")
}
