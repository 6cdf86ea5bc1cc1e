package bpf

import (
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
)

// However many processors there are, each program is loaded once, with the same maps.
func TestProgramsAreSharedOut(t *testing.T) {
	spec, err := specs(Options{Config: Config{VNI: 87, Port: 8872}})
	must(t, err)
	all := slices.Sorted(maps.Keys(spec.Programs))
	for _, n := range []int{1, 2, 4, len(all) + 1} {
		var got []string
		most, sum, largest := 0, 0, 0
		for _, share := range shareOut(spec.Programs, n) {
			size := 0
			for name, p := range share {
				got = append(got, name)
				size += len(p.Instructions)
				largest = max(largest, len(p.Instructions))
			}
			most, sum = max(most, size), sum+size
		}
		slices.Sort(got)
		if diff := cmp.Diff(got, all); diff != "" {
			t.Errorf("%d loaders (-got +want):\n%s", n, diff)
		}
		if most > sum/n+largest {
			t.Errorf("%d loaders: one has %d instructions of %d", n, most, sum)
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, n := range []int{1, 3} {
		runtime.GOMAXPROCS(n)
		used := map[ebpf.MapID]bool{}
		for name, p := range open(t, Options{}).programs {
			info, err := p.Info()
			must(t, err)
			ids, ok := info.MapIDs()
			if !ok || len(ids) == 0 {
				t.Errorf("%d processors: %s has no maps", n, name)
			}
			for _, id := range ids {
				used[id] = true
			}
		}
		if len(used) > len(spec.Maps) {
			t.Errorf("%d processors: the programs have %d maps, of %d", n, len(used), len(spec.Maps))
		}
	}
}

// What the kernel refuses, in whichever share, is the error.
func TestOneRefusedProgramIsAnError(t *testing.T) {
	spec, err := specs(Options{Config: Config{VNI: 87, Port: 8872}})
	must(t, err)
	spec.Programs[string(ToUplink)].Instructions = asm.Instructions{asm.Return()} // of what nobody wrote
	if c, err := loadCollection(spec, nil); err == nil {
		c.Close()
		t.Error("a program that returns nothing was loaded")
	}
}
