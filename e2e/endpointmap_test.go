package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/e2e/cluster"
)

// endpointMap is the pin of the map of pods.
func endpointMap(t testing.TB, n *cluster.Node) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.BPFDir, "*", "endpoints"))
	if err != nil || len(found) != 1 {
		t.Fatalf("pins of the map endpoints: %v %v", found, err)
	}
	return found[0]
}

// endpointSlots are the slots of the map of pods that hold a row, as bytes: struct
// endpoint_slot in bpf/src/rows.h.
func endpointSlots(t testing.TB, n *cluster.Node) map[uint32][]byte {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(endpointMap(t, n), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	slots := map[uint32][]byte{}
	var k uint32
	var v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		if v[16] >= 4 {
			slots[k] = slices.Clone(v)
		}
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return slots
}

// noRow is the key and the value, for bpftool, by which the row of a pod's IPv4 address
// vanishes from the map of pods.
func noRow(t testing.TB, p *cluster.Pod) []string {
	t.Helper()
	b := p.IP4.As16()
	for at, v := range endpointSlots(t, p.Node) {
		if [16]byte(v) == b {
			key := fmt.Sprintf("% x", binary.NativeEndian.AppendUint32(nil, at))
			zero := strings.TrimSpace(strings.Repeat("00 ", len(v)))
			return slices.Concat([]string{"key", "hex"}, strings.Fields(key), []string{"value", "hex"}, strings.Fields(zero))
		}
	}
	t.Fatalf("no row of %s", p.IP4)
	return nil
}

// endpointRows are the rows of the map of pods, a line each.
func endpointRows(t testing.TB, n *cluster.Node) string {
	t.Helper()
	var rows []string
	for _, v := range endpointSlots(t, n) {
		size := (len(v) - 24) / 2
		row := v[24+size*int(v[16]&1):][:size]
		rows = append(rows, fmt.Sprintf("%s % x\n", netip.AddrFrom16([16]byte(v)).Unmap(), row))
	}
	slices.Sort(rows)
	return strings.Join(rows, "")
}
