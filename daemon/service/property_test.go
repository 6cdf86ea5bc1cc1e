package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// check says what must be true of all rows.
func check(t testing.TB, r Rows) {
	t.Helper()
	slots, entries := uint32(0), uint32(0)
	for id, s := range r.Sets {
		if id == 0 {
			t.Error("got a set named 0")
		}
		for i := range s.Count {
			b, ok := r.Backends[bpf.Slot{Set: id, Slot: i}]
			switch {
			case !ok:
				t.Errorf("set %x of %d: no slot %d", id, s.Count, i)
			case b.Generation == 0 || !b.Addr.IsValid() || b.Port == 0:
				t.Errorf("set %x, slot %d: got %+v", id, i, b)
			}
		}
		slots += s.Count
		for i := range (s.Maglev + uint32(bpf.MaglevBlock) - 1) / uint32(bpf.MaglevBlock) {
			row, ok := r.Maglev[bpf.Block{Set: id, Block: i}]
			if !ok {
				t.Errorf("set %x with a table of %d: no block %d", id, s.Maglev, i)
			}
			for _, slot := range row {
				if uint32(slot) >= s.Count {
					t.Errorf("set %x of %d: its table names slot %d", id, s.Count, slot)
				}
			}
			entries++
		}
	}
	if int(slots) != len(r.Backends) {
		t.Errorf("got %d backends, want %d", len(r.Backends), slots)
	}
	if int(entries) != len(r.Maglev) {
		t.Errorf("got %d Maglev rows, want %d", len(r.Maglev), entries)
	}
	ranges := map[bpf.SetID]bool{}
	used := map[bpf.SetID]bool{}
	for at, f := range r.Frontends {
		if at.Protocol == 0 {
			continue
		}
		ranges[f.Ranges] = true
		for _, id := range []bpf.SetID{f.Inside, f.Outside, f.Host} {
			used[id] = true
			if _, ok := r.Sets[id]; !ok && id != 0 {
				t.Errorf("%s: no set %x", at, id)
			}
			for i := range r.Sets[id].Count {
				b := r.Backends[bpf.Slot{Set: id, Slot: i}]
				if g := r.Alive[bpf.Place{Addr: b.Addr, Port: b.Port, Protocol: at.Protocol}]; g != b.Generation {
					t.Errorf("%s: backend %+v is alive with generation %d", at, b, g)
				}
			}
		}
		if f.Inside == 0 {
			t.Errorf("%s: nothing for inside", at)
		}
		if s := r.Sets[f.Outside]; s.Count > 1 && s.Maglev == 0 {
			t.Errorf("%s: the set for outside has no Maglev table", at)
		}
	}
	for id := range r.Sets {
		if !used[id] {
			t.Errorf("set %x is of no use", id)
		}
	}
	for k := range r.Ranges {
		if !ranges[k.Ranges] || k.Prefix != k.Prefix.Masked() {
			t.Errorf("got range %+v", k)
		}
	}
	for at, g := range r.Alive {
		if g == 0 || at.Protocol == 0 {
			t.Errorf("got alive %s generation %d", at, g)
		}
	}
}

// random makes a Service and slices in which few addresses meet often.
func random(rnd *rand.Rand) (*source.Service, []*source.EndpointSlice) {
	yes := func() bool { return rnd.IntN(2) == 0 }
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	some := func(from []netip.Addr) (out []netip.Addr) {
		for _, a := range from {
			if yes() {
				out = append(out, a)
			}
		}
		return out
	}
	s := &source.Service{
		Namespace: "shop", Name: "web", Type: pick("ClusterIP", "NodePort", "LoadBalancer"),
		ClusterIPs:    some(ips("10.96.0.1", "fd96::1")),
		ExternalIPs:   some(ips("203.0.113.1", "192.0.2.1", "2001:db8::f", "198.51.100.1")),
		ExternalLocal: yes(), InternalLocal: yes(), HealthCheckNodePort: 32000,
		Affinity: time.Duration(rnd.IntN(3)) * time.Second,
	}
	if s.Type == "LoadBalancer" {
		for _, a := range some(ips("198.51.100.1", "198.51.100.2", "2001:db8::e")) {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, source.LoadBalancerIP{IP: a, Proxy: rnd.IntN(4) == 0})
		}
		if yes() {
			s.SourceRanges = prefixes("10.0.0.0/8", pick("192.0.2.0/24", "fd00::/8"))
		}
	}
	protocols := []source.Protocol{source.TCP, source.UDP, source.SCTP}
	for i := range 1 + rnd.IntN(3) {
		p := source.ServicePort{Name: fmt.Sprint("p", i), Protocol: protocols[rnd.IntN(3)], Port: uint16(80 + i)}
		if s.Type != "ClusterIP" && yes() {
			p.NodePort = uint16(30000 + i)
		}
		s.Ports = append(s.Ports, p)
	}
	var ss []*source.EndpointSlice
	for range rnd.IntN(5) {
		e := &source.EndpointSlice{Namespace: "shop", Service: "web", IPv6: yes()}
		for _, p := range s.Ports {
			if rnd.IntN(5) > 0 {
				e.Ports = append(e.Ports, source.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(8080 + rnd.IntN(2))})
			}
		}
		for range rnd.IntN(6) {
			end := source.SliceEndpoint{
				IP: ip(fmt.Sprint("10.1.0.", rnd.IntN(6))), Ready: yes(), Serving: yes(), Terminating: yes(),
				Node: pick("here", "there", ""), TargetUID: pick("a", "b", ""),
			}
			if e.IPv6 {
				end.IP = ip(fmt.Sprint("fd00::", rnd.IntN(6)))
			}
			if yes() {
				hints(&end).ForZones = []string{pick("z1", "z2")}
			}
			if yes() {
				hints(&end).ForNodes = []string{pick("here", "there")}
			}
			e.Endpoints = append(e.Endpoints, end)
		}
		ss = append(ss, e)
	}
	return s, ss
}

