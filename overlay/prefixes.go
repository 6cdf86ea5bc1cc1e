package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Conflict is two nodes whose pod prefixes overlap.
type Conflict struct {
	Winner, Loser             string // the name that sorts first wins
	WinnerPrefix, LoserPrefix netip.Prefix
}

func (c Conflict) String() string {
	return fmt.Sprintf("pod prefix %s of node %s overlaps %s of node %s: give one of them another; until then %s keeps it",
		c.LoserPrefix, c.Loser, c.WinnerPrefix, c.Winner, c.Winner)
}

// claimed is one node's prefix.
type claimed struct {
	prefix netip.Prefix
	node   string
}

func claims(nodes []Node) []claimed {
	var out []claimed
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if p.IsValid() {
				out = append(out, claimed{p.Masked(), n.Name})
			}
		}
	}
	slices.SortFunc(out, func(a, b claimed) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			cmp.Compare(a.node, b.node))
	})
	return out
}

// Conflicts returns the pairs of nodes whose pod prefixes overlap, in the order
// of loser and winner. The node whose name sorts first keeps the prefix; whether
// we ourselves lose is for the caller to act on. See [WithoutConflicts].
func Conflicts(nodes []Node) []Conflict {
	var out []Conflict
	var open []claimed // prefixes that contain the current one, outermost first
	for _, c := range claims(nodes) {
		// Sorted by address and length, a prefix comes after those that contain it.
		open = slices.DeleteFunc(open, func(o claimed) bool { return !o.prefix.Contains(c.prefix.Addr()) })
		for _, o := range open {
			if o.node == c.node {
				continue
			}
			win, lose := o, c
			if c.node < o.node {
				win, lose = c, o
			}
			out = append(out, Conflict{Winner: win.node, Loser: lose.node, WinnerPrefix: win.prefix, LoserPrefix: lose.prefix})
		}
		open = append(open, c)
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Loser, b.Loser), cmp.Compare(a.Winner, b.Winner),
			a.LoserPrefix.Addr().Compare(b.LoserPrefix.Addr()), cmp.Compare(a.LoserPrefix.Bits(), b.LoserPrefix.Bits()))
	})
	return slices.Compact(out)
}

// WithoutConflicts returns the nodes without the prefixes that they lost.
func WithoutConflicts(nodes []Node, conflicts []Conflict) []Node {
	lost := map[claimed]bool{}
	for _, c := range conflicts {
		lost[claimed{c.LoserPrefix, c.Loser}] = true
	}
	out := slices.Clone(nodes)
	for i, n := range out {
		out[i].PodCIDRs = slices.DeleteFunc(slices.Clone(n.PodCIDRs), func(p netip.Prefix) bool {
			return lost[claimed{p.Masked(), n.Name}]
		})
	}
	return out
}

// ClusterPrefixes returns the pod prefixes of all nodes, merged to the fewest
// prefixes that cover exactly the same addresses: IPv4 first, in order.
func ClusterPrefixes(nodes []Node) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range claims(nodes) {
		p := c.prefix
		if n := len(out); n > 0 && out[n-1].Bits() <= p.Bits() && out[n-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) { // merge the two halves of one prefix
			a, b := out[n-2], out[n-1]
			if a.Bits() == 0 || a.Bits() != b.Bits() || a.Addr().Is4() != b.Addr().Is4() {
				break
			}
			parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if parent.Addr() != a.Addr() || !parent.Contains(b.Addr()) {
				break
			}
			out = append(out[:n-2], parent)
		}
	}
	return out
}
