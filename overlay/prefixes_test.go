package overlay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestClusterPrefixes(t *testing.T) {
	tests := []struct {
		name string
		in   [][]string // per node
		want []string
	}{
		{"none", nil, nil},
		{"two halves", [][]string{{"10.244.0.0/24"}, {"10.244.1.0/24"}}, []string{"10.244.0.0/23"}},
		{"neighbours of different parents", [][]string{{"10.244.1.0/24"}, {"10.244.2.0/24"}}, []string{"10.244.1.0/24", "10.244.2.0/24"}},
		{"four quarters, any order", [][]string{{"10.244.3.0/24"}, {"10.244.0.0/24"}, {"10.244.2.0/24"}, {"10.244.1.0/24"}}, []string{"10.244.0.0/22"}},
		{"contained and double", [][]string{{"10.244.0.0/16"}, {"10.244.7.0/24"}, {"10.244.0.0/16"}}, []string{"10.244.0.0/16"}},
		{"contained, then merged", [][]string{{"10.0.0.0/25", "10.0.0.0/24"}, {"10.0.1.0/24"}}, []string{"10.0.0.0/23"}},
		{"both families, unmasked", [][]string{{"10.244.1.9/24", "fd00:1::7/64"}}, []string{"10.244.1.0/24", "fd00:1::/64"}},
		{"all of IPv4", [][]string{{"0.0.0.0/1"}, {"128.0.0.0/1"}, {"::/1"}}, []string{"0.0.0.0/0", "::/1"}},
		{"invalid", [][]string{{}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var nodes []Node
			for i, p := range tt.in {
				nodes = append(nodes, Node{Name: fmt.Sprint(i), PodCIDRs: prefixList(p...)})
			}
			nodes = append(nodes, Node{Name: "x", PodCIDRs: []netip.Prefix{{}}})
			if d := diff(ClusterPrefixes(nodes), prefixList(tt.want...)); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}

// TestClusterPrefixesCoverTheSame compares with the plain meaning: an address is
// covered by the result if and only if it is by one of the inputs.
func TestClusterPrefixesCoverTheSame(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		var n Node
		for range 1 + r.IntN(12) {
			n.PodCIDRs = append(n.PodCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))}), 24+r.IntN(9)))
		}
		out := ClusterPrefixes([]Node{n})
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if got, want := contains(out, a), contains(n.PodCIDRs, a); got != want {
				t.Fatalf("seed %d: %s covered: got %v, want %v (%v from %v)", seed, a, got, want, out, n.PodCIDRs)
			}
		}
		for i := 1; i < len(out); i++ {
			if out[i-1].Overlaps(out[i]) {
				t.Fatalf("seed %d: %v overlap", seed, out)
			}
		}
	}
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func TestConflicts(t *testing.T) {
	nodes := []Node{
		{Name: "c", PodCIDRs: prefixList("10.244.1.0/24", "fd00::/64")},
		{Name: "a", PodCIDRs: prefixList("10.244.0.0/24", "fd00:1::/64")},
		{Name: "b", PodCIDRs: prefixList("10.244.0.0/16")},
		{Name: "d", PodCIDRs: prefixList("10.245.0.0/24", "10.245.0.0/25")}, // with itself: no conflict
	}
	got := Conflicts(nodes)
	want := []Conflict{
		{Winner: "a", Loser: "b", WinnerPrefix: netip.MustParsePrefix("10.244.0.0/24"), LoserPrefix: netip.MustParsePrefix("10.244.0.0/16")},
		{Winner: "b", Loser: "c", WinnerPrefix: netip.MustParsePrefix("10.244.0.0/16"), LoserPrefix: netip.MustParsePrefix("10.244.1.0/24")},
	}
	if d := diff(got, want); d != "" {
		t.Fatalf("(-got +want):\n%s", d)
	}
	rest := WithoutConflicts(nodes, got)
	for i, want := range [][]netip.Prefix{prefixList("fd00::/64"), nodes[1].PodCIDRs, {}, nodes[3].PodCIDRs} {
		if d := diff(rest[i].PodCIDRs, want); d != "" {
			t.Errorf("node %s (-got +want):\n%s", rest[i].Name, d)
		}
	}
	if len(nodes[0].PodCIDRs) != 2 {
		t.Error("WithoutConflicts changed its argument")
	}
}

