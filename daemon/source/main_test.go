package source

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

// place is a folder of YAML and a daemon's source on it.
type place struct {
	t   *testing.T
	dir string
	*Dir
}

// start runs the source of node-a on a new folder, or on dir if it is set.
func start(t *testing.T, dir string, o Options) *place {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	if o.Node == "" {
		o.Node = "node-a"
	}
	d, err := Open("dir:"+dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &place{t, dir, d}
}

// put writes a file as a careful writer does.
func (p *place) put(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	temp := filepath.Join(p.dir, ".temp") // below status/ a daemon removes what is not its own
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) remove(name string) {
	p.t.Helper()
	// What is put back meanwhile hinders a removal.
	testnet.Until(p.t, 20*time.Second, func() error { return os.RemoveAll(filepath.Join(p.dir, name)) })
}

// wait waits until the state's text is want.
func (p *place) wait(want string) State {
	p.t.Helper()
	want = strings.TrimSpace(want)
	deadline := time.After(20 * time.Second)
	for {
		s := p.Snapshot()
		got := text(s)
		if got == want {
			return s
		}
		select {
		case <-p.Changed():
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			p.t.Fatalf("state, got:\n%s\nwant:\n%s", got, want)
		}
	}
}

// text is a state as a person reads it.
func text(s State) string {
	var b strings.Builder
	for _, n := range s.Nodes {
		fmt.Fprintln(&b, "node", n.Name, n.PodCIDRs, n.InternalIPs)
	}
	for _, p := range s.Pods {
		fmt.Fprintln(&b, "pod", key(p), p.Node, p.Labels["app"], p.IPs)
	}
	for _, n := range s.Namespaces {
		if labels := maps.Clone(n.Labels); labels[namespaceLabel] == n.Name {
			delete(labels, namespaceLabel)
			fmt.Fprintln(&b, "namespace", n.Name, labels)
		}
	}
	for _, v := range s.Services {
		fmt.Fprintln(&b, "service", v.Namespace+"/"+v.Name, v.ClusterIPs)
	}
	for e := range s.Slices.All() {
		fmt.Fprint(&b, "slice ", e.Namespace, "/", e.Name, " of ", e.Service, " ", e.Ports)
		for _, end := range e.Endpoints {
			fmt.Fprint(&b, " ", end.IP)
			for _, is := range []struct {
				so   bool
				text string
			}{{end.Ready, "ready"}, {end.Serving && !end.Ready, "serving"}, {end.Terminating, "terminating"}, {end.Node != "", "on " + end.Node}, {end.Zone != "", "in " + end.Zone}} {
				if is.so {
					fmt.Fprint(&b, " ", is.text)
				}
			}
			if end.Hints != nil {
				fmt.Fprint(&b, " for ", end.ForZones(), end.ForNodes())
			}
		}
		fmt.Fprintln(&b)
	}
	for _, p := range s.Policies {
		fmt.Fprintln(&b, "policy", policyText(p))
	}
	for _, p := range s.ClusterPolicies {
		fmt.Fprintln(&b, "cluster policy", clusterPolicyText(p))
	}
	for _, p := range s.Problems {
		fmt.Fprintln(&b, "problem", p.What+":", p.Text)
	}
	if s.Ignored > 0 {
		fmt.Fprintln(&b, "ignored", s.Ignored)
	}
	if !s.Complete {
		fmt.Fprint(&b, "incomplete")
		if s.PoliciesComplete {
			fmt.Fprint(&b, " but for policies")
		}
	}
	return strings.TrimSpace(b.String())
}

func nodeYAML(name string, n int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: %s
  labels: {kubernetes.io/hostname: %s, kubernetes.io/os: linux}
  managedFields: [{manager: kubelet}]
spec:
  podCIDRs: [10.%d.%d.0/24, "fd00:244:%x::/64"]
status:
  addresses:
  - {type: Hostname, address: %s}
  - {type: InternalIP, address: 192.168.%d.%d}
  - {type: InternalIP, address: "2001:db8::%x"}
`, name, name, n/256, n%256, n, name, n/256, n%256, n)
}

func podYAML(namespace, name, app, node string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {app: %s}}\nspec: {nodeName: %s}\n", name, namespace, app, node)
}

const (
	nodeA = "node node-a [10.0.1.0/24 fd00:244:1::/64] [192.168.0.1 2001:db8::1]\n"
	nodeB = "node node-b [10.0.2.0/24 fd00:244:2::/64] [192.168.0.2 2001:db8::2]\n"
	nodeC = "node node-c [10.0.3.0/24 fd00:244:3::/64] [192.168.0.3 2001:db8::3]\n"
)
