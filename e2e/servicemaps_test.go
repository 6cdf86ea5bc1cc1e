package e2e

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/e2e/cluster"
)

// The maps of Services, and those in which programs remember flows and sockets.
var (
	serviceMaps = []string{"frontends", "sets", "backends", "maglev", "alive", "ranges"}
	flowMaps    = []string{"live", "brief", "sockets", "datagrams", "affinity"}
)

// mapRows counts the rows of one of a node's maps.
func mapRows(n *cluster.Node, name string) (int, error) {
	paths, _ := filepath.Glob(filepath.Join(n.BPFDir, "*", name))
	lasting, _ := filepath.Glob(filepath.Join(n.BPFDir, "lasting", name+"-*"))
	if paths = append(paths, lasting...); len(paths) != 1 {
		return 0, fmt.Errorf("%s: pins of map %s: %v", n.Name, name, paths)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer m.Close()
	rows := 0
	var k, v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		if name == "brief" { // sets of eight rows; where there is one, its tag is not 0
			if binary.NativeEndian.Uint32(k) == m.MaxEntries()-1 {
				continue // the seed
			}
			for way := range 8 {
				if binary.NativeEndian.Uint32(v[4*way:]) != 0 {
					rows++
				}
			}
			continue
		}
		rows++
	}
	return rows, it.Err()
}

// rowsOf is the rows of some maps of all nodes, by node and map.
func rowsOf(t *testing.T, c *cluster.Cluster, names ...string) map[string]int {
	t.Helper()
	rows := map[string]int{}
	for _, n := range c.Nodes {
		for _, name := range names {
			got, err := mapRows(n, name)
			if err != nil {
				t.Fatal(err)
			}
			rows[n.Name+" "+name] = got
		}
	}
	return rows
}
