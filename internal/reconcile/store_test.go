package reconcile

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStoreIsAsAMap does anything in any order to a store and to a map.
func TestStoreIsAsAMap(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		s, m := newStore[int, string](), map[int]string{}
		keys := 1 + r.IntN(2*chunkRows)
		for step := range 4 * keys {
			k, v := r.IntN(keys), string(rune('a'+r.IntN(26)))
			if r.IntN(5) < 1+int(seed%4) {
				m[k] = v
				if place := s.put(row[int, string]{key: k, value: v, owner: 1}); s.at(place).key != k {
					t.Fatalf("seed %d, step %d: put %d at a place that has %d", seed, step, k, s.at(place).key)
				}
			} else {
				delete(m, k)
				s.remove(k)
			}
			got, want := s.get(k), m[k]
			if _, there := m[k]; there != (got != nil) || there && got.value != want {
				t.Fatalf("seed %d, step %d: get(%d) = %v, want %q, %v", seed, step, k, got, want, there)
			}
		}
		all := map[int]string{}
		s.all(func(r *row[int, string]) { all[r.key] = r.value })
		if d := cmp.Diff(m, all); d != "" || s.count != len(m) {
			t.Fatalf("seed %d: %d rows, want %d (-want +got):\n%s", seed, s.count, len(m), d)
		}
		for k := range maps.Keys(m) {
			if s.get(k) == nil {
				t.Fatalf("seed %d: %d is not found", seed, k)
			}
		}
	}
}

func TestStoreUsesRoomAgain(t *testing.T) {
	s := newStore[int, string]()
	for i := range 100 * chunkRows {
		s.put(row[int, string]{key: i, value: "x", owner: 1})
		s.remove(i - 10)
	}
	if s.count != 10 || len(s.chunks) != 1 || len(s.index) > 32 {
		t.Errorf("10 rows after many: count %d, %d chunks, index of %d", s.count, len(s.chunks), len(s.index))
	}
}
