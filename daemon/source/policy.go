package source

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/labels"
)

// NetworkPolicy is what is kept of a NetworkPolicy object (networking.k8s.io/v1), with its
// defaults filled in.
type NetworkPolicy struct {
	Namespace, Name, UID string
	Pods                 labels.Selector // of its namespace
	Ingress, Egress      *PolicyRules    // nil: it does not isolate in that direction
	Problem              string          // what of it cannot be applied; "" if nothing
}

// PolicyRules are the rules of one direction; without any, nothing passes.
type PolicyRules struct{ Rules []PolicyRule }

// PolicyRule allows peers and ports; nil is all of them.
type PolicyRule struct {
	Peers []PolicyPeer
	Ports []PolicyPort
}

// PolicyPeer is a block of addresses, or pods.
type PolicyPeer struct {
	Block      *PolicyBlock    // nil: pods
	Namespaces labels.Selector // nil: the policy's own namespace
	Pods       labels.Selector // nil: all pods of these
}

// PolicyBlock is the addresses of a prefix (masked) but for those of others.
type PolicyBlock struct {
	CIDR   netip.Prefix
	Except []netip.Prefix
}

// PolicyPort is a range of ports of a protocol, or a port by its name in the pod that is
// reached. All ports of a protocol are 0 to 65535.
type PolicyPort struct {
	Protocol    Protocol // 0: any, of a port by name
	Name        string
	First, Last uint16
}

// ClusterPolicy is what is kept of a ClusterNetworkPolicy object
// (policy.networking.k8s.io/v1alpha2 of sigs.k8s.io/network-policy-api v0.2.0).
type ClusterPolicy struct {
	Name, UID       string
	Baseline        bool // its tier; else Admin
	Priority        int32
	Namespaces      labels.Selector // of the pods that it is about
	Pods            labels.Selector // nil: all of these
	Ingress, Egress []ClusterRule
	Problem         string // what of it cannot be applied; "" if nothing
}

// ClusterRule is what becomes of traffic with some peers. No peer is none: the rule matches
// nothing. Ports nil is all.
type ClusterRule struct {
	Name   string // "": it has none
	Action ClusterAction
	Peers  []ClusterPeer
	Ports  []PolicyPort
}

// ClusterAction is what a [ClusterRule] does.
type ClusterAction uint8

// Actions. Pass leaves the decision to what comes after the tier.
const (
	ClusterAccept ClusterAction = iota + 1
	ClusterDeny
	ClusterPass
)

// ClusterPeer is one of pods, nodes or addresses.
type ClusterPeer struct {
	Namespaces labels.Selector // of pods; nil: it is no pods
	Pods       labels.Selector // nil: all pods of these
	Nodes      labels.Selector // nil: it is no nodes
	Networks   []netip.Prefix
}
