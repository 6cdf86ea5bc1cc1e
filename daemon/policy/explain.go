package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// Attribution is what a rule of a set comes from. Without a Policy no rule decided: then
// Isolating names the NetworkPolicies because of which nothing else passes, if there are
// some.
type Attribution struct {
	Kind      string // NetworkPolicy, ClusterNetworkPolicy
	Policy    string // namespace/name, or name
	Rule      int    // from 0, in its direction
	RuleName  string // "": it has none
	Direction string // ingress, egress
	Isolating []string
}

func (a Attribution) String() string {
	switch {
	case a.Policy != "" && a.RuleName != "":
		return fmt.Sprintf("%s %s, %s rule %d (%s)", a.Kind, a.Policy, a.Direction, a.Rule, a.RuleName)
	case a.Policy != "":
		return fmt.Sprintf("%s %s, %s rule %d", a.Kind, a.Policy, a.Direction, a.Rule)
	case len(a.Isolating) > 0:
		return "default deny by " + strings.Join(a.Isolating, ", ")
	case a.Direction != "":
		return "no policy"
	}
	return "not known"
}

// Attribution tells what a rule of a set comes from, also of one of the last sets that
// went. Of a set that is not known it is the zero value.
func (c *Compiler) Attribution(id bpf.RuleSet, index uint16) Attribution {
	s := c.sets[id]
	for _, r := range c.retired {
		if s == nil && r.name == id {
			s = r
		}
	}
	if s == nil {
		return Attribution{}
	}
	a := Attribution{Direction: s.dir.String()}
	if int(index) < len(s.origins) && index != bpf.RuleNone {
		o := s.origins[index]
		a.Kind, a.Policy, a.Rule = o.policy.kind(), o.policy.name(), o.rule
		if o.policy.cluster != nil {
			a.RuleName = o.policy.clusterRules(s.dir)[o.rule].Name
		}
		return a
	}
	for _, p := range s.policies {
		if p.network != nil {
			a.Isolating = append(a.Isolating, p.name())
		}
	}
	return a
}

// Problems are what of the policies cannot be applied, in the order of their texts.
func (c *Compiler) Problems() []string {
	var out []string
	say := func(p *policy) {
		if t := p.problem(); t != "" {
			out = append(out, fmt.Sprintf("%s %s: %s", p.kind(), p.name(), t))
		}
	}
	for _, p := range c.policyOf {
		say(p)
	}
	for _, p := range c.cluster {
		say(p)
	}
	for _, s := range c.sets {
		if s.refs == 0 {
			continue
		}
		if s.problem != "" {
			out = append(out, fmt.Sprintf("nothing passes for %d pods (%s): %s; policies %s", s.refs, s.dir, s.problem, s.named()))
		} else if len(s.short) > 0 {
			out = append(out, fmt.Sprintf("%d kinds of peers of %d pods (%s) are denied, for lack of room; policies %s", len(s.short), s.refs, s.dir, s.named()))
		}
	}
	slices.Sort(out)
	return out
}

// named names the policies of a set, not more than a line can hold.
func (s *ruleSet) named() string {
	const most = 8
	var names []string
	for i, p := range s.policies {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(s.policies)-most))
			break
		}
		names = append(names, p.name())
	}
	return strings.Join(names, ", ")
}

// Stats are numbers of what is in force.
type Stats struct {
	Policies int // NetworkPolicies and ClusterNetworkPolicies
	Sets     int
	Classes  int
	Rows     int // of rules
	Closed   int // pods through which nothing passes, because they are not known or have no room
}

// Stats tells them.
func (c *Compiler) Stats() Stats {
	s := Stats{Policies: len(c.policyList) + len(c.clusterSet), Sets: len(c.sets), Classes: len(c.classes), Rows: c.rows}
	for _, l := range c.locals {
		if i, _ := c.isolation(l); i.Ingress == bpf.RuleSetClosed || i.Egress == bpf.RuleSetClosed {
			s.Closed++
		}
	}
	return s
}

// Describe says in lines of words what applies to a pod.
func (c *Compiler) Describe(ref api.Ref) []string {
	l := c.locals[ref]
	if l == nil || !l.known {
		return []string{"what applies is not known yet: nothing passes"}
	}
	var out []string
	for _, d := range directions {
		out = append(out, l.sets[d].describe(d)...)
	}
	return out
}

func (s *ruleSet) describe(d direction) []string {
	if s == nil {
		return []string{fmt.Sprintf("%s: not isolated, everything passes", d)}
	}
	if s.problem != "" {
		return []string{fmt.Sprintf("%s: nothing passes: %s", d, s.problem)}
	}
	out := []string{fmt.Sprintf("%s:", d)}
	for _, t := range s.tiers {
		for _, r := range t {
			o := s.origins[r.index]
			out = append(out, fmt.Sprintf("  %s %s %s: %s", o.policy.name(), ruleText(o, d), verb(r.action), r.describe(o, d)))
		}
	}
	end := "  everything else passes"
	if s.isolates {
		var names []string
		for _, p := range s.policies {
			if p.network != nil {
				names = append(names, p.name())
			}
		}
		end = "  everything else is denied, by " + strings.Join(names, ", ")
	}
	return append(out, end)
}

func ruleText(o origin, d direction) string {
	if o.policy.cluster != nil {
		if n := o.policy.clusterRules(d)[o.rule].Name; n != "" {
			return fmt.Sprintf("rule %d (%s)", o.rule, n)
		}
	}
	return fmt.Sprintf("rule %d", o.rule)
}

func verb(a source.ClusterAction) string {
	switch a {
	case source.ClusterAccept:
		return "allows"
	case source.ClusterPass:
		return "passes to the next tier"
	}
	return "denies"
}
