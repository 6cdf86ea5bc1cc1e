package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

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

// chain and base are our chain and the one that jumps to it.
func (k ChainKey) chain() string {
	if k.Table == TableNAT {
		return ChainPostrouting
	}
	return ChainForward
}

func (k ChainKey) base() string { return strings.TrimPrefix(k.chain(), "WEFT-") }

func (k ChainKey) String() string {
	if k.IPv6 {
		return "IPv6 " + k.Table + " " + k.chain()
	}
	return "IPv4 " + k.Table + " " + k.chain()
}

var chainKeys = []ChainKey{{false, TableNAT}, {false, TableFilter}, {true, TableNAT}, {true, TableFilter}}

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
// masquerade there is none in nat. ports are those that masqueraded traffic comes from;
// see [MasqueradePorts]. It is pure.
//
// Between pods, and to and from them, everything is forwarded but what a pod sends to
// the overlay's UDP port outside of the cluster: masqueraded to this node's address it
// would be believed to be this node's, whatever source a pod has put inside.
//
// What a socket of the node sends to other nodes' pods from another address than the
// gateway, as it is bound to that, is masqueraded, too: the overlay takes from a node what
// comes from its pod prefixes.
func SelfChains(self, cluster []netip.Prefix, masquerade bool, port uint16, ports PortRange) map[ChainKey]Chain {
	chains := map[ChainKey]Chain{}
	for _, v6 := range []bool{false, true} {
		own, all := ofFamilyPrefixes(self, v6), ofFamilyPrefixes(cluster, v6)
		if len(own) == 0 {
			continue
		}
		k := ChainKey{v6, TableFilter}
		chains[k] = Chain{Rules: fmt.Sprintf("-A %[1]s -o weft+ -j ACCEPT\n"+
			"-A %[1]s -i weft+ -p udp -m udp --dport %[2]d -j DROP\n"+
			"-A %[1]s -i weft+ -j ACCEPT\n", k.chain(), port)}
		if !masquerade {
			continue
		}
		k.Table = TableNAT
		multicast := netip.MustParsePrefix("224.0.0.0/4")
		if v6 {
			multicast = netip.MustParsePrefix("ff00::/8")
		}
		var b strings.Builder
		fmt.Fprintf(&b, "-A %s%s -j RETURN\n", k.chain(), match("-d", multicast))
		for _, p := range own {
			fmt.Fprintf(&b, "-A %s%s -o %s -j RETURN\n", k.chain(), match("-s", p), DeviceName)
		}
		fmt.Fprintf(&b, "-A %s -o %s -j MASQUERADE\n", k.chain(), DeviceName)
		for _, p := range all {
			fmt.Fprintf(&b, "-A %s%s -j RETURN\n", k.chain(), match("-d", p))
		}
		for _, p := range own {
			for _, protocol := range []string{"tcp", "udp", "sctp"} {
				fmt.Fprintf(&b, "-A %s%s -p %s -j MASQUERADE --to-ports %s --random-fully\n", k.chain(), match("-s", p), protocol, ports)
			}
			fmt.Fprintf(&b, "-A %s%s -j MASQUERADE --random-fully\n", k.chain(), match("-s", p))
		}
		chains[k] = Chain{Rules: b.String()}
	}
	return chains
}

// ofFamilyPrefixes returns the prefixes of a family, merged and in order.
func ofFamilyPrefixes(prefixes []netip.Prefix, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ClusterPrefixes([]Node{{PodCIDRs: prefixes}}) {
		if prefixIs6(p) == v6 {
			out = append(out, p)
		}
	}
	return out
}

// match is a match as iptables prints it: none for a prefix of no bits.
func match(flag string, p netip.Prefix) string {
	if p.Bits() == 0 {
		return ""
	}
	return " " + flag + " " + p.String()
}

// Chains is the target of our chains. It is safe for concurrent use.
type Chains struct {
	mu      sync.Mutex
	backend string
	tools   map[string]*tool
}

// NewChains starts nothing. Which back end of iptables is used is decided at the
// first verb, and again whenever the kubelet's choice changes.
func NewChains() *Chains { return &Chains{tools: map[string]*tool{}} }

// Backend says which back end is in use, "nft" or "legacy"; empty: none yet.
func (c *Chains) Backend() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backend
}

// Dump returns the chains of ours that are there in whole or in part, in either
// back end.
func (c *Chains) Dump() (map[ChainKey]Chain, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows := map[ChainKey]Chain{}
	if err := c.choose(); errors.Is(err, ErrNoIptables) {
		return rows, nil // then nobody can have made any; Set says what is missing
	} else if err != nil {
		return nil, err
	}
	for _, k := range chainKeys {
		s, err := c.read(c.backend, k)
		if err != nil {
			return nil, err
		}
		copied, err := c.present(otherBackend(c.backend), k)
		if err != nil {
			return nil, err
		}
		if s.exists || len(s.jumps) > 0 || copied {
			rows[k] = Chain{Rules: s.rules, Odd: copied || !s.exists || !s.plain}
		}
	}
	return rows, nil
}

// Set writes the chain and the jump in one transaction, and removes any copy in
// the other back end. [ErrNoIptables] if the commands are not installed.
func (c *Chains) Set(k ChainKey, v Chain) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.choose(); err != nil {
		return fmt.Errorf("set chain %s: %w", k, err)
	}
	if err := c.write(c.backend, k, v.Rules); err != nil {
		return fmt.Errorf("set chain %s: %w", k, err)
	}
	if err := c.remove(otherBackend(c.backend), k); err != nil {
		return fmt.Errorf("remove former chain %s: %w", k, err)
	}
	return nil
}

// Delete removes the chain and the jumps to it from both back ends.
func (c *Chains) Delete(k ChainKey) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, b := range []string{backendNFT, backendLegacy} {
		if err := c.remove(b, k); err != nil {
			errs = append(errs, fmt.Errorf("delete chain %s (%s): %w", k, b, err))
		}
	}
	return errors.Join(errs...)
}

// Remove deletes all our chains and jumps from both back ends, for uninstall.
func (c *Chains) Remove() error {
	var errs []error
	for _, k := range chainKeys {
		errs = append(errs, c.Delete(k))
	}
	return errors.Join(errs...)
}
