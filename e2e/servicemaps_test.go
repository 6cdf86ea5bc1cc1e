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

// Flags of a flow's row: FLOW_REPLY and FLOW_LIVE in bpf/src/live.h.
const (
	flowReply = 1 << 0
	flowLive  = 1 << 7
)

// mapRows counts the rows of one of a node's maps. Those of flows are in `brief` or in `live`: as
// rows of the latter count all of flows that live, or have.
func mapRows(n *cluster.Node, name string) (int, error) {
	rows := 0
	if name == "live" || name == "brief" {
		err := eachFlow(n, func(_, _ []byte, flags uint32) {
			if (flags&flowLive != 0) == (name == "live") {
				rows++
			}
		})
		return rows, err
	}
	err := eachRow(n, name, func([]byte, []byte, uint32) { rows++ })
	return rows, err
}

// eachFlow tells f of the rows of a node's flows, and their flags: those in `live` all have flowLive.
func eachFlow(n *cluster.Node, f func(k, v []byte, flags uint32)) error {
	flagsOf := func(v []byte) uint32 { return binary.NativeEndian.Uint32(v[44:]) }
	err := eachRow(n, "brief", func(k, v []byte, last uint32) {
		if binary.NativeEndian.Uint32(k) == last {
			return // the seed
		}
		for way := range 8 { // of a set; where there is a row, its tag is not 0
			if slot := v[64+88*way:]; binary.NativeEndian.Uint32(v[4*way:]) != 0 {
				f(slot[:40], slot[40:88], flagsOf(slot[40:]))
			}
		}
	})
	if err != nil {
		return err
	}
	return eachRow(n, "live", func(k, v []byte, _ uint32) { f(k, v, flagsOf(v)|flowLive) })
}

// eachRow tells f of the rows of one of a node's maps, and what the last index of it would be.
func eachRow(n *cluster.Node, name string, f func(k, v []byte, last uint32)) error {
	m, err := openMap(n, name, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer m.Close()
	var k, v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		f(k, v, m.MaxEntries()-1)
	}
	return it.Err()
}

// openMap opens one of a node's maps by its pin.
func openMap(n *cluster.Node, name string, o *ebpf.LoadPinOptions) (*ebpf.Map, error) {
	paths, _ := filepath.Glob(filepath.Join(n.BPFDir, "*", name))
	lasting, _ := filepath.Glob(filepath.Join(n.BPFDir, "lasting", name+"-*"))
	if paths = append(paths, lasting...); len(paths) != 1 {
		return nil, fmt.Errorf("%s: pins of map %s: %v", n.Name, name, paths)
	}
	return ebpf.LoadPinnedMap(paths[0], o)
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
