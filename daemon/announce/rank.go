package announce

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
)

// Node is a node that may announce addresses.
type Node struct {
	Name  string
	Addrs []netip.Addr // as other nodes know it
}

// Ahead returns the names of those nodes that stand before self for an address, best
// first; false: self is not one of the nodes. Which node is the first differs from address
// to address (rendezvous hashing, Thaler and Ravishankar 1998): addresses spread over the
// nodes, and when a node goes only its own move.
func Ahead(a netip.Addr, self string, nodes []Node) ([]string, bool) {
	type scored struct {
		name  string
		score uint64
	}
	at := hash(string(a.AsSlice()))
	score := func(name string) scored { return scored{name, mix(at ^ hash(name))} }
	better := func(x, y scored) int { return cmp.Or(cmp.Compare(y.score, x.score), cmp.Compare(x.name, y.name)) }
	own, found := score(self), false
	var ahead []scored
	for _, n := range nodes {
		if n.Name == self {
			found = true
		} else if s := score(n.Name); better(s, own) < 0 {
			ahead = append(ahead, s)
		}
	}
	slices.SortFunc(ahead, better)
	names := make([]string, len(ahead))
	for i, s := range ahead {
		names[i] = s.name
	}
	return names, found
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return mix(h.Sum64())
}

// mix makes each bit of the result depend on each of h (the end of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Near returns those nodes that may be on the link of an address. If it lies in one of
// links, the prefixes of this node's own links, those are the nodes with an address in that
// prefix; a node that has none of that family may be there, too. Else all links are equally
// far, except that of nodes whose address has more leading bits in common with it: they may
// know a prefix in which it lies.
func Near(a netip.Addr, links []netip.Prefix, nodes []Node) []Node {
	var link netip.Prefix
	for _, p := range links {
		if p.Contains(a) && p.Bits() > link.Bits() {
			link = p
		}
	}
	var out []Node
	most := 0
	for _, n := range nodes {
		has, within, shared := false, false, 0
		for _, x := range n.Addrs {
			if x.BitLen() != a.BitLen() {
				continue
			}
			has, within = true, within || link.IsValid() && link.Contains(x)
			shared = max(shared, common(a, x))
		}
		switch {
		case link.IsValid() && (within || !has):
			out = append(out, n)
		case link.IsValid():
		case shared > most:
			most, out = shared, append(out[:0], n)
		case shared == most:
			out = append(out, n)
		}
	}
	return out
}

// common is how many leading bits two addresses of one family share.
func common(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	n := bits.LeadingZeros64(binary.BigEndian.Uint64(x[:8]) ^ binary.BigEndian.Uint64(y[:8]))
	if n == 64 {
		n += bits.LeadingZeros64(binary.BigEndian.Uint64(x[8:]) ^ binary.BigEndian.Uint64(y[8:]))
	}
	return n - (128 - a.BitLen())
}

// First is the best of the nodes for an address; empty: there is none.
func First(a netip.Addr, nodes []Node) string {
	at, best, first := hash(string(a.AsSlice())), uint64(0), ""
	for _, n := range nodes {
		s := mix(at ^ hash(n.Name))
		if first == "" || s > best || s == best && n.Name < first {
			best, first = s, n.Name
		}
	}
	return first
}
