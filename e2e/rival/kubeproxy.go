package rival

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

// Service is one port of a Service with one endpoint, as kube-proxy's rules have it.
type Service struct {
	Name     string // below the namespace default
	Protocol string // tcp or udp
	IP       netip.Addr
	Port     uint16
	NodePort uint16 // 0: none
	Endpoint netip.AddrPort
}

// ProxyMode is how kube-proxy makes its rules.
type ProxyMode string

// The modes; the names are those in reports.
const (
	IPTables ProxyMode = "kube-proxy iptables"
	NFTables ProxyMode = "kube-proxy nftables"
)

// clusterCIDR is the pods' addresses: the setting by which kube-proxy knows who is a pod.
const clusterCIDR = "10.244.0.0/16"

// KubeProxy is Flannel's lab with kube-proxy's rules on both nodes, IPv4 only. The
// program itself does not run: what is compared is what packets meet.
//
// It has Outside4, whose Addr is the pod's, as it is to be reached by a node port.
type KubeProxy struct {
	*Lab
	Node netip.Addr // the first one's

	mode   ProxyMode
	nodes  [2]*testnet.NS
	loaded int
}

// NewKubeProxy makes the lab, with the rules that do not depend on Services.
func NewKubeProxy(mode ProxyMode) (*KubeProxy, error) {
	k := &KubeProxy{mode: mode, Node: netip.MustParseAddr("172.18.0.1")}
	var err error
	k.Lab, err = build(func(l *Lab) error {
		if k.nodes, err = l.flannel(); err != nil {
			return err
		}
		outside, err := l.outside()
		if err != nil {
			return err
		}
		l.Outside4 = load.Path{From: outside, To: l.Cross4.To, Addr: l.Cross4.Addr}
		for i, n := range k.nodes {
			if mode == IPTables {
				err = restore(n, iptablesBase, "iptables-restore", "-w", "--noflush")
			} else {
				err = restore(n, fmt.Sprintf(nftablesBase, fmt.Sprint("172.18.0.", i+1)), "nft", "-f")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return k, err
}

// transaction is how many Services nftables gets at once: the kernel's time for one grows
// with the square of what is in it.
const transaction = 500

// onBoth is how many Services the second node gets at most. It is asked for fewer, and
// loading more takes minutes.
const onBoth = 1000

// Load makes the rules those of these Services, which begin with those from before. More
// than 1,000 are on the first node only.
func (k *KubeProxy) Load(services []Service) error {
	for i, n := range k.nodes {
		if i > 0 && len(services) > onBoth {
			break
		}
		if k.mode == IPTables {
			if err := restore(n, iptablesRules(services), "iptables-restore", "-w", "--noflush"); err != nil {
				return fmt.Errorf("load %d Services: %w", len(services), err)
			}
			continue
		}
		for part := range slices.Chunk(services[k.loaded:], transaction) {
			if err := restore(n, nftablesRules(part), "nft", "-f"); err != nil {
				return fmt.Errorf("load %d Services: %w", len(services), err)
			}
		}
	}
	k.loaded = len(services)
	return nil
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

// digest is a short name for a text, of letters and digits.
func digest(length int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "")))
	return base32.StdEncoding.EncodeToString(sum[:])[:length]
}

// iptablesBase is kube-proxy's chains and the jumps to them: nothing that depends on
// Services. After pkg/proxy/iptables/proxier.go of Kubernetes 1.32.
const iptablesBase = `*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FIREWALL - [0:0]
-I INPUT -j KUBE-FIREWALL
-I OUTPUT -j KUBE-FIREWALL
-I INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-I INPUT -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-I FORWARD -j KUBE-FORWARD
-I FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-I PREROUTING -j KUBE-SERVICES
-I OUTPUT -j KUBE-SERVICES
-I POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
COMMIT
`

// iptablesRules is the nat chains of Services: one list that is searched from its
// beginning, and chains for each Service, its outer side and its endpoint.
func iptablesRules(services []Service) string {
	var chains, rules strings.Builder
	chains.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n")
	for _, s := range services {
		id := digest(16, "default/", s.Name, s.Protocol)
		svc, ext, sep := "KUBE-SVC-"+id, "KUBE-EXT-"+id, "KUBE-SEP-"+digest(16, s.Name, s.Protocol, s.Endpoint.String())
		fmt.Fprintf(&chains, ":%s - [0:0]\n:%s - [0:0]\n", svc, sep)
		to := fmt.Sprintf("-d %s/32 -p %[2]s -m %[2]s --dport %d", s.IP, s.Protocol, s.Port)
		fmt.Fprintf(&rules, "-A KUBE-SERVICES -m comment --comment \"default/%s cluster IP\" %s -j %s\n", s.Name, to, svc)
		if s.NodePort != 0 {
			fmt.Fprintf(&chains, ":%s - [0:0]\n", ext)
			fmt.Fprintf(&rules, "-A KUBE-NODEPORTS -m comment --comment default/%[1]s -p %[2]s -m %[2]s --dport %[3]d -j %[4]s\n", s.Name, s.Protocol, s.NodePort, ext)
			fmt.Fprintf(&rules, "-A %s -m comment --comment \"masquerade traffic for default/%s external destinations\" -j KUBE-MARK-MASQ\n-A %[1]s -j %[3]s\n", ext, s.Name, svc)
		}
		fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/%s cluster IP\" %s ! -s %s -j KUBE-MARK-MASQ\n", svc, s.Name, to, clusterCIDR)
		fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/%s -> %s\" -j %s\n", svc, s.Name, s.Endpoint, sep)
		fmt.Fprintf(&rules, "-A %s -m comment --comment default/%s -s %s/32 -j KUBE-MARK-MASQ\n", sep, s.Name, s.Endpoint.Addr())
		fmt.Fprintf(&rules, "-A %s -m comment --comment default/%s -p %[3]s -m %[3]s -j DNAT --to-destination %s\n", sep, s.Name, s.Protocol, s.Endpoint)
	}
	rules.WriteString("-A KUBE-SERVICES -m comment --comment \"service nodeports; must be last\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n")
	return chains.String() + rules.String()
}
