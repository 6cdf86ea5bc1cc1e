package loadbalancer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

// pools reads pools as the setting has them.
func pools(t testing.TB, text string) []Pool {
	t.Helper()
	p, err := ParsePools(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// service is namespace/name of class weft.dev/l2, IPv4, with TCP port 80; changed as f say.
func service(name string, f ...func(*source.Service)) *source.Service {
	namespace, name, _ := strings.Cut(name, "/")
	s := &source.Service{
		Namespace: namespace, Name: name, Type: "LoadBalancer", LoadBalancerClass: Class,
		Ports:       []source.ServicePort{{Protocol: source.TCP, Port: 80}},
		Selector:    []source.Label{{Key: "app", Value: name}},
		Annotations: map[string]string{}, Balancer: &source.Balancer{IPv4: true},
	}
	for _, change := range f {
		change(s)
	}
	return s
}

func asks(ips string) func(*source.Service) {
	return func(s *source.Service) { s.Annotations[AddressesAnnotation] = ips }
}

func shares(key string) func(*source.Service) {
	return func(s *source.Service) { s.Annotations[SharingAnnotation] = key }
}

func port(p source.Protocol, n uint16) func(*source.Service) {
	return func(s *source.Service) { s.Ports = []source.ServicePort{{Protocol: p, Port: n}} }
}

func local(s *source.Service)     { s.ExternalLocal = true }
func classless(s *source.Service) { s.LoadBalancerClass = "" }
func dual(s *source.Service)      { s.Balancer.IPv6 = true }
func sixFirst(s *source.Service)  { s.Balancer.IPv6, s.Balancer.IPv6First = true, true }
func both(s *source.Service)      { s.Balancer.IPv6, s.Balancer.NeedsBoth = true, true }

func hasIPs(ips ...string) func(*source.Service) {
	return func(s *source.Service) {
		s.Balancer.Condition = source.Condition{True: true, Reason: source.ReasonAllocated}
		for _, text := range ips {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, source.LoadBalancerIP{IP: ip(text)})
		}
	}
}

// text is a decision as a person reads it.
func text(g source.Grant) string {
	out := fmt.Sprintf("%s/%s %v", g.Service.Namespace, g.Service.Name, g.IPs)
	if c := g.Condition; c.Reason != "" {
		out += fmt.Sprintf(" %v %s: %s", c.True, c.Reason, c.Message)
	}
	return strings.TrimSuffix(out, ": ")
}

// apply is the Services when these decisions are in their status.
func apply(services []*source.Service, grants ...source.Grant) []*source.Service {
	out := slices.Clone(services)
	i := 0
	for _, g := range grants {
		if at := slices.Index(out[i:], g.Service); at >= 0 { // they are mostly in order
			i += at
		} else {
			i = slices.Index(out, g.Service)
		}
		out[i] = Applied(g)
	}
	return out
}
