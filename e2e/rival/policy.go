package rival

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/weftnet/weft/internal/testnet"
)

// PolicyMode is how a [Policies] judges packets.
type PolicyMode string

// The modes.
const (
	PolicyNFTables PolicyMode = "nftables sets"
	PolicyIPSet    PolicyMode = "iptables+ipset"
)

// Allowed is what one policy lets pass: from an address to a port of another.
type Allowed struct {
	From, To netip.Addr
	Port     uint16
}

// Policies is Flannel's lab whose first node judges what goes from pod to pod, in both
// directions, as agents do that have policies as sets: one look for each direction,
// whatever the number of policies; and connections that are open pass by their state.
type Policies struct {
	*Lab
	mode PolicyMode
	node *testnet.NS
}

// NewPolicies makes the lab. Without policies nothing passes.
func NewPolicies(mode PolicyMode) (*Policies, error) {
	p := &Policies{mode: mode}
	var err error
	p.Lab, err = build(func(l *Lab) error {
		nodes, err := l.flannel()
		if err != nil {
			return err
		}
		p.node = nodes[0]
		return p.begin()
	})
	return p, err
}

func (p *Policies) begin() error {
	if p.mode == PolicyNFTables {
		return p.feed(`table ip netpolicy {
	set egress { type ipv4_addr . ipv4_addr . inet_service; }
	set ingress { type ipv4_addr . ipv4_addr . inet_service; }
	chain forward {
		type filter hook forward priority -10;
		ct state established,related accept
		ip saddr . ip daddr . th dport != @egress drop
		ip saddr . ip daddr . th dport != @ingress drop
	}
}
`, "nft", "-f", "-")
	}
	return run(p.node, `
		ipset create egress hash:ip,port,ip maxelem 65536
		ipset create ingress hash:ip,port,ip maxelem 65536
		iptables -w -N POLICY
		iptables -w -I FORWARD -j POLICY
		iptables -w -A POLICY -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
		iptables -w -A POLICY -m set ! --match-set egress src,dst,dst -j DROP
		iptables -w -A POLICY -m set ! --match-set ingress src,dst,dst -j DROP`)
}

// Load makes the policies these, in both directions.
func (p *Policies) Load(all []Allowed) error {
	var b strings.Builder
	for _, set := range []string{"egress", "ingress"} {
		if p.mode == PolicyNFTables {
			fmt.Fprintf(&b, "flush set ip netpolicy %s\nadd element ip netpolicy %[1]s {\n", set)
			for _, a := range all {
				fmt.Fprintf(&b, "%s . %s . %d,\n", a.From, a.To, a.Port)
			}
			b.WriteString("}\n")
			continue
		}
		fmt.Fprintf(&b, "flush %s\n", set)
		for _, a := range all {
			fmt.Fprintf(&b, "add %s %s,tcp:%d,%s\n", set, a.From, a.Port, a.To)
		}
	}
	if p.mode == PolicyNFTables {
		return p.feed(b.String(), "nft", "-f", "-")
	}
	return p.feed(b.String(), "ipset", "restore")
}

// feed runs a program on the first node that reads text.
func (p *Policies) feed(text, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(text)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.node.Start(cmd); err != nil {
		return fmt.Errorf("load policies: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("load policies: %s: %w: %s", name, err, out.String())
	}
	return nil
}
