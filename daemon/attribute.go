package daemon

import (
	"fmt"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/policy"
	"github.com/weftnet/weft/internal/api"
)

// unknownYet is why nothing passes a pod that is closed.
const unknownYet = "which policies apply to the pod is not known yet"

// attribute says of a drop that was judged by a set which policy did it: by that rule of it,
// or by none, which denies what no rule allows.
func (p *policies) attribute(d *api.Drop, set bpf.RuleSet, rule uint16) {
	d.Policies, d.Rule, d.Why = p.because(set, rule)
}

// because is which policies decided by a rule of a set, which of their rules it was, and
// both in words.
func (p *policies) because(set bpf.RuleSet, rule uint16) (policies []string, ruleText, why string) {
	if set == bpf.RuleSetClosed {
		return nil, "", unknownYet
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.compiler.Attribution(set, rule)
	if a.Policy == "" {
		for _, name := range a.Isolating {
			policies = append(policies, kindNetworkPolicy+" "+name)
		}
		return policies, "", whyText(a)
	}
	ruleText = fmt.Sprintf("%s %d", a.Direction, a.Rule)
	if a.RuleName != "" {
		ruleText += " " + a.RuleName
	}
	return []string{a.Kind + " " + a.Policy}, ruleText, whyText(a)
}

func whyText(a policy.Attribution) string {
	if a.Direction == "" {
		return "policies that have changed since"
	}
	return a.String()
}
