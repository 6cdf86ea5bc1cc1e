package service

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

// backends are n different places of both families, sorted.
func backends(rnd *rand.Rand, n int) []netip.AddrPort {
	seen := map[netip.AddrPort]struct{}{}
	for len(seen) < n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(rnd.IntN(16)), byte(rnd.IntN(256))})
		if rnd.IntN(2) == 0 {
			a = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(rnd.IntN(256)), 15: byte(rnd.IntN(256))})
		}
		seen[netip.AddrPortFrom(a, uint16(8080+rnd.IntN(3)))] = struct{}{}
	}
	out := make([]netip.AddrPort, 0, n)
	for a := range seen {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

func TestMaglevSize(t *testing.T) {
	for n, want := range map[int]uint32{2: 307, 3: 307, 4: 601, 12: 1201, 48: 4801, 96: 9601, 97: 19207, 100: 19207, 384: 38431, 385: 65521, 65535: 65521} {
		if got := maglevSize(n); got != want {
			t.Errorf("size for %d backends: got %d, want %d", n, got, want)
		}
	}
	for _, size := range maglevSizes {
		for d := uint32(2); d*d <= size; d++ {
			if size%d == 0 {
				t.Errorf("%d is not a prime: %d divides it", size, d)
			}
		}
	}
}

func TestMaglevShares(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := []int{50, 100, 300, 1000}
	for n := range 24 { // where one entry is the most
		sizes = append(sizes, 1+n)
	}
	for _, n := range sizes {
		at := backends(rnd, n)
		table := maglevTable(at, nil)
		count := make([]int, n)
		for _, slot := range table {
			count[slot]++
		}
		// The paper fills in turns: nobody is more than one turn ahead.
		if lo, hi := slices.Min(count), slices.Max(count); lo < 1 || hi-lo > 1 {
			t.Errorf("%d backends, %d entries: they have %d to %d of them", n, len(table), lo, hi)
		}
	}
}

// Without one backend, or with one more, hardly any entry moves between the others. 2 % is
// what a node that takes over another's flows may choose otherwise.
func TestMaglevMovesFew(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{3, 10, 40, 100, 190} {
		without, with := 0.0, 0.0
		for range 20 {
			at := backends(rnd, n+1)
			other := rnd.IntN(n + 1)
			fewer := slices.Delete(slices.Clone(at), other, other+1) // n
			gone := rnd.IntN(n)
			without = max(without, moved(t, fewer, slices.Delete(slices.Clone(fewer), gone, gone+1)))
			if maglevSize(n) == maglevSize(n+1) {
				with = max(with, moved(t, fewer, at))
			}
		}
		t.Logf("%d backends, %d entries: without one, %.2f %% of the others' move, with one more, %.2f %%", n, maglevSize(n), 100*without, 100*with)
		if n >= 100 && (without > 0.02 || with > 0.02) {
			t.Errorf("%d backends: without one, %.2f %% of the others' entries move, with one more, %.2f %%, want at most 2 %%", n, 100*without, 100*with)
		}
	}
}

// moved is the part of the entries that two sets of backends give to different ones that
// both have, of those that neither gives to one that only it has.
func moved(t *testing.T, before, after []netip.AddrPort) float64 {
	t.Helper()
	one, other := maglevTable(before, nil), maglevTable(after, nil)
	if len(one) != len(other) {
		t.Fatalf("%d to %d backends: the size changes from %d to %d", len(before), len(after), len(one), len(other))
	}
	both := func(at netip.AddrPort) bool { return slices.Contains(before, at) && slices.Contains(after, at) }
	stay, differ := 0, 0
	for i := range one {
		was, is := before[one[i]], after[other[i]]
		switch {
		case was == is:
			stay++
		case both(was) && both(is):
			differ++
		}
	}
	return float64(differ) / float64(stay+differ)
}

// All nodes have the same table for the same endpoints, in whatever slices and order these
// come: it is how a flow stays with its backend when another node gets it.
func TestMaglevIsAlikeOnAllNodes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{2, 9, 100, 700} {
		svc := webService(nodePort)
		var ends []source.SliceEndpoint
		for i := range n {
			ends = append(ends, source.SliceEndpoint{
				IP: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Ready: true, Serving: true,
				Node: fmt.Sprint("node-", i%3), Zone: fmt.Sprint("zone-", i%2), TargetUID: fmt.Sprint("uid-", i),
			})
		}
		var first Rows
		for node := range 5 {
			rnd.Shuffle(n, func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
			cut := rnd.IntN(n)
			var slices []*source.EndpointSlice
			for _, part := range [][]source.SliceEndpoint{ends[:cut], ends[cut:]} {
				slices = append(slices, &source.EndpointSlice{
					Namespace: "shop", Service: "web", Endpoints: part, Ports: []source.SlicePort{{Name: svc.Ports[0].Name, Protocol: source.TCP, Port: 8080}},
				})
			}
			rows := Compile(Node{
				Name: fmt.Sprint("node-", node), Zone: fmt.Sprint("zone-", node%2),
				NodePortAddrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(node)})},
			}, svc, slices)
			if node == 0 {
				first = rows
			}
			if len(rows.Maglev) == 0 || !maps.Equal(rows.Maglev, first.Maglev) || !maps.Equal(rows.Backends, first.Backends) {
				t.Errorf("%d backends: node %d has another table than the first, or none: %d rows", n, node, len(rows.Maglev))
			}
		}
	}
}

// Nodes of different versions must choose alike: the tables are part of what a release
// promises. A change here needs a plan for the upgrade of a cluster.
func TestMaglevStaysAsItIs(t *testing.T) {
	for n, want := range map[int]uint32{2: 0x9116af5f, 100: 0x72644081} {
		at := make([]netip.AddrPort, n)
		for i := range at {
			at[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 8080)
		}
		var raw []byte
		for _, slot := range maglevTable(at, nil) {
			raw = binary.BigEndian.AppendUint16(raw, slot)
		}
		if got := crc32.ChecksumIEEE(raw); got != want {
			t.Errorf("%d backends: the table has the checksum %#x, want %#x", n, got, want)
		}
	}
}

func BenchmarkMaglev(b *testing.B) {
	for _, n := range []int{5, 100, 1000} {
		at := backends(rand.New(rand.NewPCG(7, 8)), n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				maglevTable(at, nil)
			}
		})
	}
}

// Without some of them, the others keep all that they have and share the rest.
func TestMaglevWithout(t *testing.T) {
	for _, n := range []int{2, 3, 4, 7, 100} {
		var at []netip.AddrPort
		for i := range n {
			at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080))
		}
		whole := maglevTable(at, nil)
		for gone := range min(n, 5) {
			without := make([]bool, n)
			without[gone] = true
			if n > 3 {
				without[n-1] = true
			}
			counts := make([]int, n)
			for e, i := range maglevTable(at, without) {
				counts[i]++
				if was := whole[e]; !without[was] && i != was {
					t.Fatalf("%d backends without %d: entry %d of %d moves to %d", n, gone, e, was, i)
				}
			}
			left, least, most := 0, len(whole), 0
			for i, count := range counts {
				if without[i] {
					if count > 0 {
						t.Errorf("%d backends: %d, which is to get nothing, has %d entries", n, i, count)
					}
					continue
				}
				left++
				least, most = min(least, count), max(most, count)
			}
			if mean := len(whole) / left; most-mean > mean/4+2 || mean-least > mean/4+2 {
				t.Errorf("%d backends without %d: from %d to %d entries, mean %d", n, gone, least, most, mean)
			}
		}
	}
}
