package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
)

// Denying returns the sets that deny some peers by name: to them an address without its
// class may be one that passes.
func (c *Compiler) Denying() []bpf.RuleSet {
	var out []bpf.RuleSet
	for id, s := range c.sets {
		if s.denies {
			out = append(out, id)
		}
	}
	return out
}

// Excepting returns the sets with blocks that do not match all addresses in them: one
// without its class may count as of such a block. To the map of classes ::/0 holds the
// addresses of IPv4, too.
func (c *Compiler) Excepting() []bpf.RuleSet {
	v4 := netip.AddrFrom16(netip.IPv4Unspecified().As16())
	var out []bpf.RuleSet
	for id, s := range c.sets {
		if slices.ContainsFunc(s.atoms, func(a *atom) bool {
			b := a.block.CIDR
			return len(a.block.Except) > 0 || b.Addr().Is6() && b.Bits() <= 96 && b == netip.PrefixFrom(v4, b.Bits()).Masked()
		}) {
			out = append(out, id)
		}
	}
	return out
}

// Of names the policies of a set, if it is known.
func (c *Compiler) Of(id bpf.RuleSet) string {
	if s := c.sets[id]; s != nil {
		return s.named()
	}
	return "of before"
}
