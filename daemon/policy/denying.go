package policy

import "github.com/weftnet/weft/bpf"

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

// Of names the policies of a set, if it is known.
func (c *Compiler) Of(id bpf.RuleSet) string {
	if s := c.sets[id]; s != nil {
		return s.named()
	}
	return "of before"
}
