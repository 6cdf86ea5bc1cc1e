package bpf

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Flows are spread over the sets as if by lot, however alike they are; both rows of one are
// in the same, with different tags.
func TestHomesOfAllowedFlows(t *testing.T) {
	t.Parallel()
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

// Flows from ports that follow each other, to one port, are near each other: 32 ports are in eight
// sets, four in each, and the next in the next eight. Eight in a row, or eight that are even, are
// in eight. Those to another port, or address, are elsewhere.
func TestHomesOfNearPorts(t *testing.T) {
	t.Parallel()
	const sets = 16384
	seed := rand.Uint64()
	keys := tupleKeys(seed)
	at := func(client, server string, sport, dport int) uint32 {
		k := weftTuple{Src: toAddr(addr(client)), Dst: toAddr(addr(server)), Sport: uint16(sport), Dport: uint16(dport), Proto: uint8(TCP)}
		set, _ := homeOf(&keys, &k, sets)
		return set
	}
	for _, pair := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
		first := at(pair[0], pair[1], 32768, 443)
		for port := 32768; port < 60992; port += 32 {
			load := map[uint32]int{}
			for i := range 32 {
				load[(at(pair[0], pair[1], port+i, 443)-first)%sets]++
			}
			for i := range uint32(8) {
				if n := load[uint32(port-32768)/4+i]; n != 4 || len(load) != 8 {
					t.Fatalf("seed %#x: ports %d to %d are in the sets %v behind %d", seed, port, port+31, load, first)
				}
			}
			for _, step := range []int{1, 2} {
				load := map[uint32]bool{}
				for i := range 8 {
					load[at(pair[0], pair[1], port+i*step, 443)] = true
				}
				if len(load) != 8 {
					t.Fatalf("seed %#x: eight ports from %d, each %d further, are in %d sets", seed, port, step, len(load))
				}
			}
		}
		port, address := at(pair[0], pair[1], 32768, 444), at(pair[0], addr(pair[1]).Next().String(), 32768, 443)
		if port-first < 16 && address-first < 16 { // by lot one in a million
			t.Errorf("seed %#x: what is to other places is in the sets %d and %d, too, beside %d", seed, port, address, first)
		}
	}
}

// A new flow between two pods of the node, both isolated, does not push out its own row where
// all others of the set live.
func TestNewFlowAmongLiveOnesWithoutRoom(t *testing.T) {
	t.Parallel()
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

// Rows of flows outlive a daemon and its layout, which judges them anew.
func TestAllowedFlowsOutliveLayouts(t *testing.T) {
	t.Parallel()
	dir := bpffs(t)
	p := newLaneWith(t, false, true, Options{Dir: dir})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	p.there(t, TCP, syn)
	p.back(t, TCP, syn|ack)
	p.there(t, TCP, ack)
	q := newLaneWith(t, false, true, Options{Dir: dir, MaxPeers: 32})
	if p.Layout() == q.Layout() {
		t.Fatal("the layout is the same")
	}
	q.rules(t, setOut, 0, allowAll)
	q.isolate(t, q.client.Addr(), setIn, setOut)
	q.walkThrough(t, "policy-ingress", []step{{"an answer", true, func() uint32 { return q.back(t, TCP, ack) }}})
	q.isolate(t, q.client.Addr(), setIn, setIn)
	q.walkThrough(t, "policy-egress", []step{{"an answer when it is denied", false, func() uint32 { return q.back(t, TCP, ack) }}})
}
