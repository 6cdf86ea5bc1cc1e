package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/source"
)

type direction uint8

const (
	ingress direction = iota
	egress
)

var directions = [...]direction{ingress, egress}

func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

type tier uint8

const (
	admin tier = iota
	namespaced
	baseline
	tiers // how many there are
)

// policy is a NetworkPolicy or a ClusterNetworkPolicy.
type policy struct {
	tier    tier
	network *source.NetworkPolicy
	cluster *source.ClusterPolicy
	digests [2]*digest
}

// digest stands for the content of a policy in one direction.
type digest struct {
	sum   [sha256.Size]byte
	names []source.PolicyPort // ports by name
}

func (p *policy) kind() string {
	if p.network != nil {
		return "NetworkPolicy"
	}
	return "ClusterNetworkPolicy"
}

func (p *policy) name() string {
	if p.network != nil {
		return p.network.Namespace + "/" + p.network.Name
	}
	return p.cluster.Name
}

func (p *policy) problem() string {
	if p.network != nil {
		return p.network.Problem
	}
	return p.cluster.Problem
}

// rules are those of a NetworkPolicy in a direction; nil: it does not isolate.
func (p *policy) rules(d direction) *source.PolicyRules {
	if d == ingress {
		return p.network.Ingress
	}
	return p.network.Egress
}

func (p *policy) clusterRules(d direction) []source.ClusterRule {
	if d == ingress {
		return p.cluster.Ingress
	}
	return p.cluster.Egress
}

// addTo adds a policy where it says something.
func (p *policy) addTo(of *[2][]*policy) {
	for _, d := range directions {
		if p.network != nil && p.rules(d) != nil || p.cluster != nil && len(p.clusterRules(d)) > 0 {
			of[d] = append(of[d], p)
		}
	}
}

// updatePolicies takes note of the policies, and of which pods are to be asked again.
func (c *Compiler) updatePolicies(now []*source.NetworkPolicy, cluster []*source.ClusterPolicy) {
	diff(c.policyList, now, func(a, b *source.NetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}, func(o *source.NetworkPolicy) {
		x := c.policies[o.Namespace]
		x.remove(o.Pods, c.policyOf[o])
		if len(x.rest) == 0 && len(x.byLabel) == 0 {
			delete(c.policies, o.Namespace)
		}
		delete(c.policyOf, o)
		c.work.localsIn[o.Namespace] = struct{}{}
	}, func(o *source.NetworkPolicy) {
		p := &policy{tier: namespaced, network: o}
		x := c.policies[o.Namespace]
		if x == nil {
			x = &index[*policy]{}
			c.policies[o.Namespace] = x
		}
		x.add(o.Pods, p)
		c.policyOf[o] = p
		c.work.localsIn[o.Namespace] = struct{}{}
	})
	c.policyList = now

	diff(c.clusterSet, cluster, func(a, b *source.ClusterPolicy) int { return cmp.Compare(a.Name, b.Name) },
		func(o *source.ClusterPolicy) {
			c.cluster = slices.DeleteFunc(c.cluster, func(p *policy) bool { return p.cluster == o })
			c.work.allLocals = true
		},
		func(o *source.ClusterPolicy) {
			p := &policy{tier: admin, cluster: o}
			if o.Baseline {
				p.tier = baseline
			}
			at, _ := slices.BinarySearchFunc(c.cluster, p, compareCluster)
			c.cluster = slices.Insert(c.cluster, at, p)
			c.work.allLocals = true
		})
	c.clusterSet = cluster
}

func compareCluster(a, b *policy) int {
	return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(a.cluster.Priority, b.cluster.Priority),
		cmp.Compare(a.cluster.Name, b.cluster.Name))
}

// digest returns that of a direction.
func (p *policy) digest(d direction) *digest {
	if p.digests[d] == nil {
		t := &text{}
		if p.network != nil {
			t.network(p.network.Namespace, p.rules(d))
		} else {
			t.cluster(p.clusterRules(d))
		}
		p.digests[d] = &digest{sum: sha256.Sum256([]byte(t.String())), names: t.names}
	}
	return p.digests[d]
}

// text says what rules say, so that others say another.
type text struct {
	strings.Builder
	names []source.PolicyPort
}

func (t *text) network(namespace string, rules *source.PolicyRules) {
	fmt.Fprintf(t, "network %q\n", namespace)
	for _, r := range rules.Rules {
		fmt.Fprintf(t, "rule %t\n", r.Peers == nil)
		for _, p := range r.Peers {
			if p.Block != nil {
				fmt.Fprintf(t, "block %s %s\n", p.Block.CIDR, p.Block.Except)
				continue
			}
			fmt.Fprintf(t, "pods %t %q %q\n", p.Namespaces == nil, selectorText(p.Namespaces), selectorText(p.Pods))
		}
		t.ports(r.Ports)
	}
}

func (t *text) cluster(rules []source.ClusterRule) {
	t.WriteString("cluster\n")
	for _, r := range rules {
		fmt.Fprintf(t, "rule %d %q\n", r.Action, r.Name)
		for _, p := range r.Peers {
			if p.Namespaces != nil {
				fmt.Fprintf(t, "pods %q %q\n", selectorText(p.Namespaces), selectorText(p.Pods))
			}
			if p.Nodes != nil {
				fmt.Fprintf(t, "nodes %q\n", selectorText(p.Nodes))
			}
			fmt.Fprintf(t, "networks %s\n", p.Networks)
		}
		t.ports(r.Ports)
	}
}

func (t *text) ports(ports []source.PolicyPort) {
	fmt.Fprintf(t, "ports %t\n", ports == nil)
	for _, p := range ports {
		fmt.Fprintf(t, "%d %q %d-%d\n", p.Protocol, p.Name, p.First, p.Last)
		if p.Name != "" {
			t.names = append(t.names, p)
		}
	}
}