func TestConflictsAgreeWithPairs(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		var nodes []Node
		for i := range 8 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(8)), 0})
			nodes = append(nodes, Node{Name: fmt.Sprint(i), PodCIDRs: []netip.Prefix{netip.PrefixFrom(a, 20+r.IntN(6)).Masked()}})
		}
		pairs := 0
		for i := range nodes {
			for j := range i {
				if nodes[i].PodCIDRs[0].Overlaps(nodes[j].PodCIDRs[0]) {
					pairs++
				}
			}
		}
		if got := len(Conflicts(nodes)); got != pairs {
			t.Fatalf("seed %d: got %d conflicts, want %d in %v", seed, got, pairs, nodes)
		}
	}
}

func TestNodeMAC(t *testing.T) {
	// FNV-1a 32 of 00…00 ffff c0000201 and of the IPv6 address' bytes.
	for a, want := range map[string]string{
		"192.0.2.1":        "0e57",
		"::ffff:192.0.2.1": "0e57",
		"2001:db8::1":      "0e57",
	} {
		got := NodeMAC(addr(a))
		if g := fmt.Sprintf("%x", got[:2]); g != want {
			t.Errorf("%s: got %x, want prefix %s", a, got, want)
		}
		var sum uint32 = 2166136261
		for _, b := range addr(a).As16() {
			sum = (sum ^ uint32(b)) * 16777619
		}
		if g, w := fmt.Sprintf("%x", got[2:]), fmt.Sprintf("%08x", sum); g != w {
			t.Errorf("%s: got %s, want %s", a, g, w)
		}
	}
	if NodeMAC(addr("192.0.2.1")) != NodeMAC(addr("::ffff:192.0.2.1")) {
		t.Error("a mapped address has another MAC")
	}
}

func TestPodMTU(t *testing.T) {
	up := func(mtus ...int) (out []Uplink) {
		for i, m := range mtus {
			out = append(out, Uplink{Index: i, MTU: m})
		}
		return out
	}
	over6 := []Peer{{Remote: addr("2001:db8::2")}}
	tests := []struct {
		name    string
		cfg     Config
		self    Node
		uplinks []Uplink
		peers   []Peer
		want    int
		wantErr bool
	}{
		{"IPv4 outer", Config{}, only4, up(1500), nil, 1450, false},
		{"IPv6 outer", Config{}, only6, up(1500), nil, 1430, false},
		{"narrowest uplink", Config{}, only4, up(9000, 1400), nil, 1350, false},
		{"a peer over IPv6", Config{}, dual4, up(1500), over6, 1430, false},
		{"direct", Config{Mode: ModeDirect}, dual4, up(1500), nil, 1500, false},
		{"auto keeps room", Config{Mode: ModeAuto}, dual4, up(1500), []Peer{{Remote: addr("192.0.2.2"), Direct: true}}, 1450, false},
		{"setting", Config{MTU: 1400}, dual4, up(1500), nil, 1400, false},
		{"setting without uplink", Config{MTU: 8900}, dual4, nil, nil, 8900, false},
		{"setting too small for IPv6", Config{MTU: 1279}, dual4, up(1500), nil, 1279, true},
		{"smallest for IPv6", Config{MTU: 1280}, dual4, up(1500), nil, 1280, false},
		{"IPv4 may be smaller", Config{MTU: 1279}, only4, up(1500), nil, 1279, false},
		{"too small", Config{MTU: 500}, only4, up(1500), nil, 500, true},
		{"uplink too narrow for IPv6", Config{}, only6, up(1300), nil, 1230, true},
		{"no uplink", Config{}, only4, nil, nil, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := PodMTU(tt.cfg, tt.self, tt.uplinks, tt.peers)
			if got != tt.want || (err != nil) != tt.wantErr {
				t.Errorf("got %d, %v, want %d, error: %v", got, err, tt.want, tt.wantErr)
			}
			if tt.wantErr && tt.uplinks != nil && !errors.Is(err, ErrMTU) {
				t.Errorf("got error %v, want %v", err, ErrMTU)
			}
		})
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]Mode{"": ModeVXLAN, "vxlan": ModeVXLAN, "direct": ModeDirect, "auto": ModeAuto, "Vxlan": "", "geneve": ""} {
		got, err := ParseMode(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}
