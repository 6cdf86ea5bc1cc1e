package page

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// bins is where TestMain has built the binaries: as users get them.
var bins string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-page-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bins = filepath.Join(dir, "bin")
	if err := cluster.Build(context.Background(), bins); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// world is two nodes with a Service that has a backend on each, a client that asks it all
// the time, and the page of both daemons, in node-1's namespace.
type world struct {
	*cluster.Cluster
	one, two *cluster.Pod // the backends
	page     string       // where it is
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testnet.Require(t, "iptables", "tc")
	c, err := cluster.New(cluster.Spec{Nodes: 2, Bin: bins})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("log of %s:\n%s", n.Name, n.LogTail(25))
			}
		}
		must(t, c.Close())
	})
	must(t, c.WriteObject("objects", objects()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, c.Start(ctx))
	w := &world{Cluster: c}
	w.one, err = c.Nodes[0].AddPod(ctx, "one")
	must(t, err)
	w.two, err = c.Nodes[1].AddPod(ctx, "two")
	must(t, err)
	client, err := c.Nodes[0].AddPod(ctx, "client")
	must(t, err)
	for _, p := range []*cluster.Pod{w.one, w.two} {
		s, err := traffic.Serve(p.NS, netip.AddrPortFrom(p.IP4, 8080))
		must(t, err)
		t.Cleanup(s.Close)
	}
	keepAsking(t, client, netip.MustParseAddrPort("10.96.0.20:80"))
	w.page = servePage(t, c)
	return w
}

// objects is the Service web with an address outside, and 120 more Services.
func objects() string {
	var b strings.Builder
	b.WriteString(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  loadBalancerClass: weft.dev/l2
  selector: {app: web}
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, "fd00:96::20"]
  ports: [{name: http, protocol: TCP, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.80}, {ip: "2001:db8:80::80"}]}}
`)
	for _, name := range []string{"one", "two"} {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {app: web}}\n", name)
	}
	for i := range 120 {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: svc-%03d, namespace: many}\n"+
			"spec: {clusterIP: 10.96.7.%[1]d, ports: [{port: 80}]}\n", i+1)
	}
	return b.String()
}

// keepAsking begins a flow every 20 ms, until the test ends.
func keepAsking(t *testing.T, from *cluster.Pod, to netip.AddrPort) {
	stop, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if conn, err := traffic.Dial(from.NS, "tcp", to, time.Second); err == nil {
				conn.Close() // a backend may be gone
			}
		}
	}()
}

// servePage runs `weft web` for both daemons and returns the page's address.
func servePage(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	must(t, err)
	defer out.Close()
	cmd := exec.Command(filepath.Join(bins, "weft"), "web", "--listen", "127.0.0.1:0",
		"--socket", c.Nodes[0].Socket(), "--socket", c.Nodes[1].Socket())
	cmd.Stdout, cmd.Stderr = out, out
	must(t, c.Nodes[0].NS.Start(cmd))
	t.Cleanup(func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		must(t, cmd.Wait())
	})
	var address string
	testnet.Until(t, patience, func() error {
		text, err := os.ReadFile(path)
		if address = regexp.MustCompile(`http://\S+`).FindString(string(text)); err == nil && address == "" {
			err = fmt.Errorf("weft web says %q", text)
		}
		return err
	})
	return address
}
