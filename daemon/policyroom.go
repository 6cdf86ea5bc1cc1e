package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
)

// refuse finds out which sets cannot be in force, because not all of their rules, or of the
// classes that these go by, could be written. Whoever is to have such a set keeps the one it
// has.
//
// Where a row is missing an address counts as one that no selector matches. That only denies
// what is to be allowed, so a set that is in force already may stay; unless it denies some
// peers by name, or excepts some from a block, which might now pass.
func (p *policies) refuse() {
	p.refused, p.short = map[bpf.RuleSet]error{}, map[bpf.RuleSet]error{}
	missing := map[bpf.RuleSet]error{}
	p.rules.Missing(func(k bpf.RuleKey, err error) { missing[k.Set] = err })
	var unclassed error
	p.classes.Missing(func(_ netip.Prefix, err error) { unclassed = err })
	if len(missing) == 0 && unclassed == nil {
		return
	}
	denying := map[bpf.RuleSet]bool{}
	for _, s := range p.compiler.Denying() {
		if denying[s] = true; unclassed != nil {
			missing[s] = errors.Join(missing[s], unclassed)
		}
	}
	if unclassed != nil {
		for _, s := range p.compiler.Excepting() {
			denying[s], missing[s] = true, errors.Join(missing[s], unclassed)
		}
	}
	used := p.used()
	for s, err := range missing {
		if used[s] && !denying[s] {
			p.short[s] = err
		} else {
			p.refused[s] = err
		}
	}
}

// used is the sets that pods have in force.
func (p *policies) used() map[bpf.RuleSet]bool {
	used := map[bpf.RuleSet]bool{}
	for _, e := range p.pods.all() {
		used[e.isolation.Ingress], used[e.isolation.Egress] = true, true
	}
	return used
}

// refusals says whose policies are not wholly in force for want of room.
func (p *policies) refusals() []string {
	var out []string
	say := func(sets map[bpf.RuleSet]error, text string) {
		for _, set := range slices.Sorted(maps.Keys(sets)) {
			out = append(out, fmt.Sprintf("policies %s: %s: %v", p.compiler.Of(set), text, sets[set]))
		}
	}
	say(p.refused, "not in force together, pods that they isolate keep what they had or are closed")
	say(p.short, "something that they allow is denied")
	return out
}

// prune deletes rules that nobody wants and no pod has in force.
func (p *policies) prune() error {
	if len(p.refused) == 0 {
		return p.rules.Prune()
	}
	used := p.used()
	return p.rules.PruneBut(func(k bpf.RuleKey) bool { return used[k.Set] })
}
