package policy

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/daemon/source"
)

// describe says what a rule is about.
func (r *rule) describe(o origin, d direction) string {
	way := "from"
	if d == egress {
		way = "to"
	}
	return way + " " + peersText(o, d) + ", " + portsText(portsOf(o, d))
}

func portsOf(o origin, d direction) []source.PolicyPort {
	if o.policy.cluster != nil {
		return o.policy.clusterRules(d)[o.rule].Ports
	}
	return o.policy.rules(d).Rules[o.rule].Ports
}

func peersText(o origin, d direction) string {
	var parts []string
	if o.policy.cluster != nil {
		for _, p := range o.policy.clusterRules(d)[o.rule].Peers {
			parts = append(parts, clusterPeerText(p)...)
		}
	} else {
		rule := o.policy.rules(d).Rules[o.rule]
		if rule.Peers == nil {
			return "anywhere"
		}
		for _, p := range rule.Peers {
			parts = append(parts, peerText(o.policy.network.Namespace, p))
		}
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, " or ")
}

func peerText(namespace string, p source.PolicyPeer) string {
	switch {
	case p.Block != nil && len(p.Block.Except) > 0:
		return fmt.Sprintf("%s except %s", p.Block.CIDR, strings.Trim(fmt.Sprint(p.Block.Except), "[]"))
	case p.Block != nil:
		return p.Block.CIDR.String()
	case p.Namespaces == nil:
		return podsText(p.Pods) + " in " + namespace
	}
	return podsText(p.Pods) + " in " + spacesText(p.Namespaces)
}

func clusterPeerText(p source.ClusterPeer) (parts []string) {
	if p.Namespaces != nil {
		parts = append(parts, podsText(p.Pods)+" in "+spacesText(p.Namespaces))
	}
	if p.Nodes != nil {
		parts = append(parts, "nodes"+whereText(p.Nodes))
	}
	for _, n := range p.Networks {
		parts = append(parts, n.String())
	}
	return parts
}

func podsText(s labels.Selector) string { return "pods" + whereText(s) }

func spacesText(s labels.Selector) string {
	if selectorText(s) == "" {
		return "all namespaces"
	}
	return "namespaces" + whereText(s)
}

func whereText(s labels.Selector) string {
	switch selectorText(s) {
	case "":
		return ""
	case "!":
		return " (none)"
	}
	return " with " + s.String()
}

func portsText(ports []source.PolicyPort) string {
	if ports == nil {
		return "any port"
	}
	var parts []string
	for _, p := range ports {
		protocol := ""
		if p.Protocol != 0 {
			protocol = "/" + p.Protocol.String()
		}
		switch {
		case p.Name != "":
			parts = append(parts, "port "+p.Name+protocol)
		case p.First == 0 && p.Last == 65535:
			parts = append(parts, "any port"+protocol)
		case p.First == p.Last:
			parts = append(parts, fmt.Sprintf("port %d%s", p.First, protocol))
		default:
			parts = append(parts, fmt.Sprintf("ports %d-%d%s", p.First, p.Last, protocol))
		}
	}
	if len(parts) == 0 {
		return "no port"
	}
	return strings.Join(parts, ", ")
}
