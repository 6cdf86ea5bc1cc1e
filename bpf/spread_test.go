package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// What comes from outside is spread as chance would, though the kernel of a client gives it
// ports in steps of two. The squared deviations of three backends' shares, each divided by its
// expectation, have the mean 2 then (chi-squared); of so many samples it is beyond 3.2 once in
// some thousand choices of addresses, and these are always the same.
func TestFlowsFromOutsideAreSpreadAsByChance(t *testing.T) {
	t.Parallel()
	const samples, flows = 40, 600
	p := newLane(t, false, true)
	node := netip.AddrPortFrom(p.outer4, 30080)
	p.serve(t, 8, node, p.other.pod4, p.other.sib4, p.other.sib4.Next())
	// A table of the compiler's size for three, with equal shares in no order.
	order := rand.New(rand.NewPCG(1, 2)).Perm(307)
	s := p.Services()
	for block := range uint32((len(order) + MaglevBlock - 1) / MaglevBlock) {
		var row MaglevRow
		for i := range row {
			if at := int(block)*len(row) + i; at < len(order) {
				row[i] = uint16(order[at] % 3)
			}
		}
		must(t, s.Maglev.Set(Block{8, block}, row))
	}
	must(t, s.Sets.Set(8, Set{Count: 3, Maglev: uint32(len(order))}))
	sum := 0.0
	for i := range samples {
		count := map[netip.AddrPort]int{}
		client := addr(fmt.Sprintf("203.0.113.%d", i+1))
		for j := range flows {
			_, dst := p.enter(t, netip.AddrPortFrom(client, uint16(33000+100*i+2*j)), node, syn)
			count[dst]++
		}
		if len(count) != 3 {
			t.Fatalf("backends %v, want three", count)
		}
		for _, n := range count {
			off := float64(n) - flows/3
			sum += off * off / (flows / 3)
		}
	}
	mean := sum / samples
	t.Logf("mean %.2f", mean)
	if mean > 3.2 {
		t.Errorf("the shares differ by a mean of %.2f, want 2 within chance", mean)
	}
}
