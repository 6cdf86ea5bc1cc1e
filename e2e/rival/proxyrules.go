package rival

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/weftnet/weft/internal/testnet"
)

// ProxyMode is how kube-proxy makes its rules.
type ProxyMode string

// The modes; the names are those in reports.
const (
	IPTables ProxyMode = "kube-proxy iptables"
	NFTables ProxyMode = "kube-proxy nftables"
)

// Service is one port of a Service, as kube-proxy's rules have it.
type Service struct {
	Name     string // below the namespace default
	Protocol string // tcp or udp
	IP       netip.Addr
	Port     uint16
	NodePort uint16 // 0: none
	// Balancer is the address of a load balancer; zero: none.
	Balancer netip.Addr
	Endpoint netip.AddrPort
	More     []netip.AddrPort // endpoints besides that one
}

// outer says whether it is served outside.
func (s Service) outer() bool { return s.NodePort != 0 || s.Balancer.IsValid() }

func (s Service) endpoints() []netip.AddrPort {
	return append([]netip.AddrPort{s.Endpoint}, s.More...)
}

// ProxyRules is kube-proxy's rules of one family on one node; IPv6 has only those of
// nftables. The program itself does not run: what counts is what packets meet.
type ProxyRules struct {
	mode   ProxyMode
	node   *testnet.NS
	ipv6   bool
	loaded int
}

// NewProxyRules makes the rules that do not depend on Services, on a node whose address
// serves node ports. They are of its family.
func NewProxyRules(mode ProxyMode, node *testnet.NS, addr netip.Addr) (*ProxyRules, error) {
	r := &ProxyRules{mode: mode, node: node, ipv6: addr.Is6()}
	if mode == IPTables {
		if r.ipv6 {
			return nil, fmt.Errorf("%s: there are no rules of IPv6", mode)
		}
		return r, restore(node, iptablesBase, "iptables-restore", "-w", "--noflush")
	}
	return r, r.nft(fmt.Sprintf(nftablesBase, addr))
}

func (r *ProxyRules) nft(text string) error {
	if r.ipv6 {
		text = inIPv6.Replace(text)
	}
	return restore(r.node, text, "nft", "-f")
}

// transaction is how many Services nftables gets at once: the kernel's time for one grows
// with the square of what is in it.
const transaction = 500

// Load makes the rules those of these Services, which begin with those from before.
func (r *ProxyRules) Load(services []Service) error {
	if r.mode == IPTables {
		if err := restore(r.node, iptablesRules(services), "iptables-restore", "-w", "--noflush"); err != nil {
			return fmt.Errorf("load %d Services: %w", len(services), err)
		}
		return nil
	}
	for part := range slices.Chunk(services[r.loaded:], transaction) {
		if err := r.nft(nftablesRules(part)); err != nil {
			return fmt.Errorf("load %d Services: %w", len(services), err)
		}
	}
	r.loaded = len(services)
	return nil
}

// Remove removes all of them, as `kube-proxy --cleanup` does.
func (r *ProxyRules) Remove() error {
	if r.mode == NFTables {
		return r.nft("delete table ip kube-proxy\n")
	}
	var text strings.Builder
	for _, table := range []string{"filter", "nat"} {
		rules, err := r.node.Output("iptables", "-w", "-t", table, "-S")
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "*%s\n", table)
		var chains []string
		for line := range strings.Lines(rules) {
			f := strings.Fields(line)
			switch {
			case f[0] == "-N" && strings.HasPrefix(f[1], "KUBE-"):
				chains = append(chains, f[1])
			case f[0] == "-A" && !strings.HasPrefix(f[1], "KUBE-") && strings.Contains(line, "-j KUBE-"):
				text.WriteString("-D" + strings.TrimPrefix(line, "-A"))
			}
		}
		for _, verb := range []string{"-F", "-X"} {
			for _, c := range chains {
				fmt.Fprintln(&text, verb, c)
			}
		}
		text.WriteString("COMMIT\n")
	}
	return restore(r.node, text.String(), "iptables-restore", "-w", "--noflush")
}

// restore runs a command in a namespace with a file of this text as its last argument.
func restore(n *testnet.NS, text, name string, args ...string) error {
	f, err := os.CreateTemp("", "weft-rules-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	_, err = n.Output(name, append(args, f.Name())...)
	return err
}
