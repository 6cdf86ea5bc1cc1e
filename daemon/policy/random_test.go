package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/daemon/source"
)

func (w *world) selector() labels.Selector {
	if w.yes(30) {
		return labels.Nothing()
	}
	var parts []string
	for _, k := range some(w, "app", "tier", "x") {
		if w.yes(2) {
			continue
		}
		parts = append(parts, fmt.Sprintf(pick(w, "%[1]s=%[2]d", "%[1]s!=%[2]d", "%[1]s", "!%[1]s", "%[1]s in (1,2)", "%[1]s notin (2,%[2]d)"), k, 1+w.IntN(3)))
	}
	s, err := labels.Parse(strings.Join(parts, ","))
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) spaces() labels.Selector {
	if w.yes(3) {
		return labels.SelectorFromSet(labels.Set{"kubernetes.io/metadata.name": pick(w, "a", "b", "c")})
	}
	return w.selector()
}

var blocks = []string{
	"0.0.0.0/0", "::/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.4/32", "10.244.0.0/29", "192.168.0.0/24", "192.168.0.1/32",
	"203.0.113.0/24", "203.0.113.128/25", "203.0.113.200/32", "fd00::/16", "fd00:244:0:1::/64", "fd00:244:0:1::4/128", "fd00::1/128",
	"2001:db8::/32", "2001:db8:1::/48", "::/64", "::ffff:0:0/96", "::ffff:203.0.113.0/120",
}

func (w *world) prefix() netip.Prefix { return netip.MustParsePrefix(pick(w, blocks...)) }

func (w *world) block() *source.PolicyBlock {
	b := &source.PolicyBlock{CIDR: w.prefix()}
	for range w.IntN(3) {
		if e := w.prefix(); e.Bits() > b.CIDR.Bits() && b.CIDR.Contains(e.Addr()) {
			b.Except = append(b.Except, e)
		}
	}
	return b
}

func (w *world) policyPorts(cluster bool) []source.PolicyPort {
	if w.yes(3) {
		return nil
	}
	out := []source.PolicyPort{}
	for range 1 + w.IntN(3) {
		p := source.PolicyPort{Protocol: pick(w, source.TCP, source.UDP, source.SCTP)}
		switch w.IntN(5) {
		case 0:
			p.First, p.Last = 0, 65535
		case 1:
			p.First, p.Last = pick[uint16](w, 1, 53, 80), pick[uint16](w, 80, 81, 8080, 65535)
		case 2, 3:
			p.First = pick[uint16](w, 53, 80, 81, 8080)
			p.Last = p.First
		case 4:
			p.Name = pick(w, portNames...)
			if cluster {
				p.Protocol = 0
			}
		}
		out = append(out, p)
	}
	return out
}

func (w *world) rules() *source.PolicyRules {
	if w.yes(3) {
		return nil
	}
	out := &source.PolicyRules{}
	for range w.IntN(3) {
		r := source.PolicyRule{Ports: w.policyPorts(false)}
		if !w.yes(5) {
			r.Peers = []source.PolicyPeer{}
		}
		for range w.IntN(3) {
			p := source.PolicyPeer{}
			switch w.IntN(4) {
			case 0:
				p.Block = w.block()
			case 1:
				p.Pods = w.selector()
			case 2:
				p.Namespaces = w.spaces()
			case 3:
				p.Namespaces, p.Pods = w.spaces(), w.selector()
			}
			r.Peers = append(r.Peers, p)
		}
		out.Rules = append(out.Rules, r)
	}
	return out
}

func (w *world) addPolicy() {
	p := &source.NetworkPolicy{
		Namespace: pick(w, "a", "b", "c", "d"), Name: fmt.Sprint("np", w.IntN(5)), Pods: w.selector(),
		Ingress: w.rules(), Egress: w.rules(),
	}
	compare := func(a, b *source.NetworkPolicy) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	}
	all := slices.DeleteFunc(slices.Clone(w.state.Policies), func(o *source.NetworkPolicy) bool { return compare(o, p) == 0 })
	w.state.Policies = append(all, p)
	slices.SortFunc(w.state.Policies, compare)
}

func (w *world) clusterRules() (out []source.ClusterRule) {
	for i := range w.IntN(4) {
		r := source.ClusterRule{Action: pick(w, source.ClusterAccept, source.ClusterDeny, source.ClusterPass), Ports: w.policyPorts(true)}
		if w.yes(2) {
			r.Name = fmt.Sprint("rule", i)
		}
		for range w.IntN(3) {
			switch w.IntN(4) {
			case 0:
				r.Peers = append(r.Peers, source.ClusterPeer{Networks: []netip.Prefix{w.prefix(), w.prefix()}})
			case 1:
				r.Peers = append(r.Peers, source.ClusterPeer{Nodes: w.selector()})
			case 2:
				r.Peers = append(r.Peers, source.ClusterPeer{Namespaces: w.spaces()})
			case 3:
				r.Peers = append(r.Peers, source.ClusterPeer{Namespaces: w.spaces(), Pods: w.selector()})
			}
		}
		out = append(out, r)
	}
	return out
}

func (w *world) addCluster() {
	if !w.cluster {
		return
	}
	p := &source.ClusterPolicy{
		Name: fmt.Sprint("cnp", w.IntN(5)), Baseline: w.yes(2), Priority: int32(w.IntN(4)), Namespaces: w.spaces(),
		Ingress: w.clusterRules(), Egress: w.clusterRules(),
	}
	if w.yes(2) {
		p.Pods = w.selector()
	}
	all := slices.DeleteFunc(slices.Clone(w.state.ClusterPolicies), func(o *source.ClusterPolicy) bool { return o.Name == p.Name })
	w.state.ClusterPolicies = append(all, p)
	slices.SortFunc(w.state.ClusterPolicies, func(a, b *source.ClusterPolicy) int { return strings.Compare(a.Name, b.Name) })
}
