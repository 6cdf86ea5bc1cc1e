package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

// A world is changed at random, and each decision is put into the status at a random time,
// or never, because somebody changed the Service before. At no time does one address belong
// to two Services that may not share it, and whoever keeps still ends with decisions that
// are all made.
func TestAllocationHoldsWhateverHappens(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 6))
		w := World{Pools: pools(t, `[
			{name: small, addresses: [192.0.2.0/30, "2001:db8::/126"]},
			{name: shop, addresses: [198.51.100.0/31], namespaces: [shop]},
			{name: manual, addresses: [203.0.113.1-203.0.113.2, "2001:db8:1::1"], auto: false},
			{name: plain, addresses: [192.0.2.128/31], class: none}]`), Classless: r.IntN(2) == 0, Reserved: prefixes("192.0.2.1/32")}
		for step := range 60 {
			w.Services = mutate(r, w.Services)
			if r.IntN(10) == 0 {
				w.Classless = !w.Classless
			}
			grants := Allocate(w)
			again := Allocate(World{w.Pools, w.Classless, slices.Clone(w.Services), w.Reserved})
			if fmt.Sprint(texts(grants)) != fmt.Sprint(texts(again)) {
				t.Fatalf("seed %d step %d: decisions differ:\n%q\n%q", seed, step, texts(grants), texts(again))
			}
			r.Shuffle(len(grants), func(i, j int) { grants[i], grants[j] = grants[j], grants[i] })
			for _, g := range grants[:r.IntN(len(grants)+1)] { // the others got lost
				checkGrant(t, w, g)
				w.Services = apply(w.Services, g)
			}
		}
		for round := 0; ; round++ {
			grants := Allocate(w)
			if len(grants) == 0 {
				break
			}
			if round == 4 {
				t.Fatalf("seed %d: no end: %q", seed, texts(grants))
			}
			for _, g := range grants {
				checkGrant(t, w, g)
				w.Services = apply(w.Services, g)
			}
		}
		checkSettled(t, w)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func texts(grants []source.Grant) []string {
	var out []string
	for _, g := range grants {
		out = append(out, text(g))
	}
	return out
}

// mutate adds, removes or changes a Service. Nobody but us writes addresses.
func mutate(r *rand.Rand, services []*source.Service) []*source.Service {
	services = slices.Clone(services)
	namespace, name := []string{"shop", "x"}[r.IntN(2)], fmt.Sprintf("s%d", r.IntN(8))
	i, there := slices.BinarySearchFunc(services, namespace+"/"+name, func(s *source.Service, n string) int {
		return strings.Compare(s.Namespace+"/"+s.Name, n)
	})
	if there && r.IntN(3) == 0 {
		return slices.Delete(services, i, i+1)
	}
	s := service(namespace + "/" + name)
	if there {
		s.LoadBalancerIPs = services[i].LoadBalancerIPs
		if b := services[i].Balancer; b != nil {
			s.Balancer.Condition = b.Condition
		}
	}
	maybe := func(n int, f func(*source.Service)) {
		if r.IntN(n) == 0 {
			f(s)
		}
	}
	maybe(4, classless)
	maybe(3, dual)
	maybe(6, both)
	maybe(3, local)
	maybe(2, port(source.TCP, uint16(80+r.IntN(3))))
	maybe(3, shares([]string{"k", "l"}[r.IntN(2)]))
	maybe(3, asks([]string{"192.0.2.2", "203.0.113.1", "203.0.113.2", "198.51.100.1", "192.0.2.1", "x", "2001:db8:1::1"}[r.IntN(7)]))
	maybe(12, func(s *source.Service) { s.Type, s.LoadBalancerIPs = "ClusterIP", nil })
	if there {
		services[i] = s
		return services
	}
	return slices.Insert(services, i, s)
}

