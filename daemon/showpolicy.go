package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/policy"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// Kinds of policies.
const (
	kindNetworkPolicy = "NetworkPolicy"
	kindClusterPolicy = "ClusterNetworkPolicy"
)

// show is the policies of the cluster, as `weft policy` shows them: those of clusters in
// the order in which they decide, then those of namespaces.
func (p *policies) show() []api.Policy {
	state := p.source()
	locals := p.pods.locals(p.noLabels)
	podLabels := make([]labels.Set, len(locals))
	for i, l := range locals {
		podLabels[i] = l.Labels
		if pod := findPod(state.Pods, l.Namespace, l.Name); pod != nil {
			podLabels[i] = pod.Labels
		}
	}
	count := func(matches func(l policy.Local, podLabels labels.Set) bool) (n int) {
		for i, l := range locals {
			if matches(l, podLabels[i]) {
				n++
			}
		}
		return n
	}
	directions := func(ingress, egress bool) []string {
		out := []string{}
		if ingress {
			out = append(out, "ingress")
		}
		if egress {
			out = append(out, "egress")
		}
		return out
	}
	var out []api.Policy
	cluster := slices.SortedFunc(slices.Values(state.ClusterPolicies), func(a, b *source.ClusterPolicy) int {
		return cmp.Or(cmp.Compare(tierOf(a), tierOf(b)), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, c := range cluster {
		out = append(out, api.Policy{
			Kind: kindClusterPolicy, Name: c.Name, Tier: tierOf(c), Priority: c.Priority, Problem: c.Problem,
			Directions: directions(len(c.Ingress) > 0, len(c.Egress) > 0),
			Pods: count(func(l policy.Local, podLabels labels.Set) bool {
				ns := findNamespace(state.Namespaces, l.Namespace)
				return ns != nil && c.Namespaces != nil && c.Namespaces.Matches(labels.Set(ns.Labels)) &&
					(c.Pods == nil || c.Pods.Matches(podLabels))
			}),
		})
	}
	for _, n := range state.Policies {
		out = append(out, api.Policy{
			Kind: kindNetworkPolicy, Namespace: n.Namespace, Name: n.Name, Problem: n.Problem,
			Directions: directions(n.Ingress != nil, n.Egress != nil),
			Pods: count(func(l policy.Local, podLabels labels.Set) bool {
				return l.Namespace == n.Namespace && n.Pods.Matches(podLabels)
			}),
		})
	}
	return out
}

// tierOf is the tier of a policy; Admin sorts before Baseline.
func tierOf(c *source.ClusterPolicy) string {
	if c.Baseline {
		return "Baseline"
	}
	return "Admin"
}

// showPod is what policies mean for the attachments of this node that are named: NAME,
// NAMESPACE/NAME, or an address of it.
func (p *policies) showPod(name string) ([]api.PodPolicy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, err := p.pods.named(name)
	if err != nil {
		return nil, err
	}
	var out []api.PodPolicy
	for _, e := range found {
		shown := api.PodPolicy{Ref: e.pod.Ref, Namespace: e.pod.PodNamespace, Name: e.pod.PodName, Addrs: e.pod.Addrs}
		shown.Ingress, shown.Egress = podRules(e.isolation.Ingress), podRules(e.isolation.Egress)
		shown.Words = p.words(e)
		out = append(out, shown)
	}
	return out, nil
}

// words says what applies to a pod.
func (p *policies) words(e policyPod) []string {
	if _, known := p.compiler.Isolation(e.pod.Ref); known {
		return p.compiler.Describe(e.pod.Ref)
	}
	switch e.isolation {
	case endpoint.Isolation{}:
		return []string{"no policy is about pods of its namespace: everything passes"}
	case endpoint.Closed:
		return []string{"what applies is not known yet: nothing passes (weft status says why)"}
	}
	return []string{"the source has not told yet what applies: what did before is in force"}
}

func podRules(s bpf.RuleSet) api.PodRules {
	switch s {
	case 0:
		return api.PodRules{State: api.PodOpen}
	case bpf.RuleSetClosed:
		return api.PodRules{State: api.PodClosed}
	}
	return api.PodRules{State: api.PodIsolated, Set: fmt.Sprintf("%016x", uint64(s))}
}

// named is the attachments of the one pod of that name or address; an [*api.Error] if there
// is none, or more than one pod.
func (p *policyPods) named(name string) ([]policyPod, error) {
	at, _ := netip.ParseAddr(name)
	var found []policyPod
	var names []string
	for _, e := range p.all() {
		if slices.Contains(e.pod.Addrs, at.Unmap()) || e.pod.PodName == name && name != "" || namespaceOf(e.pod)+"/"+cmp.Or(e.pod.PodName, e.pod.ContainerID) == name {
			found = append(found, e)
			names = append(names, podText(e.pod))
		}
	}
	if len(found) == 0 {
		return nil, &api.Error{Code: api.CodeUnknown, Msg: fmt.Sprintf("there is no pod %s on this node (weft endpoints lists those that are)", name)}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 1 {
		return nil, &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("more than one pod is named %s: say which of %s", name, strings.Join(few(8, names), ", "))}
	}
	return found, nil
}

// findPod finds a pod in a list by namespace and name; nil: there is none.
func findPod(pods []*source.Pod, namespace, name string) *source.Pod {
	i, found := slices.BinarySearchFunc(pods, name, func(p *source.Pod, name string) int {
		return cmp.Or(cmp.Compare(p.Namespace, namespace), cmp.Compare(p.Name, name))
	})
	if !found {
		return nil
	}
	return pods[i]
}

func findNamespace(list []*source.Namespace, name string) *source.Namespace {
	i, found := slices.BinarySearchFunc(list, name, func(n *source.Namespace, name string) int { return cmp.Compare(n.Name, name) })
	if !found {
		return nil
	}
	return list[i]
}

// policyCounts is [policies] in numbers.
type policyCounts struct {
	network, cluster int            // policies
	sets             int            // different ones of this node's pods
	pods             map[string]int // by api.PodOpen and so on
}

func (p *policies) count() policyCounts {
	state := p.source()
	out := policyCounts{
		network: len(state.Policies), cluster: len(state.ClusterPolicies),
		pods: map[string]int{api.PodOpen: 0, api.PodIsolated: 0, api.PodClosed: 0},
	}
	sets := map[bpf.RuleSet]bool{}
	for _, e := range p.pods.all() {
		in, eg := podRules(e.isolation.Ingress).State, podRules(e.isolation.Egress).State
		switch {
		case in == api.PodClosed || eg == api.PodClosed:
			out.pods[api.PodClosed]++
		case in == api.PodIsolated || eg == api.PodIsolated:
			out.pods[api.PodIsolated]++
		default:
			out.pods[api.PodOpen]++
		}
		sets[e.isolation.Ingress], sets[e.isolation.Egress] = true, true
	}
	delete(sets, 0)
	delete(sets, bpf.RuleSetClosed)
	out.sets = len(sets)
	return out
}
