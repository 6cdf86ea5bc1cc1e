package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// digest is what a node is like, as sorted lines: its network, its files and mounts, and
// what of BPF runs on it. What pods bring with them, and what changes by itself, is left
// out.
type digest []string

// Remember notes what all nodes and the API are like before a network is installed, for
// the scenario that takes Weft away again.
func Remember(ctx context.Context, c *cluster.Cluster) error {
	fresh, err := digests(ctx, c)
	if err != nil {
		return err
	}
	b, err := json.Marshal(fresh)
	if err != nil {
		return fmt.Errorf("note what the nodes are like: %w", err)
	}
	return os.WriteFile(freshNote(c), b, 0o644)
}

func freshNote(c *cluster.Cluster) string { return c.Note("fresh.json") }

// remembered is what Remember has noted.
func remembered(c *cluster.Cluster) (map[string]digest, error) {
	b, err := os.ReadFile(freshNote(c))
	if err != nil {
		return nil, fmt.Errorf("read what the nodes were like: %w", err)
	}
	var fresh map[string]digest
	if err := json.Unmarshal(b, &fresh); err != nil {
		return nil, fmt.Errorf("read what the nodes were like: %w", err)
	}
	return fresh, nil
}

// digests are those of all nodes, by name, and of the API.
func digests(ctx context.Context, c *cluster.Cluster) (map[string]digest, error) {
	all := map[string]digest{}
	for _, node := range c.Nodes {
		d, err := digestOf(ctx, c, node)
		if err != nil {
			return nil, fmt.Errorf("see what %s is like: %w", node, err)
		}
		all[node] = d
	}
	out, err := proc.Output(c.Kubectl(ctx, "get", "--all-namespaces", "--no-headers",
		"-o", "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name",
		"namespaces,serviceaccounts,configmaps,clusterroles,clusterrolebindings,roles,rolebindings,daemonsets,deployments,"+
			"services,secrets,priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings,crds"))
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	all["the API"] = lines(string(out))
	return all, nil
}

// netDigest says what a network namespace has, by the programs of this machine.
const netDigest = `
	say() { "$@" | sed "s|^|$*: |"; }
	say ip -o -d link
	say ip -o addr
	for f in -4 -6; do
		say ip $f -o route show table all
		say ip $f rule
		say ip $f -o neigh show nud permanent
	done
	say tc qdisc
	for d in $(ls /sys/class/net); do say tc filter show dev $d ingress; say tc filter show dev $d egress; done
	for t in iptables ip6tables; do say $t-nft-save; say $t-legacy-save; done
	say nft list ruleset
	say sysctl net`

// fileDigest says what files and mounts a node has. A container's, the kubelet's, the
// system's journal and its units come and go by themselves.
const fileDigest = `
	find / /run /var /tmp /dev/shm -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /var/lib/containerd -o -path /run/containerd \
		-o -path /var/lib/kubelet -o -path /var/lib/etcd -o -path /var/lib/cni -o -path /run/netns -o -path /var/log -o -path /run/log \
		-o -path /run/systemd -o -path /run/udev -o -path /run/runc -o -path /var/lib/systemd -o -path /var/cache -o -path '/tmp/*' -o -path /root/.kube \) \
		-prune -o -printf 'file %M %U:%G %p %l\n'
	find /etc/cni /opt/cni /etc/kubernetes -type f -exec sha256sum {} + | sed 's/^/content /'
	find /sys/fs/bpf | sed 's/^/pin /'
	awk '{ n = 7; while ($n != "-") n++; print "mount", $5, $(n+1), $6 }' /proc/1/mountinfo |
		grep -v -e ' /var/lib/kubelet/' -e ' /run/containerd/' -e ' /run/netns' -e ' /run/credentials/' || true`

func digestOf(ctx context.Context, c *cluster.Cluster, node string) (digest, error) {
	inside, err := c.Process(ctx, node)
	if err != nil {
		return nil, err
	}
	network, err := proc.Output(inside.Command(ctx, "sh", "-ec", netDigest))
	if err != nil {
		return nil, err
	}
	files, err := shell(ctx, c, node, fileDigest)
	if err != nil {
		return nil, err
	}
	programs, err := attached(inside)
	if err != nil {
		return nil, err
	}
	d := append(digest(lines(string(network)+files)), programs...)
	slices.Sort(d)
	return slices.Compact(d), nil
}

// byItself is what changes by itself: indices, counters, ages, secrets, and the ports of Docker's
// own DNS server, which has others after each start of a node.
var byItself = regexp.MustCompile(`(?m)^(\S.*?: )\d+: |@if\d+|\[\d+:\d+\]|\bcounter packets \d+ bytes \d+|\b(expires|used|age|preferred_lft|valid_lft|hoplimit|qlen|numtxqueues|numrxqueues) \S+|# (Generated|Completed|handle) .*|(127\.0\.0\.11:|127\.0\.0\.11(/32 -p| tcp| udp).* (--)?sport )\d+|\\`)

// lines are a program's, without what changes by itself.
func lines(text string) []string {
	var kept []string
	for line := range strings.Lines(byItself.ReplaceAllString(text, "$1")) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" || strings.Contains(line, "_secret") || strings.Contains(line, "fastopen_key") ||
			strings.Contains(line, "nf_conntrack_count") || strings.Contains(line, "random_") {
			continue
		}
		kept = append(kept, line)
	}
	return kept
}

// since is nil if nothing is new and nothing is missing.
func (d digest) since(before digest) error {
	var diff []string
	for _, line := range before {
		if !slices.Contains(d, line) {
			diff = append(diff, "-"+line)
		}
	}
	for _, line := range d {
		if !slices.Contains(before, line) {
			diff = append(diff, "+"+line)
		}
	}
	if len(diff) == 0 {
		return nil
	}
	const most = 40
	if rest := len(diff) - most; rest > 0 {
		diff = append(diff[:most], fmt.Sprintf("and %d more", rest))
	}
	return errors.New("not as before (-before +now):\n" + strings.Join(diff, "\n"))
}