// checkGrant checks a decision at the time when it gets into the status: what it gives a
// Service nobody else has who may not share it, and it is an address that it may have.
func checkGrant(t *testing.T, w World, g source.Grant) {
	t.Helper()
	s := g.Service
	for _, ip := range g.IPs {
		if slices.ContainsFunc(s.LoadBalancerIPs, func(l source.LoadBalancerIP) bool { return l.IP == ip }) {
			continue
		}
		for _, o := range w.Services {
			has := slices.ContainsFunc(o.LoadBalancerIPs, func(l source.LoadBalancerIP) bool { return l.IP == ip })
			key := s.Annotations[SharingAnnotation]
			may := s.Namespace == o.Namespace && key != "" && key == o.Annotations[SharingAnnotation] && s.Ports[0] != o.Ports[0] &&
				(!s.ExternalLocal || !o.ExternalLocal)
			if o != s && has && !may {
				t.Errorf("%s: %s/%s has it, too", text(g), o.Namespace, o.Name)
			}
		}
		asked := s.Annotations[AddressesAnnotation] == ip.String()
		in := func(p ...string) bool {
			return slices.ContainsFunc(prefixes(p...), func(p netip.Prefix) bool { return p.Contains(ip) })
		}
		switch {
		case ip == netip.MustParseAddr("192.0.2.1"): // reserved
			t.Error(text(g))
		case in("192.0.2.0/30", "2001:db8::/126"):
		case in("198.51.100.0/31") && s.Namespace == "shop":
		case in("203.0.113.0/30", "2001:db8:1::1/128") && asked:
		case in("192.0.2.128/31") && s.LoadBalancerClass == "":
		default:
			t.Errorf("%s: %s is of no pool for it", text(g), ip)
		}
		if ip.Is6() && !s.Balancer.IPv6 || ip.Is4() && !s.Balancer.IPv4 {
			t.Errorf("%s: of a family that it has not", text(g))
		}
	}
}

// checkSettled checks a world in which nothing is to be done: that nobody lacks what is
// free, and that those who have addresses keep them whoever comes and goes.
func checkSettled(t *testing.T, w World) {
	t.Helper()
	usage, _ := Use(w)
	for _, s := range w.Services {
		if s.Balancer == nil {
			continue
		}
		if c := s.Balancer.Condition; c.Reason == ReasonExhausted && len(familiesOf(s.Balancer)) == 1 && usage[0].Free > 0 {
			t.Errorf("%s/%s: %s, but %v", s.Namespace, s.Name, c.Message, usage)
		}
		if Ours(s, w.Classless) != (s.Balancer.Condition.Reason != "") {
			t.Errorf("%s/%s of type %s, class %q: condition %v", s.Namespace, s.Name, s.Type, s.LoadBalancerClass, s.Balancer.Condition)
		}
		if c := s.Balancer.Condition; c.Reason == source.ReasonAllocated && len(s.LoadBalancerIPs) != len(familiesOf(s.Balancer)) {
			t.Errorf("%s/%s: has %v", s.Namespace, s.Name, s.LoadBalancerIPs)
		}
	}
	for i := range w.Services {
		less := World{w.Pools, w.Classless, slices.Delete(slices.Clone(w.Services), i, i+1), w.Reserved}
		for _, g := range Allocate(less) {
			for _, l := range g.Service.LoadBalancerIPs {
				asked := g.Service.Annotations[AddressesAnnotation]
				if !slices.Contains(g.IPs, l.IP) && (asked == "" || !slices.Contains(g.IPs, netip.MustParseAddr(asked))) {
					t.Errorf("without %s: %s loses %s", w.Services[i].Name, text(g), l.IP)
				}
			}
		}
	}
	more := World{w.Pools, w.Classless, slices.Insert(slices.Clone(w.Services), 0, service("a/first", dual)), w.Reserved}
	for _, g := range Allocate(more) {
		if g.Service.Name != "first" && !holds(g.Service, g.IPs) {
			t.Errorf("one more comes: %s", text(g))
		}
	}
}
