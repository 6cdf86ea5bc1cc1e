package policy

import (
	"maps"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// denyAll is what stands for no rules where a row must be: a class that has none is
// treated as class 0.
var denyAll = []bpf.Rule{{First: 0, Last: 65535, Index: bpf.RuleNone, Verdict: bpf.Deny}}

// writeRules makes the rows of sets and classes that are new, and removes those of classes
// that went.
func (c *Compiler) writeRules() {
	for cl := range c.work.classes {
		if cl.refs > 0 || cl == c.zero {
			continue
		}
		for s := range c.setsOf(cl) {
			c.drop(s, cl)
		}
		delete(c.classes, cl.key)
	}
	for _, s := range c.work.newSets {
		if s.problem == "" {
			c.writeSet(s)
		}
	}
	for cl := range c.work.classes {
		if cl.refs == 0 {
			continue
		}
		for s := range c.setsOf(cl) {
			c.writeClass(s, cl)
		}
	}
	c.retry()
}

// writeSet makes the rows of a set.
func (c *Compiler) writeSet(s *ruleSet) {
	s.base = c.flattenFor(s, c.zero)
	c.write(s, c.zero, s.base)
	for _, cl := range c.classes {
		c.writeClass(s, cl)
	}
}

// setsOf is the sets to which a class makes a difference.
func (c *Compiler) setsOf(cl *class) map[*ruleSet]struct{} {
	sets := map[*ruleSet]struct{}{}
	cl.key.each(func(a *atom) {
		maps.Copy(sets, a.sets)
		if a.kind == portAtom {
			maps.Copy(sets, c.ports[a.name])
		}
	})
	return sets
}

// writeClass makes the rows of a class in a set, if they are not those of class 0.
func (c *Compiler) writeClass(s *ruleSet, cl *class) {
	if _, has := s.rows[cl]; has || cl == c.zero || s.problem != "" && !s.full {
		return
	}
	concerned := false
	cl.key.each(func(a *atom) {
		if concerned {
			return
		}
		if _, concerned = a.sets[s]; !concerned && a.kind == portAtom {
			_, concerned = s.ports[a.name]
		}
	})
	if !concerned {
		return
	}
	if s.full {
		s.short[cl] = struct{}{}
		return
	}
	rules := c.flattenFor(s, cl)
	if slices.Equal(rules, s.base) {
		return
	}
	if len(rules) == 0 {
		rules = denyAll
	}
	c.write(s, cl, rules)
}

// flattenFor returns the rules of a set for a class.
func (c *Compiler) flattenFor(s *ruleSet, cl *class) []bpf.Rule {
	c.gen++
	var ports []*atom
	cl.key.each(func(a *atom) {
		a.mark = c.gen
		if a.kind == portAtom {
			ports = append(ports, a)
		}
	})
	return c.flat.flatten(s, func(a *atom) bool { return a.mark == c.gen }, func(w source.PolicyPort, f func(source.PolicyPort)) {
		for _, a := range ports {
			if a.name == w.Name && (w.Protocol == 0 || w.Protocol == a.proto) {
				f(source.PolicyPort{Protocol: a.proto, First: a.port, Last: a.port})
			}
		}
	})
}
