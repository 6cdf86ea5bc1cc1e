package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/source"
)

// requests are the addresses that a Service asks for, at most one of a family, by the
// annotation or, if that is not there, by spec.loadBalancerIP. The error says what of it
// cannot be read or had; then there are none.
func requests(s *source.Service) ([]netip.Addr, error) {
	text, is := s.Annotations[AddressesAnnotation]
	field := "annotation " + AddressesAnnotation
	if !is && s.Balancer != nil {
		text, field = s.Balancer.Requested, "spec.loadBalancerIP"
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var out []netip.Addr
	for one := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(one))
		switch {
		case err != nil || ip.Is4In6() || ip.Zone() != "":
			return nil, fmt.Errorf("%s: %q is no address", field, strings.TrimSpace(one))
		case slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is6() == ip.Is6() }):
			return nil, fmt.Errorf("%s: more than one %s address", field, family(ip.Is6()))
		case s.Balancer != nil && !has(s.Balancer, ip):
			return nil, fmt.Errorf("%s: %s, but the Service has no %s", field, ip, family(ip.Is6()))
		}
		out = append(out, ip)
	}
	return out, nil
}

// has says whether an address is of a family of the Service.
func has(b *source.Balancer, ip netip.Addr) bool { return ip.Is4() && b.IPv4 || ip.Is6() && b.IPv6 }

func family(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// keyOf is with whom a Service may share its addresses; false: with nobody. Who may write
// Services of one namespace must not get at the addresses of another's.
func keyOf(s *source.Service) (shareKey, bool) {
	k := shareKey{s.Namespace, s.Annotations[SharingAnnotation]}
	return k, k.value != ""
}

// hindrance says why a Service cannot have an address because of those that have it; ""
// if it can.
func (a *allocation) hindrance(s *source.Service, ip netip.Addr) string {
	for _, other := range a.holders[ip] {
		if other == s {
			continue
		}
		name := "a Service of another namespace"
		if other.Namespace == s.Namespace {
			name = "Service " + other.Name
		}
		if why := apart(s, other); why != "" {
			return fmt.Sprintf("%s is that of %s%s", ip, name, why)
		}
	}
	return ""
}

// apart says why two Services cannot share an address; "" if they can.
func apart(a, b *source.Service) string {
	keyA, ok := keyOf(a)
	if keyB, _ := keyOf(b); !ok || keyA != keyB {
		return ", and they have no " + SharingAnnotation + " in common"
	}
	for _, p := range a.Ports {
		if slices.ContainsFunc(b.Ports, func(q source.ServicePort) bool { return p.Protocol == q.Protocol && p.Port == q.Port }) {
			return fmt.Sprintf(", which has %s port %d, too", p.Protocol, p.Port)
		}
	}
	// The address is at one node, which must have pods of both.
	if a.ExternalLocal && b.ExternalLocal && !slices.Equal(a.Selector, b.Selector) {
		return ", and both have externalTrafficPolicy Local but not the same pods"
	}
	return ""
}
