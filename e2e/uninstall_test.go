package e2e

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/plugins"
)

// P15: uninstall leaves the node as it was: links, routes, rules, tc, BPF, packet
// filter, sysctls, files; and it may be repeated. Afterwards another network works.
func TestUninstallLeavesNoTrace(t *testing.T) {
	t.Parallel()
	c := prepare(t, cluster.Spec{Nodes: 2})
	n := c.Nodes[0]
	foreign(t, n)
	folders := []string{n.Path("state"), n.Path("run"), n.Path("net.d"), n.Path("bin"), n.BPFDir, c.Source}
	before := digest(t, n.NS, folders...)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	a1, a2, b1, _ := pods(t, c)
	a3 := newPod(t, n, "limited")
	a3.Capabilities = map[string]any{"bandwidth": map[string]any{
		"ingressRate": 10_000_000, "ingressBurst": 1_000_000, "egressRate": 10_000_000, "egressBurst": 1_000_000}}
	if err := a3.Add(ctx); err != nil {
		t.Fatal(err)
	}
	for i, addr := range a1.Addrs() {
		answers(t, "before", a1.NS, a2.NS, a2.Addrs()[i], addr)
		answers(t, "before", a1.NS, b1.NS, b1.Addrs()[i], addr)
	}
	if digest(t, n.NS, folders...) == before {
		t.Fatal("the digest shows nothing of a running Weft: it proves nothing")
	}

	uninstall := func() ([]byte, error) {
		cmd := n.Command("uninstall")
		var out []byte
		err := n.NS.Do(func() (err error) {
			out, err = cmd.CombinedOutput()
			return err
		})
		return out, err
	}
	if out, err := uninstall(); err == nil {
		t.Errorf("uninstall beside a running daemon: got success, want a refusal: %s", out)
	}
	if err := n.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The other node's status files are in the source's folder too.
	if err := c.Nodes[1].Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Source, "status", c.Nodes[1].Name)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := uninstall(); err != nil {
			t.Fatalf("uninstall: %v\n%s", err, out)
		}
	}
	// What the daemon and uninstall remove with the last thing in it was made by the
	// cluster, empty, and is not a trace.
	for _, dir := range folders {
		if dir == n.BPFDir {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, digest(t, n.NS, folders...)); diff != "" {
		t.Errorf("uninstall left (+) or took (-):\n%s", diff)
	}
	bridgeWorks(t, n)
}

// foreign puts onto the node what is not ours.
func foreign(t *testing.T, n *cluster.Node) {
	t.Helper()
	for _, cmd := range [][]string{
		{"ip", "link", "add", "foreign0", "type", "bridge"},
		{"ip", "addr", "add", "192.0.2.1/24", "dev", "foreign0"},
		{"ip", "link", "set", "foreign0", "up"},
		{"ip", "link", "add", "weftlike", "type", "veth", "peer", "name", "weftlike-p"},
		{"ip", "link", "add", "foreign-vx", "type", "vxlan", "id", "87", "dstport", "4789", "dev", "eth0"},
		{"ip", "route", "add", "203.0.113.0/24", "via", "172.18.0.254", "proto", "static"},
		{"ip", "-6", "route", "add", "2001:db8:7::/48", "via", "fd18::fe", "proto", "static"},
		{"ip", "route", "add", "10.244.9.0/24", "via", "172.18.0.254"},
		{"ip", "neigh", "add", "172.18.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent"},
		{"ip", "rule", "add", "from", "192.0.2.77", "lookup", "77"},
		{"iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "MASQUERADE"},
		{"iptables", "-N", "FOREIGN"},
		{"iptables", "-A", "FORWARD", "-j", "FOREIGN"},
		{"ip6tables", "-A", "INPUT", "-s", "2001:db8:9::/48", "-j", "DROP"},
		{"nft", "add", "table", "inet", "foreign"},
		{"tc", "qdisc", "add", "dev", "weftlike", "clsact"},
	} {
		if _, err := n.NS.Output(cmd[0], cmd[1:]...); err != nil {
			t.Fatal(err)
		}
	}
}

// bridgeWorks attaches two pods by the bridge plugin, which talk.
func bridgeWorks(t *testing.T, n *cluster.Node) {
	t.Helper()
	bin := filepath.Join(n.Dir, "reference")
	if err := plugins.Build(t.Context(), bin); err != nil {
		t.Fatal(err)
	}
	list, err := plugins.Bridge("10.97.0.0/24", "fd00:97::/64", filepath.Join(n.Dir, "host-local"))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(n.Dir, "cache2"), nil)
	var attached []*cluster.Pod
	for _, name := range []string{"x", "y"} {
		p := newPod(t, n, name)
		err := n.NS.Do(func() error {
			r, err := cni.AddNetworkList(t.Context(), list, p.Runtime())
			if err != nil {
				return err
			}
			return p.Take(r)
		})
		if err != nil {
			t.Fatalf("bridge plugin: %v", err)
		}
		attached = append(attached, p)
	}
	for i, addr := range attached[0].Addrs() {
		answers(t, "bridge plugin", attached[0].NS, attached[1].NS, attached[1].Addrs()[i], addr)
	}
	for _, p := range attached {
		if err := n.NS.Do(func() error { return cni.DelNetworkList(t.Context(), list, p.Runtime()) }); err != nil {
			t.Errorf("bridge plugin: %v", err)
		}
	}
}
