package overlay

import "net/netip"

// Tables and chains of netfilter that we write.
const (
	TableNAT         = "nat"
	TableFilter      = "filter"
	ChainPostrouting = "WEFT-POSTROUTING" // in nat, jumped to from the top of POSTROUTING
	ChainForward     = "WEFT-FORWARD"     // in filter, jumped to from the top of FORWARD
)

// ChainKey names one of our chains: the family and [TableNAT] or [TableFilter].
type ChainKey struct {
	IPv6  bool
	Table string
}

// Chain is one of our chains with the jump to it.
type Chain struct {
	// Rules are the chain's rules as `iptables -S` prints them, one to a line.
	Rules string
	// Odd is true in a dump if the jump is missing, not the first rule, not
	// alone or not plain, or if a copy is in the other back end.
	Odd bool
}

// SelfChains returns the chains that a node with the pod prefixes self needs in a
// cluster with the pod prefixes cluster (its own among them; see
// [ClusterPrefixes]). A family without a pod prefix has no chains; without
// masquerade there is none in nat. It is pure.
func SelfChains(self, cluster []netip.Prefix, masquerade bool) map[ChainKey]Chain { return nil }

// Chains is the target of our chains.
type Chains struct{}

// NewChains starts nothing. Which back end of iptables is used is decided at the
// first verb, and again whenever the kubelet's choice changes.
func NewChains() *Chains { return &Chains{} }

func (c *Chains) Dump() (map[ChainKey]Chain, error) { return map[ChainKey]Chain{}, nil }
func (c *Chains) Set(k ChainKey, v Chain) error     { return nil }
func (c *Chains) Delete(k ChainKey) error           { return nil }

// Backend says which back end is in use, "nft" or "legacy"; empty: none yet.
func (c *Chains) Backend() string { return "" }

// Remove deletes all our chains and jumps from both back ends, for uninstall.
func (c *Chains) Remove() error { return nil }
