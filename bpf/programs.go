package bpf

import (
	"cmp"
	"maps"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// The kernel verifies a program on the processor that loads it, the large ones for a quarter of a
// second each: so many are loaded at a time.
const maxLoaders = 4

// loadCollection loads what spec has, with the maps that are there already.
func loadCollection(spec *ebpf.CollectionSpec, there map[string]*ebpf.Map) (*ebpf.Collection, error) {
	shared := *spec
	shared.Programs = nil
	all, err := ebpf.NewCollectionWithOptions(&shared, ebpf.CollectionOptions{MapReplacements: there})
	if err != nil {
		return nil, err
	}
	var loaders errgroup.Group
	shares := shareOut(spec.Programs, min(maxLoaders, runtime.GOMAXPROCS(0), len(spec.Programs)))
	loaded := make([]*ebpf.Collection, len(shares))
	for i, programs := range shares {
		loaders.Go(func() (err error) {
			mine := shared
			mine.Programs = programs
			loaded[i], err = ebpf.NewCollectionWithOptions(&mine, ebpf.CollectionOptions{MapReplacements: all.Maps})
			return err
		})
	}
	err = loaders.Wait()
	for i, c := range loaded {
		if c == nil {
			continue
		}
		for name := range shares[i] {
			all.Programs[name] = c.DetachProgram(name)
		}
		c.Close()
	}
	if err != nil {
		all.Close()
		return nil, err
	}
	return all, nil
}

// shareOut gives each of n loaders some of the programs, about as many instructions as the others.
func shareOut(programs map[string]*ebpf.ProgramSpec, n int) []map[string]*ebpf.ProgramSpec {
	shares, sizes := make([]map[string]*ebpf.ProgramSpec, n), make([]int, n)
	for i := range shares {
		shares[i] = map[string]*ebpf.ProgramSpec{}
	}
	largest := slices.SortedFunc(maps.Keys(programs), func(a, b string) int {
		return cmp.Or(len(programs[b].Instructions)-len(programs[a].Instructions), cmp.Compare(a, b))
	})
	for _, name := range largest {
		least := slices.Index(sizes, slices.Min(sizes))
		shares[least][name] = programs[name]
		sizes[least] += len(programs[name].Instructions)
	}
	return shares
}
