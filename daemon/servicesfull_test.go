package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// roomy is a kernel's map in memory: full, it takes changes of what it has and nothing new.
type roomy[K, V comparable] struct {
	rows map[K]V
	room int
}

func newRoomy[K, V comparable]() *roomy[K, V] { return &roomy[K, V]{map[K]V{}, 1000} }

func (r *roomy[K, V]) Dump() (map[K]V, error) { return maps.Clone(r.rows), nil }

func (r *roomy[K, V]) Set(k K, v V) error {
	if _, there := r.rows[k]; !there && len(r.rows) >= r.room {
		return bpf.ErrFull
	}
	r.rows[k] = v
	return nil
}

func (r *roomy[K, V]) Delete(k K) error {
	delete(r.rows, k)
	return nil
}

// TestFullMapKeepsServicesAsTheyWere fills the map of backends. A Service that grows beyond
// it goes on with those that it has, a new one is not served, one that shrinks makes room;
// and who is not served as it wants is told.
func TestFullMapKeepsServicesAsTheyWere(t *testing.T) {
	backends, sets, frontends := newRoomy[bpf.Slot, bpf.Backend](), newRoomy[bpf.SetID, bpf.Set](), newRoomy[bpf.Place, bpf.Frontend]()
	alive := newRoomy[bpf.Place, uint32]()
	backends.room = 5
	tables := &tables{}
	tables.serve(bpf.Services{
		Alive: alive, Backends: backends, Sets: sets, Frontends: frontends,
		Maglev: newRoomy[bpf.Block, bpf.MaglevRow](), Ranges: newRoomy[bpf.Range, struct{}](),
	})
	tables.services().AllowPrune()
	cfg := DefaultConfig()
	cfg.NodeName = "a"
	s := newServices(cfg, tables, newProblems(slog.New(slog.DiscardHandler)))
	self := overlay.Node{Name: "a", Addrs: []netip.Addr{addr("192.0.2.1")}}
	grows, shrinks, comes := mkService("default", "grows", "10.96.0.1"), mkService("default", "shrinks", "10.96.0.2"), mkService("default", "zcomes", "10.96.0.3")
	say := func(whole bool, services []*source.Service, slices ...*source.EndpointSlice) error {
		owners := s.update(source.State{Services: services, Slices: source.ListOf(slices)}, self)
		if whole {
			return tables.services().Sync(false)
		}
		return s.write(owners)
	}
	// counts is how many backends serve each ClusterIP; each must be there, and alive.
	counts := func() map[string]int {
		t.Helper()
		got := map[string]int{}
		for at, f := range frontends.rows {
			if at.Protocol == 0 {
				continue
			}
			set, there := sets.rows[f.Inside]
			if !there {
				t.Errorf("%s: its set is not there", at)
			}
			got[at.Addr.String()] = int(set.Count)
			for i := range set.Count {
				b, there := backends.rows[bpf.Slot{Set: f.Inside, Slot: i}]
				if !there || alive.rows[bpf.Place{Addr: b.Addr, Port: b.Port, Protocol: bpf.TCP}] != b.Generation {
					t.Errorf("%s: backend %d of %d is not there, or not alive", at, i, set.Count)
				}
			}
		}
		return got
	}
	two, three := mkSlice("default", "grows-1", "grows", "10.0.0.1", "10.0.0.2"), mkSlice("default", "shrinks-1", "shrinks", "10.0.1.1", "10.0.1.2", "10.0.1.3")
	if err := say(true, []*source.Service{grows, shrinks}, two, three); err != nil {
		t.Fatal(err)
	}
	more := mkSlice("default", "grows-1", "grows", "10.0.0.0", "10.0.0.2", "10.0.0.3")
	for _, whole := range []bool{false, true} {
		err := say(whole, []*source.Service{grows, shrinks, comes}, more, three, mkSlice("default", "zcomes-1", "zcomes", "10.0.2.1"))
		if !errors.Is(err, bpf.ErrFull) {
			t.Fatalf("got %v, want %v", err, bpf.ErrFull)
		}
		if d := cmp.Diff(map[string]int{"10.96.0.1": 2, "10.96.0.2": 3}, counts()); d != "" {
			t.Errorf("backends while the map is full (-want +got):\n%s", d)
		}
	}
	if d := cmp.Diff([]string{"svc:default/grows", "svc:default/zcomes"}, tables.noRoom()); d != "" {
		t.Errorf("who is not served as it wants (-want +got):\n%s", d)
	}
	one := mkSlice("default", "shrinks-1", "shrinks", "10.0.1.1")
	_ = say(true, []*source.Service{grows, shrinks, comes}, more, one, mkSlice("default", "zcomes-1", "zcomes", "10.0.2.1")) // it is pruned after the others are written
	if err := tables.services().Sync(false); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if d := cmp.Diff(map[string]int{"10.96.0.1": 3, "10.96.0.2": 1, "10.96.0.3": 1}, counts()); d != "" {
		t.Errorf("backends with room again (-want +got):\n%s", d)
	}
	if names := tables.noRoom(); len(names) > 0 {
		t.Errorf("not served as they want, with room again: %v", names)
	}
}
