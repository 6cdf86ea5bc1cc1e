package bpf

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Flows are spread over the sets as if by lot, however alike they are; both rows of one are
// in the same, with different tags.
func TestHomesOfAllowedFlows(t *testing.T) {
	const sets, each = 1024, 8
	for name, flow := range map[string]func(i int) (src, dst netip.AddrPort){
		"ports that count up": func(i int) (src, dst netip.AddrPort) {
			return netip.AddrPortFrom(addr("10.0.0.1"), uint16(30000+i)), netip.AddrPortFrom(addr("10.0.0.2"), 80)
		},
		"ports of the same sum": func(i int) (src, dst netip.AddrPort) {
			return netip.AddrPortFrom(addr("10.0.0.1"), uint16(30000+i)), netip.AddrPortFrom(addr("10.0.0.2"), uint16(30000-i))
		},
		"addresses of IPv4": func(i int) (src, dst netip.AddrPort) {
			return netip.AddrPortFrom(addr("10.0.0.1"), 53), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 53)
		},
		"prefixes of IPv6": func(i int) (src, dst netip.AddrPort) {
			return netip.AddrPortFrom(addr("fd00::1"), 80), netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfc, byte(i >> 8), byte(i), 15: 1}), 80)
		},
		"the highest bits": func(i int) (src, dst netip.AddrPort) {
			return netip.AddrPortFrom(addr("fd00::1"), 80), netip.AddrPortFrom(netip.AddrFrom16([16]byte{7: byte(i), 14: byte(i >> 8), 15: byte(i)}), 80)
		},
	} {
		seed := rand.Uint64()
		keys := tupleKeys(seed)
		var load [sets]int
		for i := range sets * each {
			src, dst := flow(i)
			k := weftTuple{Src: toAddr(src.Addr()), Dst: toAddr(dst.Addr()), Sport: src.Port(), Dport: dst.Port(), Proto: uint8(TCP)}
			set, tag := homeOf(&keys, &k, sets)
			load[set]++
			k.Src, k.Dst, k.Sport, k.Dport = k.Dst, k.Src, k.Dport, k.Sport
			if other, otherTag := homeOf(&keys, &k, sets); other != set || otherTag == tag {
				t.Fatalf("%s, seed %#x: %v to %v is in set %d with tag %d, the other end's row in %d with %d", name, seed, src, dst, set, tag, other, otherTag)
			}
		}
		// Of 1,024 sets, one gets 35 by lot once in a billion times.
		most, empty := 0, 0
		for _, n := range load {
			most = max(most, n)
			if n == 0 {
				empty++
			}
		}
		if most > 35 || empty > 12 {
			t.Errorf("%s, seed %#x: of %d sets %d have no flow, and one has %d", name, seed, sets, empty, most)
		}
	}
}

// A new flow between two pods of the node, both isolated, does not push out its own row where
// all others of the set live.
func TestNewFlowAmongLiveOnesWithoutRoom(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := newLaneWith(t, v6, false, Options{MaxAllowed: 2, MaxAllowedNew: allowedWays})
		p.rules(t, setOut, 0, allowAll)
		p.isolate(t, p.client.Addr(), setIn, setOut)
		p.isolate(t, p.backend.Addr(), setOut, setIn)
		for port := range 3 * allowedWays {
			p.connect(t, 1000+port)
		}
		if n, err := p.AllowedFull(); err != nil || n == 0 {
			t.Errorf("v6=%v: counted %d flows without room (%v): there was some", v6, n, err)
		}
	}
}
