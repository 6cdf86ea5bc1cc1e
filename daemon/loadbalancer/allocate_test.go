package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/daemon/source"
)

const two = `[{name: a, addresses: [192.0.2.1-192.0.2.2]}, {name: b, addresses: [198.51.100.1, "2001:db8::1"], namespaces: [shop]}]`

func TestDecisions(t *testing.T) {
	const one, six = `[{name: a, addresses: [192.0.2.1]}]`, `[{name: a, addresses: ["2001:db8::1", 192.0.2.1]}]`
	proxied := func(s *source.Service) { s.LoadBalancerIPs[0].Proxy = true }
	for _, tc := range []struct {
		name, pools string
		services    []*source.Service
		want        []string // all decisions of one call
	}{
		{"of our class", one, []*source.Service{service("x/s")}, []string{"x/s [192.0.2.1] true Allocated"}},
		{"of another class", one, []*source.Service{service("x/s", func(s *source.Service) { s.LoadBalancerClass = "other" })}, nil},
		{"of another type", one, []*source.Service{service("x/s", func(s *source.Service) { s.Type = "NodePort" })}, nil},
		{"has it", one, []*source.Service{service("x/s", hasIPs("192.0.2.1"))}, nil},
		{"has it as Proxy", one, []*source.Service{service("x/s", hasIPs("192.0.2.1"), proxied)}, []string{"x/s [192.0.2.1] true Allocated"}},
		{"has one of no pool", one, []*source.Service{service("x/s", hasIPs("203.0.113.1"))}, []string{"x/s [192.0.2.1] true Allocated"}},
		{"has more than one", two, []*source.Service{service("x/s", hasIPs("192.0.2.2", "192.0.2.1"))}, []string{"x/s [192.0.2.2] true Allocated"}},
		{"exhausted", one, []*source.Service{service("x/a"), service("x/b")},
			[]string{"x/a [192.0.2.1] true Allocated", "x/b [] false Exhausted: no IPv4 address is free in a"}},
		{"who has it keeps it", one, []*source.Service{service("x/a"), service("x/b", hasIPs("192.0.2.1"))},
			[]string{"x/a [] false Exhausted: no IPv4 address is free in a"}},
		{"two have it", one, []*source.Service{service("x/a", hasIPs("192.0.2.1")), service("x/b", hasIPs("192.0.2.1"))},
			[]string{"x/b [] false Exhausted: no IPv4 address is free in a"}},
		{"no pool of the family", one, []*source.Service{service("x/s", func(s *source.Service) { s.Balancer = &source.Balancer{IPv6: true} })},
			[]string{"x/s [] false NoPool: no pool has IPv6 addresses for Services of namespace x with class weft.dev/l2"}},

		{"pool of the namespace after the first", two, []*source.Service{service("shop/a", hasIPs("192.0.2.1")), service("shop/b", hasIPs("192.0.2.2")), service("shop/c"), service("x/d")},
			[]string{"shop/c [198.51.100.1] true Allocated", "x/d [] false Exhausted: no IPv4 address is free in a"}},
		{"pool that no longer admits", two, []*source.Service{service("x/s", hasIPs("198.51.100.1"), asks("192.0.2.2"))}, []string{"x/s [192.0.2.2] true Allocated"}},
		{"pool of a class", `[{name: a, class: none, addresses: [192.0.2.1]}, {name: b, class: weft.dev/l2, addresses: [192.0.2.2]}]`,
			[]*source.Service{service("x/a"), service("x/b", classless)}, []string{"x/a [192.0.2.2] true Allocated", "x/b [192.0.2.1] true Allocated"}},

		{"dual stack", six, []*source.Service{service("x/s", dual)}, []string{"x/s [192.0.2.1 2001:db8::1] true Allocated"}},
		{"dual stack, IPv6 first", six, []*source.Service{service("x/s", sixFirst)}, []string{"x/s [2001:db8::1 192.0.2.1] true Allocated"}},
		{"dual stack comes later", six, []*source.Service{service("x/s", dual, hasIPs("192.0.2.1"))}, []string{"x/s [192.0.2.1 2001:db8::1] true Allocated"}},
		{"single stack again", six, []*source.Service{service("x/s", hasIPs("192.0.2.1", "2001:db8::1"))}, []string{"x/s [192.0.2.1] true Allocated"}},
		{"dual stack is a wish", one, []*source.Service{service("x/s", dual)},
			[]string{"x/s [192.0.2.1] true Partly: no pool has IPv6 addresses for Services of namespace x with class weft.dev/l2"}},
		{"dual stack is a must", one, []*source.Service{service("x/s", both), service("x/t")},
			[]string{"x/s [] false NoPool: no pool has IPv6 addresses for Services of namespace x with class weft.dev/l2", "x/t [192.0.2.1] true Allocated"}},
		{"dual stack becomes a must", one, []*source.Service{service("x/s", both, hasIPs("192.0.2.1"))},
			[]string{"x/s [192.0.2.1] false NoPool: no pool has IPv6 addresses for Services of namespace x with class weft.dev/l2"}},

		{"asks", two, []*source.Service{service("x/s", asks("192.0.2.2"))}, []string{"x/s [192.0.2.2] true Allocated"}},
		{"asks by the field", two, []*source.Service{service("x/s", func(s *source.Service) { s.Balancer.Requested = "192.0.2.2" })}, []string{"x/s [192.0.2.2] true Allocated"}},
		{"asks for both", two, []*source.Service{service("shop/s", dual, asks("2001:db8::1, 198.51.100.1"))}, []string{"shop/s [198.51.100.1 2001:db8::1] true Allocated"}},
		{"asks for another", two, []*source.Service{service("x/s", hasIPs("192.0.2.1"), asks("192.0.2.2"))}, []string{"x/s [192.0.2.2] true Allocated"}},
		{"what one gives up nobody gets yet", two, []*source.Service{service("x/a"), service("x/s", hasIPs("192.0.2.1"), asks("192.0.2.2"))},
			[]string{"x/a [] false Exhausted: no IPv4 address is free in a", "x/s [192.0.2.2] true Allocated"}},
		{"asks what another asks for", two, []*source.Service{service("x/a", asks("192.0.2.2")), service("x/b", asks("192.0.2.2"))},
			[]string{"x/a [192.0.2.2] true Allocated", "x/b [] false RequestRefused: 192.0.2.2 is that of Service a, and they have no weft.dev/load-balancer-sharing in common"}},
		{"asks what another namespace has", two, []*source.Service{service("x/a", asks("192.0.2.2")), service("y/b", hasIPs("192.0.2.2"))},
			[]string{"x/a [] false RequestRefused: 192.0.2.2 is that of a Service of another namespace, and they have no weft.dev/load-balancer-sharing in common"}},
		{"asks in vain and keeps", two, []*source.Service{service("x/a", hasIPs("192.0.2.1"), asks("192.0.2.9"))},
			[]string{"x/a [192.0.2.1] false RequestRefused: 192.0.2.9 is in no pool; it has 192.0.2.1"}},
		{"asks of a pool of others", two, []*source.Service{service("x/a", asks("198.51.100.1"))},
			[]string{"x/a [] false RequestRefused: 198.51.100.1 is in pool b, which is not for Services of namespace x with class weft.dev/l2"}},
		{"asks for a node's", one, []*source.Service{service("x/a", asks("192.0.2.77"))}, []string{"x/a [] false RequestRefused: 192.0.2.77 is in no pool"}},
		{"asks for nonsense", one, []*source.Service{service("x/a", asks("ten"))},
			[]string{`x/a [] false RequestRefused: annotation weft.dev/load-balancer-ips: "ten" is no address`}},
		{"asks for another family", two, []*source.Service{service("shop/a", asks("2001:db8::1"))},
			[]string{"shop/a [] false RequestRefused: annotation weft.dev/load-balancer-ips: 2001:db8::1, but the Service has no IPv6"}},
		{"asks for two of a family", one, []*source.Service{service("x/a", asks("192.0.2.1,192.0.2.2"))},
			[]string{"x/a [] false RequestRefused: annotation weft.dev/load-balancer-ips: more than one IPv4 address"}},
		{"manual pool", `[{name: m, auto: false, addresses: [192.0.2.1-192.0.2.2]}]`, []*source.Service{service("x/a"), service("x/b", asks("192.0.2.2"))},
			[]string{"x/a [] false NoPool: no pool has IPv4 addresses for Services of namespace x with class weft.dev/l2", "x/b [192.0.2.2] true Allocated"}},
		{"asks a manual pool no more", `[{name: m, auto: false, addresses: [192.0.2.2]}, {name: a, addresses: [192.0.2.1]}]`,
			[]*source.Service{service("x/b", hasIPs("192.0.2.2"))}, []string{"x/b [192.0.2.1] true Allocated"}},

		{"share", one, []*source.Service{service("x/a", shares("k")), service("x/b", shares("k"), port(source.UDP, 80))},
			[]string{"x/a [192.0.2.1] true Allocated", "x/b [192.0.2.1] true Allocated"}},
		{"share by a request", one, []*source.Service{service("x/a", shares("k"), hasIPs("192.0.2.1")), service("x/b", shares("k"), port(source.TCP, 81), asks("192.0.2.1"))},
			[]string{"x/b [192.0.2.1] true Allocated"}},
		{"share with one port", one, []*source.Service{service("x/a", shares("k"), hasIPs("192.0.2.1")), service("x/b", shares("k"), asks("192.0.2.1"))},
			[]string{"x/b [] false RequestRefused: 192.0.2.1 is that of Service a, which has TCP port 80, too"}},
		{"share with another key", one, []*source.Service{service("x/a", shares("k")), service("x/b", shares("l"), port(source.TCP, 81))},
			[]string{"x/a [192.0.2.1] true Allocated", "x/b [] false Exhausted: no IPv4 address is free in a"}},
		{"share with another namespace", one, []*source.Service{service("x/a", shares("k")), service("y/b", shares("k"), port(source.TCP, 81))},
			[]string{"x/a [192.0.2.1] true Allocated", "y/b [] false Exhausted: no IPv4 address is free in a"}},
		{"share, local to different pods", one, []*source.Service{service("x/a", shares("k"), local, hasIPs("192.0.2.1")), service("x/b", shares("k"), local, port(source.TCP, 81), asks("192.0.2.1"))},
			[]string{"x/b [] false RequestRefused: 192.0.2.1 is that of Service a, and both have externalTrafficPolicy Local but not the same pods"}},
		{"share, local to the same pods", one, []*source.Service{service("x/a", shares("k"), local), service("x/b", shares("k"), local, port(source.TCP, 81), func(s *source.Service) { s.Selector[0].Value = "a" })},
			[]string{"x/a [192.0.2.1] true Allocated", "x/b [192.0.2.1] true Allocated"}},
		{"share, one of them local", one, []*source.Service{service("x/a", shares("k"), local), service("x/b", shares("k"), port(source.TCP, 81))},
			[]string{"x/a [192.0.2.1] true Allocated", "x/b [192.0.2.1] true Allocated"}},
		{"share no more", two, []*source.Service{service("x/a", hasIPs("192.0.2.1")), service("x/b", shares("k"), port(source.TCP, 81), hasIPs("192.0.2.1"))},
			[]string{"x/b [192.0.2.2] true Allocated"}},

		{"is no LoadBalancer any more", one, []*source.Service{service("x/a", hasIPs(), func(s *source.Service) { s.Type = "ClusterIP" })}, []string{"x/a []"}},
		{"is of another class now", one, []*source.Service{service("x/a", hasIPs("192.0.2.1", "203.0.113.1"), func(s *source.Service) { s.LoadBalancerClass = "other" }), service("x/b")},
			[]string{"x/a [203.0.113.1]", "x/b [] false Exhausted: no IPv4 address is free in a"}},
		{"the reason changes", two, []*source.Service{service("x/a", hasIPs("192.0.2.1"), func(s *source.Service) {
			s.Balancer.Condition = source.Condition{Reason: ReasonRefused, Message: "x"}
		})}, []string{"x/a [192.0.2.1] true Allocated"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := World{Pools: pools(t, tc.pools), Classless: true, Services: tc.services}
			var got []string
			for _, g := range Allocate(w) {
				got = append(got, text(g))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestClasslessServicesAreOursIfSetSo(t *testing.T) {
	services := []*source.Service{service("x/a", classless)}
	w := World{Pools: pools(t, two), Services: services}
	if got := Allocate(w); len(got) != 0 {
		t.Errorf("not set: got %s", text(got[0]))
	}
	w.Classless = true
	w.Services = apply(services, Allocate(w)...)
	if len(w.Services[0].LoadBalancerIPs) != 1 {
		t.Error("set: it has no address")
	}
	w.Classless = false // and no more: what we gave is taken back
	if got := Allocate(w); len(got) != 1 || text(got[0]) != "x/a []" {
		t.Errorf("not set any more: got %v", got)
	}
}

func TestAddressesOfNodesAndPodsAreNeverGiven(t *testing.T) {
	nodes := []*source.Node{{Name: "n", PodCIDRs: prefixes("192.0.2.0/31", "fd00::/64"), InternalIPs: []netip.Addr{ip("192.0.2.2")}}}
	w := World{
		Pools: pools(t, `[{name: a, addresses: [192.0.2.0/30]}]`), Reserved: Reserved(nodes),
		Services: []*source.Service{service("x/a"), service("x/b"), service("x/c", asks("192.0.2.2")), service("x/d", hasIPs("192.0.2.1"))},
	}
	var got []string
	for _, g := range Allocate(w) {
		got = append(got, text(g))
	}
	want := []string{
		"x/a [192.0.2.3] true Allocated", "x/b [] false Exhausted: no IPv4 address is free in a",
		"x/c [] false RequestRefused: 192.0.2.2 is an address of a node, or of pods", "x/d [] false Exhausted: no IPv4 address is free in a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantProblem := "pool a has addresses of the pod prefix 192.0.2.0/31 of node n, which are not given: take them out of load-balancer-pools"
	if got := Problems(World{Pools: w.Pools}, nodes); !slices.Equal(got, []string{wantProblem}) {
		t.Errorf("problems: got %q", got)
	}
}

// A Service that is made anew has its address again, wherever others are.
func TestAServiceThatComesAgainHasItsAddressAgain(t *testing.T) {
	w := World{Pools: pools(t, `[{name: a, addresses: [192.0.2.0/24, "2001:db8::/64"]}]`)}
	for i := range 20 {
		w.Services = append(w.Services, service(fmt.Sprintf("x/s%02d", i), dual))
	}
	all := apply(w.Services, Allocate(w)...)
	for i := range all {
		w.Services = slices.Clone(all)
		w.Services[i] = service(fmt.Sprintf("x/s%02d", i), dual)
		if got := apply(w.Services, Allocate(w)...)[i].LoadBalancerIPs; !slices.Equal(got, all[i].LoadBalancerIPs) {
			t.Errorf("%s: got %v, had %v", all[i].Name, got, all[i].LoadBalancerIPs)
		}
	}
}

func TestUsageCountsSharedAddressesOnce(t *testing.T) {
	w := World{Pools: pools(t, `[{name: a, addresses: [192.0.2.0/28, "2001:db8::/64"]}, {name: b, addresses: [198.51.100.1]}]`), Reserved: prefixes("192.0.2.0/32")}
	w.Services = []*source.Service{
		service("x/a", shares("k"), hasIPs("192.0.2.1", "2001:db8::1")), service("x/b", shares("k"), hasIPs("192.0.2.1")),
		service("x/c", func(s *source.Service) {
			s.Balancer.Condition = source.Condition{Reason: ReasonExhausted, Message: "none"}
		}),
		service("x/d"), service("x/e", hasIPs("203.0.113.1")),
	}
	got, refused := Use(w)
	want := []Usage{{"a", "IPv4", 1, 14}, {"a", "IPv6", 1, 1<<64 - 1}, {"b", "IPv4", 0, 1}}
	if !slices.Equal(got, want) || refused != 1 {
		t.Errorf("got %v, refused %d; want %v, 1", got, refused, want)
	}
	if got, want := Problems(w, nil), []string{"service x/c: load balancer's address: none"}; !slices.Equal(got, want) {
		t.Errorf("problems: got %q, want %q", got, want)
	}
	if got, want := Why(w.Services[3]), "no load balancer's address yet"; got != want {
		t.Errorf("why: got %q, want %q", got, want)
	}
}

// BenchmarkAllocate is one change among 30,000 Services that have an address.
func BenchmarkAllocate(b *testing.B) {
	w := World{Pools: pools(b, `[{name: a, addresses: [10.0.0.0/16]}]`)}
	for i := range 30000 {
		w.Services = append(w.Services, service(fmt.Sprintf("x/s%05d", i)))
	}
	b.Run("none has one", func(b *testing.B) {
		for b.Loop() {
			Allocate(w)
		}
	})
	w.Services = apply(w.Services, Allocate(w)...)
	b.Run("all have one", func(b *testing.B) {
		for b.Loop() {
			Allocate(w)
		}
	})
}
