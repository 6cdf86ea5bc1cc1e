package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
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
