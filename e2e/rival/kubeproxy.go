package rival

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/e2e/load"
)

// The pods' addresses: the setting by which kube-proxy knows who is a pod.
const (
	clusterCIDR  = "10.244.0.0/16"
	clusterCIDR6 = "fd00:244::/32"
)

// KubeProxy is Flannel's lab with kube-proxy's rules on both nodes.
//
// It has Outside4 and Near4, whose Addr is the pod's, as it is to be reached by a Service.
type KubeProxy struct {
	*Lab
	Node netip.Addr // the first one's

	rules [2]*ProxyRules
}

// NewKubeProxy makes the lab, with the rules that do not depend on Services.
func NewKubeProxy(mode ProxyMode) (*KubeProxy, error) {
	k := &KubeProxy{Node: netip.MustParseAddr("172.18.0.1")}
	var err error
	k.Lab, err = build(func(l *Lab) error {
		nodes, err := l.flannel()
		if err != nil {
			return err
		}
		outside, err := l.outside()
		if err != nil {
			return err
		}
		l.Outside4 = load.Path{From: outside, To: l.Cross4.To, Addr: l.Cross4.Addr}
		l.Near4 = load.Path{From: outside, To: l.Same4.To, Addr: l.Same4.Addr}
		addr := k.Node
		for i, n := range nodes {
			if k.rules[i], err = NewProxyRules(mode, n, addr); err != nil {
				return err
			}
			addr = addr.Next()
		}
		return nil
	})
	return k, err
}

// Announce makes the first node answer for a load balancer's address, as MetalLB would from
// its own process: packets meet the same rules.
func (k *KubeProxy) Announce(addr netip.Addr) error {
	return k.rules[0].node.IP("addr", "add", addr.String()+"/32", "dev", "eth0")
}

// onBoth is how many Services the second node gets at most. It is asked for fewer, and
// loading more takes minutes.
const onBoth = 1000

// Load makes the rules those of these Services, which begin with those from before. More
// than 1,000 are on the first node only.
func (k *KubeProxy) Load(services []Service) error {
	for i, r := range k.rules {
		if i > 0 && len(services) > onBoth {
			break
		}
		if err := r.Load(services); err != nil {
			return err
		}
	}
	return nil
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
		svc, ext := "KUBE-SVC-"+id, "KUBE-EXT-"+id
		fmt.Fprintf(&chains, ":%s - [0:0]\n", svc)
		to := fmt.Sprintf("-d %s/32 -p %[2]s -m %[2]s --dport %d", s.IP, s.Protocol, s.Port)
		fmt.Fprintf(&rules, "-A KUBE-SERVICES -m comment --comment \"default/%s cluster IP\" %s -j %s\n", s.Name, to, svc)
		if s.outer() {
			fmt.Fprintf(&chains, ":%s - [0:0]\n", ext)
			fmt.Fprintf(&rules, "-A %s -m comment --comment \"masquerade traffic for default/%s external destinations\" -j KUBE-MARK-MASQ\n-A %[1]s -j %[3]s\n", ext, s.Name, svc)
		}
		if s.Balancer.IsValid() {
			fmt.Fprintf(&rules, "-A KUBE-SERVICES -m comment --comment \"default/%s loadbalancer IP\" -d %s/32 -p %[3]s -m %[3]s --dport %d -j %s\n", s.Name, s.Balancer, s.Protocol, s.Port, ext)
		}
		if s.NodePort != 0 {
			fmt.Fprintf(&rules, "-A KUBE-NODEPORTS -m comment --comment default/%[1]s -p %[2]s -m %[2]s --dport %[3]d -j %[4]s\n", s.Name, s.Protocol, s.NodePort, ext)
		}
		fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/%s cluster IP\" %s ! -s %s -j KUBE-MARK-MASQ\n", svc, s.Name, to, clusterCIDR)
		ends := s.endpoints()
		for i, e := range ends {
			sep, chance := "KUBE-SEP-"+digest(16, s.Name, s.Protocol, e.String()), ""
			if left := len(ends) - i; left > 1 {
				chance = fmt.Sprintf("-m statistic --mode random --probability %.11f ", 1/float64(left))
			}
			fmt.Fprintf(&chains, ":%s - [0:0]\n", sep)
			fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/%s -> %s\" %s-j %s\n", svc, s.Name, e, chance, sep)
			fmt.Fprintf(&rules, "-A %s -m comment --comment default/%s -s %s/32 -j KUBE-MARK-MASQ\n", sep, s.Name, e.Addr())
			fmt.Fprintf(&rules, "-A %s -m comment --comment default/%s -p %[3]s -m %[3]s -j DNAT --to-destination %s\n", sep, s.Name, s.Protocol, e)
		}
	}
	rules.WriteString("-A KUBE-SERVICES -m comment --comment \"service nodeports; must be last\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n")
	return chains.String() + rules.String()
}
