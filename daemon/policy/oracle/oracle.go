// Package oracle says what network policies mean, by reading the objects for each question
// anew. It is for tests: it is slow, and shares nothing with what it judges.
package oracle

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/daemon/source"
)

// Attachment is what a node's daemon knows of a pod that it attached.
type Attachment struct {
	Namespace, Name string
	Labels          map[string]string // if the state has no Pod of that name
	Addrs           []netip.Addr
}

// World is all that a verdict depends on.
type World struct {
	source.State
	Attached []Attachment // to the node that judges; may be empty
}

// Verdict is what becomes of a packet, and why.
type Verdict struct {
	Allowed bool
	// By is the rule that decided: kind, name, direction, index; "": none did.
	By string
	// Isolated: a NetworkPolicy isolates the pod in that direction.
	Isolated bool
}

// Allowed says whether a connection from one pod to another passes at both: of source and
// destination address, with the destination's port. Addresses that no pod has do not judge.
func (w World) Allowed(from, to netip.Addr, protocol source.Protocol, port uint16) bool {
	if src := w.podAt(from); src != nil {
		if !w.Judge(src, false, to, protocol, port).Allowed {
			return false
		}
	}
	if dst := w.podAt(to); dst != nil {
		return w.Judge(dst, true, from, protocol, port).Allowed
	}
	return true
}

// Judge says what becomes of a connection of a pod with remote: of one to the pod's own
// port, or of one to remote's. Protocols without ports have port 0.
func (w World) Judge(pod *source.Pod, ingress bool, remote netip.Addr, protocol source.Protocol, port uint16) Verdict {
	if pod.HostNetwork {
		return Verdict{Allowed: true}
	}
	q := question{World: w, pod: pod, ingress: ingress, remote: remote, protocol: protocol, port: port, peer: w.podAt(remote)}
	if v, decided := q.tier(false); decided {
		return v
	}
	if v, decided := q.networkPolicies(); decided {
		return v
	}
	if v, decided := q.tier(true); decided {
		return v
	}
	return Verdict{Allowed: true}
}