// anyOrder checks that rows are sound, and the same whatever the order of slices, and of
// endpoints and ports in them.
func anyOrder(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	svc, ss := random(rnd)
	node := testNode
	node.Others = map[string][]netip.Addr{"there": ips("192.0.2.2", "2001:db8::2")}
	first := Compile(node, svc, ss)
	check(t, first)
	for range 3 {
		rnd.Shuffle(len(ss), func(i, j int) { ss[i], ss[j] = ss[j], ss[i] })
		for _, s := range ss {
			rnd.Shuffle(len(s.Endpoints), func(i, j int) { s.Endpoints[i], s.Endpoints[j] = s.Endpoints[j], s.Endpoints[i] })
			rnd.Shuffle(len(s.Ports), func(i, j int) { s.Ports[i], s.Ports[j] = s.Ports[j], s.Ports[i] })
		}
		if again := Compile(node, svc, ss); !reflect.DeepEqual(again, first) {
			t.Errorf("seed %d: in another order got\n%s\nwant\n%s", seed, again.text(t), first.text(t))
		}
	}
}

func TestAnyOrder(t *testing.T) {
	for seed := range uint64(3000) {
		anyOrder(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(0))
	f.Fuzz(anyOrder)
}

// Every part of what a set is makes another name, also if the parts run together alike.
func TestSetNames(t *testing.T) {
	seen := map[bpf.SetID]string{}
	for _, parts := range [][]string{
		{"cluster", "a", "b", "c", "TCP", "IPv4"}, {"local", "a", "b", "c", "TCP", "IPv4"},
		{"cluster", "ab", "", "c", "TCP", "IPv4"}, {"cluster", "a", "bc", "", "TCP", "IPv4"},
		{"cluster", "a", "b", "c", "UDP", "IPv4"}, {"cluster", "a", "b", "c", "TCP", "IPv6"},
	} {
		id := hashID(parts...)
		if other, ok := seen[id]; ok || id == 0 {
			t.Errorf("%q: got the name %x of %s", parts, id, other)
		}
		seen[id] = fmt.Sprint(parts)
	}
}

// More endpoints than slots have numbers: the rest is told, not wrapped around.
func TestTooManyEndpoints(t *testing.T) {
	r := Compile(testNode, webService(nodePort), []*source.EndpointSlice{many(maxBackends + 1)})
	check(t, r)
	want := fmt.Sprintf("port http: %d endpoints; only %d are used", maxBackends+1, maxBackends)
	if !slices.Equal(r.Problems, []string{want}) {
		t.Errorf("got problems %q, want %q", r.Problems, want)
	}
}

// many is a slice of n ready endpoints.
func many(n int) *source.EndpointSlice {
	s := &source.EndpointSlice{Ports: []source.SlicePort{{Name: "http", Protocol: source.TCP, Port: 8080}}}
	for i := range n {
		s.Endpoints = append(s.Endpoints, source.SliceEndpoint{
			IP: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Ready: true, Serving: true,
			Node: "there", TargetUID: fmt.Sprintf("8b1c0f6e-3d2a-4a57-9c1e-%012x", i),
		})
	}
	return s
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{5, 100, 1000} {
		for name, with := range map[string]func(*source.Service){"ClusterIP": nil, "NodePort": nodePort} {
			svc, ss := webService(with), []*source.EndpointSlice{many(n)}
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Compile(testNode, svc, ss)
				}
			})
		}
	}
}
