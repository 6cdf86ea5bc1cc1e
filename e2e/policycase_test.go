package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/weftnet/weft/e2e/cluster"
)

// policyCase is a line of the truth table: policies, and what is known of them without
// asking the oracle.
type policyCase struct {
	name     string
	policies []string
	labels   map[string]string // of namespaces (ns/x) and pods (x/a) that have others than usual
	// want are questions and their answers: "x/b > x/a tcp:80 yes", with v4 or v6 after it
	// if it is not for both families, and via before it if it is through something.
	want []string
	// also are more questions than usual, of those in [policyWorld.questions].
	also string
}

// np is a NetworkPolicy; its spec is a YAML mapping, but for shorthand:
//
//	pod=a, ns=x, team=red   selectors of pods and of namespaces by one label; pods=*, ns=*: of all
//	tcp:80, udp:web, tcp:80-90   a port
//	net(x/b, node-1, all but x/c)   blocks of both families; see [policyWorld.expand]
func np(name, spec string) string {
	namespace, name, _ := strings.Cut(name, "/")
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec: {%s}\n", name, namespace, spec)
}

// cnp is a ClusterNetworkPolicy, with the same shorthand, and cluster's own: net(…) is its
// networks, on=x its subject.
func cnp(name, tier string, priority int, spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: {tier: %s, priority: %d, %s}\n",
		name, tier, priority, spec)
}

var (
	shortNet   = regexp.MustCompile(`net\(([^)]*)\)`)
	shortPort  = regexp.MustCompile(`\b(tcp|udp|sctp):([a-z0-9]+)(-(\d+))?`)
	shortLabel = regexp.MustCompile(`\b(pods|pod|ns|team)=([a-z*]+)`)
)

// expand writes a policy out. In net(…) a name stands for its addresses, "pods" for all pods'
// prefixes, "pods-1" for those of the first node's, and "all" for everything; what follows
// "but" is excepted.
func (w *policyWorld) expand(text string) string {
	cluster := strings.Contains(text, "kind: ClusterNetworkPolicy")
	head, spec, _ := strings.Cut(text, "spec: ")
	spec = shortNet.ReplaceAllStringFunc(spec, func(s string) string {
		names, but, _ := strings.Cut(shortNet.FindStringSubmatch(s)[1], " but ")
		var blocks []string
		for _, p := range w.prefixes(names) {
			var except []string
			for _, e := range w.prefixes(but) {
				if e.Addr().Is4() == p.Addr().Is4() {
					except = append(except, fmt.Sprintf("%q", e))
				}
			}
			switch {
			case cluster:
				blocks = append(blocks, fmt.Sprintf("%q", p))
			case len(except) > 0:
				blocks = append(blocks, fmt.Sprintf("{ipBlock: {cidr: %q, except: [%s]}}", p, strings.Join(except, ", ")))
			default:
				blocks = append(blocks, fmt.Sprintf("{ipBlock: {cidr: %q}}", p))
			}
		}
		all := strings.Join(blocks, ", ")
		if cluster {
			return "networks: [" + all + "]"
		}
		return all
	})
	spec = shortPort.ReplaceAllStringFunc(spec, func(s string) string {
		f := shortPort.FindStringSubmatch(s)
		if cluster {
			if f[4] != "" {
				return fmt.Sprintf("{%s: {destinationPort: {range: {start: %s, end: %s}}}}", f[1], f[2], f[4])
			}
			return fmt.Sprintf("{%s: {destinationPort: {number: %s}}}", f[1], f[2])
		}
		end := ""
		if f[4] != "" {
			end = ", endPort: " + f[4]
		}
		return fmt.Sprintf("{protocol: %s, port: %s%s}", strings.ToUpper(f[1]), f[2], end)
	})
	spec = shortLabel.ReplaceAllStringFunc(spec, func(s string) string {
		f := shortLabel.FindStringSubmatch(s)
		field, label := "podSelector", f[1]
		if f[1] == "ns" || f[1] == "team" {
			field = "namespaceSelector"
		}
		if cluster && field == "namespaceSelector" && !strings.Contains(spec, "pod=") {
			field = "namespaces"
		}
		if f[2] == "*" {
			return field + ": {}"
		}
		return fmt.Sprintf("%s: {matchLabels: {%s: %s}}", field, label, f[2])
	})
	return head + "spec: " + spec
}

// prefixes are those of names.
func (w *policyWorld) prefixes(names string) (out []netip.Prefix) {
	for name := range strings.SplitSeq(names, ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case "all":
			out = append(out, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
		case "pods":
			out = append(out, netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32"))
		case "pods-1":
			out = append(out, w.c.Nodes[0].PodCIDRs...)
		case "pods-2":
			out = append(out, w.c.Nodes[1].PodCIDRs...)
		case "client":
			a4, a6 := cluster.HostAddrs(254)
			out = append(out, netip.PrefixFrom(a4, 32), netip.PrefixFrom(a6, 128))
		case "services":
			out = append(out, netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/64"))
		default:
			if p, err := netip.ParsePrefix(name); err == nil {
				out = append(out, p)
				continue
			}
			for _, v4 := range []bool{true, false} {
				a := w.addr(name, v4)
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return out
}
