package daemon

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// judgement is what the policies of one end make of a packet, in words.
func (p *policies) judgement(state source.State, e bpf.End, end api.DropEnd, direction string) api.Judgement {
	who := end.Pod
	if who == "" {
		who = end.Addr.String()
	}
	passes := func(why string) api.Judgement { return api.Judgement{Verdict: api.VerdictNone, Why: why} }
	switch {
	case !e.Here:
		return elsewhere(p.node, state, end, who)
	case e.Exempt == bpf.ExemptNode:
		return passes("the node itself always reaches its pods, and no policy isolates it")
	case e.Exempt == bpf.ExemptSelf:
		return passes("a pod always reaches itself")
	case e.Exempt == bpf.ExemptEcho:
		return passes("the Service's address answers by itself")
	case e.Set == 0:
		return passes(fmt.Sprintf("no policy is about the %s of %s", direction, who))
	}
	named, rule, why := p.because(e.Set, e.Rule)
	j := api.Judgement{Rule: rule, Why: why}
	if len(named) == 1 {
		j.Policy = named[0]
	}
	switch e.Verdict {
	case bpf.Allow:
		j.Verdict = api.VerdictAllowed
		if len(named) == 0 {
			j.Why = fmt.Sprintf("no policy denies it to the %s of %s, and none isolates it", direction, who)
		}
	case bpf.Deny:
		j.Verdict = api.VerdictDenied
	default:
		return passes("it does not come to that")
	}
	return j
}

// elsewhere is what can be said of an end that is not on this node, which is self.
func elsewhere(self string, state source.State, end api.DropEnd, who string) api.Judgement {
	node := end.Node
	if end.Pod == "" && node != "" {
		return api.Judgement{Verdict: api.VerdictNone, Why: fmt.Sprintf("%s is an address of node %s: no policy isolates a node", who, node)}
	}
	if node == "" {
		node = nodeOfPods(state, end.Addr)
	}
	if node == "" {
		return api.Judgement{Verdict: api.VerdictNone, Why: who + " is no pod's address: no policy isolates it"}
	}
	if node == self {
		return api.Judgement{Verdict: api.VerdictUnknown, Why: who + " is of this node, but not attached here (weft endpoints lists what is)"}
	}
	return api.Judgement{
		Verdict: api.VerdictUnknown, AskNode: node,
		Why: fmt.Sprintf("%s is on node %s, which knows: run the same command there", who, node),
	}
}

// nodeOfPods is the node in whose prefix of pods an address lies; "": none.
func nodeOfPods(state source.State, a netip.Addr) string {
	for _, n := range state.Nodes {
		for _, p := range n.PodCIDRs {
			if p.Contains(a) {
				return n.Name
			}
		}
	}
	return ""
}
