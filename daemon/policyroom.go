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
// classes that these go by, could be written. Whoever has such a set keeps the one it has.
//
// Without a class an address counts as one that no selector matches. That denies what is to
// be allowed, but it would also let pass what is to be denied by name: where a set has such
// rules it is refused, too.
func (p *policies) refuse() {
	p.refused = map[bpf.RuleSet]error{}
	p.rules.Missing(func(k bpf.RuleKey, err error) {
		p.refused[k.Set] = err
	})
	var unclassed error
	p.classes.Missing(func(_ netip.Prefix, err error) { unclassed = err })
	if unclassed == nil {
		return
	}
	for _, s := range p.compiler.Denying() {
		p.refused[s] = errors.Join(p.refused[s], unclassed)
	}
}

// refusals says whose policies are not in force for want of room.
func (p *policies) refusals() []string {
	var out []string
	for _, set := range slices.Sorted(maps.Keys(p.refused)) {
		out = append(out, fmt.Sprintf("%s: not in force, pods that it isolates keep what they had or are closed: %v",
			p.compiler.Of(set), p.refused[set]))
	}
	return out
}

// prune deletes rules that nobody wants and no pod has in force.
func (p *policies) prune() error {
	if len(p.refused) == 0 {
		return p.rules.Prune()
	}
	used := map[bpf.RuleSet]bool{}
	for _, e := range p.pods.all() {
		used[e.isolation.Ingress], used[e.isolation.Egress] = true, true
	}
	return p.rules.PruneBut(func(k bpf.RuleKey) bool { return used[k.Set] })
}
