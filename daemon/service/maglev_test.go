package service

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
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
	for _, n := range []int{1, 2, 3, 7, 50, 100, 300, 1000} {
		at := backends(rnd, n)
		table := maglevTable(at)
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

// Without one backend, hardly any entry moves between the others, and none of its own
// stays. 2 % is what a node that takes over another's flows may choose otherwise.
func TestMaglevMovesFew(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{3, 10, 40, 100, 190} {
		worst := 0.0
		for range 10 {
			at := backends(rnd, n)
			gone := rnd.IntN(n)
			rest := slices.Delete(slices.Clone(at), gone, gone+1)
			before, after := maglevTable(at), maglevTable(rest)
			if len(before) != len(after) {
				t.Fatalf("%d backends: the size changes from %d to %d", n, len(before), len(after))
			}
			others, moved := 0, 0
			for i, slot := range before {
				if int(slot) == gone {
					continue
				}
				others++
				if at[slot] != rest[after[i]] {
					moved++
				}
			}
			worst = max(worst, float64(moved)/float64(others))
		}
		t.Logf("%d backends, %d entries: without one, %.2f %% of the others' move", n, maglevSize(n), 100*worst)
		if n >= 100 && worst > 0.02 {
			t.Errorf("%d backends: without one, %.2f %% of the others' entries move, want at most 2 %%", n, 100*worst)
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
		for _, slot := range maglevTable(at) {
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
				maglevTable(at)
			}
		})
	}
}