// Pod is the Pod of a name, or what is known of the attachment of that name; nil: nothing.
func (w World) Pod(namespace, name string) *source.Pod {
	for _, p := range w.Pods {
		if p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	for _, a := range w.Attached {
		if a.Namespace == namespace && a.Name == name && a.Labels != nil {
			return &source.Pod{Namespace: namespace, Name: name, Labels: a.Labels}
		}
	}
	return nil
}

// podAt is the pod that has an address; nil: none has.
func (w World) podAt(addr netip.Addr) *source.Pod {
	type claim struct {
		pod      *source.Pod
		strength int
	}
	var claims []claim
	here := map[string]bool{}
	for _, a := range w.Attached {
		here[a.Namespace+"/"+a.Name] = true
		if !slices.Contains(a.Addrs, addr) {
			continue
		}
		p := w.Pod(a.Namespace, a.Name)
		if p == nil || slices.IndexFunc(w.Pods, func(q *source.Pod) bool { return q == p }) < 0 {
			p = &source.Pod{Namespace: a.Namespace, Name: a.Name, Labels: a.Labels}
			if a.Labels == nil { // nothing is known of it but that it has the address
				p.Finished = true
			}
		}
		claims = append(claims, claim{p, 3})
	}
	for _, p := range w.Pods {
		switch {
		case here[p.Namespace+"/"+p.Name] || p.HostNetwork || p.Finished:
		case slices.Contains(p.IPs, addr):
			claims = append(claims, claim{p, 2})
		case len(p.IPs) == 0 && slices.Contains(p.Announced, addr) && w.ofNode(p.Node, addr):
			claims = append(claims, claim{p, 1})
		}
	}
	if len(claims) == 0 {
		return nil
	}
	slices.SortStableFunc(claims, func(a, b claim) int {
		if a.strength != b.strength {
			return b.strength - a.strength
		}
		if a.pod.Terminating != b.pod.Terminating {
			if a.pod.Terminating {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.pod.Namespace, b.pod.Namespace), cmp.Compare(a.pod.Name, b.pod.Name))
	})
	return claims[0].pod
}

// ofNode says whether an address is one that a node may give to a pod.
func (w World) ofNode(name string, addr netip.Addr) bool {
	for _, n := range w.Nodes {
		for _, p := range n.PodCIDRs {
			if n.Name == name && p.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// question is one packet at one end.
type question struct {
	World
	pod, peer *source.Pod // peer is nil if remote is no pod's
	ingress   bool
	remote    netip.Addr
	protocol  source.Protocol
	port      uint16
}

func (q *question) by(kind, name string, rule int) string {
	direction := "egress"
	if q.ingress {
		direction = "ingress"
	}
	return fmt.Sprintf("%s %s %s %d", kind, name, direction, rule)
}

// tier asks the ClusterNetworkPolicies of one tier.
func (q *question) tier(baseline bool) (v Verdict, decided bool) {
	policies := slices.Clone(q.ClusterPolicies)
	slices.SortStableFunc(policies, func(a, b *source.ClusterPolicy) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range policies {
		if p.Baseline != baseline || !q.spaceMatches(q.pod.Namespace, p.Namespaces) || !chosen(p.Pods, q.pod.Labels) {
			continue
		}
		rules := p.Egress
		if q.ingress {
			rules = p.Ingress
		}
		for i, r := range rules {
			if !slices.ContainsFunc(r.Peers, q.clusterPeer) || !q.portMatches(r.Ports) {
				continue
			}
			switch r.Action {
			case source.ClusterPass:
				return Verdict{}, false
			case source.ClusterAccept:
				return Verdict{Allowed: true, By: q.by("ClusterNetworkPolicy", p.Name, i)}, true
			}
			return Verdict{By: q.by("ClusterNetworkPolicy", p.Name, i)}, true
		}
	}
	return Verdict{}, false
}

// networkPolicies asks the NetworkPolicies.
func (q *question) networkPolicies() (v Verdict, decided bool) {
	for _, p := range q.Policies {
		if p.Namespace != q.pod.Namespace || !chosen(p.Pods, q.pod.Labels) {
			continue
		}
		rules := p.Egress
		if q.ingress {
			rules = p.Ingress
		}
		if rules == nil {
			continue
		}
		v.Isolated = true
		for i, r := range rules.Rules {
			peers := r.Peers == nil || slices.ContainsFunc(r.Peers, func(x source.PolicyPeer) bool { return q.peerMatches(p.Namespace, x) })
			if peers && q.portMatches(r.Ports) && v.By == "" {
				v.Allowed, v.By = true, q.by("NetworkPolicy", p.Namespace+"/"+p.Name, i)
			}
		}
	}
	return v, v.Isolated
}

func (q *question) peerMatches(namespace string, p source.PolicyPeer) bool {
	if p.Block != nil {
		return q.blockMatches(*p.Block)
	}
	if !q.isPod() {
		return false
	}
	if p.Namespaces == nil {
		return q.peer.Namespace == namespace && chosen(p.Pods, q.peer.Labels)
	}
	return q.spaceMatches(q.peer.Namespace, p.Namespaces) && chosen(p.Pods, q.peer.Labels)
}

func (q *question) clusterPeer(p source.ClusterPeer) bool {
	switch {
	case p.Namespaces != nil:
		return q.isPod() && q.spaceMatches(q.peer.Namespace, p.Namespaces) && chosen(p.Pods, q.peer.Labels)
	case p.Nodes != nil:
		return slices.ContainsFunc(q.nodesAt(), func(n *source.Node) bool { return chosen(p.Nodes, n.Labels) })
	}
	return slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return q.blockMatches(source.PolicyBlock{CIDR: n}) })
}

// isPod says whether selectors of pods can match the peer.
func (q *question) isPod() bool { return q.peer != nil && !q.peer.Finished && !q.peer.HostNetwork }

// nodesAt is the nodes whose own traffic comes from remote.
func (q *question) nodesAt() (out []*source.Node) {
	for _, n := range q.Nodes {
		gateway := slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool {
			return p.Addr().BitLen()-p.Bits() >= 2 && p.Addr().Next() == q.remote
		})
		if gateway || slices.Contains(n.InternalIPs, q.remote) {
			out = append(out, n)
		}
	}
	return out
}

// blockMatches judges a node's gateway by the node's own addresses.
func (q *question) blockMatches(b source.PolicyBlock) bool {
	var stand []netip.Addr
	for _, n := range q.nodesAt() {
		if slices.Contains(n.InternalIPs, q.remote) {
			return inBlock(b, q.remote)
		}
		for _, ip := range n.InternalIPs {
			if ip.Is4() == q.remote.Is4() {
				stand = append(stand, ip)
			}
		}
	}
	if len(stand) == 0 {
		stand = []netip.Addr{q.remote}
	}
	return slices.ContainsFunc(stand, func(a netip.Addr) bool { return inBlock(b, a) })
}

func inBlock(b source.PolicyBlock, a netip.Addr) bool {
	return b.CIDR.Contains(a) && !slices.ContainsFunc(b.Except, func(e netip.Prefix) bool { return e.Contains(a) })
}

// portMatches judges by the ports of who is reached: the pod itself, or the peer.
func (q *question) portMatches(ports []source.PolicyPort) bool {
	if ports == nil {
		return true
	}
	reached := q.peer
	if q.ingress {
		reached = q.pod
	}
	for _, p := range ports {
		if p.Name == "" {
			if p.Protocol == q.protocol && p.First <= q.port && q.port <= p.Last {
				return true
			}
			continue
		}
		if reached == nil || !q.ingress && !q.isPod() {
			continue
		}
		for _, has := range reached.Ports {
			if has.Name == p.Name && (p.Protocol == 0 || p.Protocol == has.Protocol) && has.Protocol == q.protocol && has.Port == q.port {
				return true
			}
		}
	}
	return false
}

func (q *question) spaceMatches(name string, s labels.Selector) bool {
	for _, n := range q.Namespaces {
		if n.Name == name {
			return chosen(s, n.Labels)
		}
	}
	return false
}

func chosen(s labels.Selector, set map[string]string) bool {
	return s == nil || s.Matches(labels.Set(set))
}
