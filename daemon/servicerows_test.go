package daemon

import (
	"log/slog"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// readable is a kernel's map in memory that can tell one row.
type readable[K, V comparable] struct{ *roomy[K, V] }

func (r readable[K, V]) Get(k K) (V, bool, error) {
	v, there := r.rows[k]
	return v, there, nil
}

func newReadable[K, V comparable](rows map[K]V) readable[K, V] {
	r := readable[K, V]{newRoomy[K, V]()}
	for k, v := range rows {
		r.rows[k] = v
	}
	return r
}

// What a former daemon left for a Service is taken up for all its sets, that for the node's
// own sockets, too, and what is alive by the protocol of the set's place.
func TestHeldRowsAreThoseOfAllSets(t *testing.T) {
	for _, protocol := range []source.Protocol{source.TCP, source.UDP} {
		t.Run(bpf.Protocol(protocol).String(), func(t *testing.T) {
			node := service.Node{
				Name: "a", NodePortAddrs: []netip.Addr{addr("192.0.2.1")},
				Others: map[string][]netip.Addr{"b": {addr("192.0.2.2")}},
			}
			svc := mkService("default", "kubernetes", "10.96.0.1")
			svc.ExternalLocal, svc.Ports[0].NodePort, svc.Ports[0].Protocol = true, 30443, protocol
			ends := mkSlice("default", "kubernetes", "kubernetes", "10.0.0.1", "10.0.0.2", "10.0.1.1")
			ends.Ports[0].Protocol, ends.Endpoints[2].Node = protocol, "b"
			was := service.Compile(node, svc, []*source.EndpointSlice{ends})
			at := bpf.Place{Addr: addr("192.0.2.1"), Port: 30443, Protocol: bpf.Protocol(protocol)}
			if f := was.Frontends[at]; f.Host == 0 || f.Host == f.Inside || len(was.Maglev) == 0 {
				t.Fatalf("%s is %+v, with %d rows of Maglev tables: that tests nothing", at, f, len(was.Maglev))
			}
			tables := &tables{served: bpf.Services{
				Sets: newReadable(was.Sets), Backends: newReadable(was.Backends), Maglev: newReadable(was.Maglev),
			}}
			now := service.Rows{
				Frontends: was.Frontends, Sets: map[bpf.SetID]bpf.Set{},
				Backends: map[bpf.Slot]bpf.Backend{}, Alive: map[bpf.Place]uint32{},
			}
			for id := range was.Sets {
				now.Sets[id] = bpf.Set{}
			}
			if !tables.heldRows(&now) {
				t.Error("nothing was found")
			}
			if d := cmp.Diff(was, now, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Errorf("rows (-left +taken up):\n%s", d)
			}
		})
	}
}

// Who may make Services in one namespace can name any address as an external one. He does not
// get what goes to another's ClusterIP by it, whatever his namespace is called, nor lets those
// in whom another's source ranges keep out.
func TestAnOuterAddressTakesNobodysTraffic(t *testing.T) {
	node := service.Node{Name: "a", NodePortAddrs: []netip.Addr{addr("192.0.2.1")}}
	dns := mkService("kube-system", "dns", "10.96.0.10")
	lan := mkService("shop", "lan", "10.96.0.11")
	lan.Type, lan.LoadBalancerIPs = "LoadBalancer", []source.LoadBalancerIP{{IP: addr("198.51.100.1")}}
	lan.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	thief := mkService("a", "thief", "10.96.0.12")
	thief.ExternalIPs = []netip.Addr{addr("10.96.0.10"), addr("198.51.100.1")}
	for _, order := range [][]*source.Service{{dns, lan, thief}, {thief, lan, dns}} {
		frontends := newRoomy[bpf.Place, bpf.Frontend]()
		tables := &tables{}
		tables.serve(bpf.Services{
			Alive: newRoomy[bpf.Place, uint32](), Backends: newRoomy[bpf.Slot, bpf.Backend](), Sets: newRoomy[bpf.SetID, bpf.Set](),
			Frontends: frontends, Maglev: newRoomy[bpf.Block, bpf.MaglevRow](), Ranges: newRoomy[bpf.Range, struct{}](),
		})
		want := map[bpf.Place]bpf.Frontend{}
		for _, s := range order {
			rows := service.Compile(node, s, nil)
			tables.putRows(ownerService(serviceName{s.Namespace, s.Name}), rows)
			if s != thief {
				maps.Copy(want, rows.Frontends)
			}
		}
		if err := tables.services().Write(); err != nil {
			t.Fatal(err)
		}
		for at, f := range want {
			if got := frontends.rows[at]; got != f {
				t.Errorf("%s: got %+v, want %+v", at, got, f)
			}
		}
		if got := frontends.rows[bpf.Place{Addr: addr("10.96.0.12"), Port: 80, Protocol: bpf.TCP}]; got.Inside == 0 {
			t.Error("the other Service's own ClusterIP is not served")
		}
		if got := len(tables.frontends.Conflicts()); got != 2 {
			t.Errorf("%d conflicts are shown, want 2", got)
		}
	}
}

// An address that nobody but Weft gives has no ports of anybody else.
func TestAddressesOfServicesWithoutAClassAreOursIfSet(t *testing.T) {
	for _, set := range []bool{false, true} {
		s := newServices(Config{NodeName: "a", LoadBalancerDefault: set}, &tables{}, newProblems(slog.New(slog.DiscardHandler)))
		s.remembered(overlay.Node{Name: "a", Addrs: []netip.Addr{addr("192.0.2.1")}})
		if got := s.of().Classless; got != set {
			t.Errorf("load-balancer-default %v: got %v", set, got)
		}
	}
}
