// Package cluster makes whole Weft clusters on one machine: nodes as network
// namespaces joined by a bridge, on each the real weftd, pods by the real plugin
// through libcni. Tests, the demo and the benchmarks stand on it.
//
// Addresses: nodes have 172.18.0.N+1 and fd18::N+1; pods of node N have 10.244.N.0/24
// and fd00:244:N::/64. The host `outside` (172.18.0.254, fd18::fe) is the nodes'
// default gateway and has 198.51.100.1 and 2001:db8::1.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/internal/testnet"
)

// Spec says what cluster to make. Its zero value is one dual-stack node.
type Spec struct {
	Nodes int    // 0 is 1
	Pods  Family // of the pods' addresses; 0: both
	Outer Family // of the nodes' addresses; 0: both, IPv4 first
	// OuterV6First makes the nodes' first InternalIP the IPv6 one.
	OuterV6First bool
	MTU          int      // of the uplinks; 0 is 1500
	Flags        []string // more flags for weftd
	Env          []string // more environment for weftd and the plugin
	Dir          string   // scratch folder; empty: a new one, removed by Close
	Bin          string   // folder of the built binaries; see Build
}

// Family is a set of address families.
type Family int

// The families.
const (
	V4 Family = 1 << iota
	V6
	Dual = V4 | V6
)

func (f Family) has(g Family) bool { return f == 0 || f&g != 0 }

func (f Family) String() string {
	switch f {
	case V4:
		return "v4"
	case V6:
		return "v6"
	}
	return "dual"
}

// Addresses of the host `outside`.
var (
	Outside4 = netip.MustParseAddr("198.51.100.1")
	Outside6 = netip.MustParseAddr("2001:db8::1")
)

// Cluster is a running cluster.
type Cluster struct {
	Spec    Spec
	Dir     string // scratch
	Source  string // folder of the objects
	Bridge  *testnet.NS
	Outside *testnet.NS
	Nodes   []*Node

	bpffs string
	undo  []func() error
}

// Build builds weftd, weft-cni and weft into dir, with more arguments for go build.
func Build(ctx context.Context, dir string, args ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	module, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	args = append(append([]string{"build", "-buildvcs=false", "-o", dir + "/"}, args...),
		"./cmd/...")
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/weftnet/weft").Output()
	if err != nil {
		return "", fmt.Errorf("find Weft's sources: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// New makes the namespaces and the Node objects. No daemon runs yet: see
// [Node.Start]. What was made before an error is removed.
func New(spec Spec) (c *Cluster, err error) {
	spec.Nodes, spec.MTU = max(spec.Nodes, 1), max(spec.MTU, 0)
	if spec.MTU == 0 {
		spec.MTU = 1500
	}
	c = &Cluster{Spec: spec, Dir: spec.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "weft-"); err != nil {
			return c, fmt.Errorf("make scratch folder: %w", err)
		}
		c.later(func() error { return os.RemoveAll(c.Dir) })
	}
	c.Source = filepath.Join(c.Dir, "objects")
	if err := os.MkdirAll(c.Source, 0o755); err != nil {
		return c, fmt.Errorf("make folder of objects: %w", err)
	}
	var unmount func() error
	if c.bpffs, unmount, err = testnet.BPFFS(c.Dir); err != nil {
		return c, err
	}
	c.later(unmount)
	if err := c.underlay(); err != nil {
		return c, err
	}
	for i := range spec.Nodes {
		n, err := c.newNode(i + 1)
		if err != nil {
			return c, err
		}
		c.Nodes = append(c.Nodes, n)
		if err := c.WriteNode(n); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *Cluster) later(f func() error) { c.undo = append(c.undo, f) }

// ns makes a namespace that ends with the cluster.
func (c *Cluster) ns(name string) (*testnet.NS, error) {
	n, err := testnet.Create("weft-" + name)
	if err == nil {
		c.later(n.Close)
	}
	return n, err
}

// underlay makes the bridge and the host outside.
func (c *Cluster) underlay() (err error) {
	if c.Bridge, err = c.ns("bridge"); err != nil {
		return err
	}
	if c.Outside, err = c.ns("outside"); err != nil {
		return err
	}
	if err := c.Bridge.IP("link", "add", "br0", "mtu", fmt.Sprint(c.Spec.MTU), "type", "bridge"); err != nil {
		return err
	}
	if err := c.Bridge.IP("link", "set", "br0", "up"); err != nil {
		return err
	}
	if err := c.plug(c.Outside, "outside", 254); err != nil {
		return err
	}
	for _, a := range []string{Outside4.String() + "/32", Outside6.String() + "/128"} {
		if err := c.Outside.IP("addr", "add", a, "dev", "lo"); err != nil {
			return err
		}
	}
	return nil
}

// plug joins a namespace to the bridge as its eth0, with the host number's addresses.
func (c *Cluster) plug(n *testnet.NS, port string, host int) error {
	if err := testnet.Veth(c.Bridge, port, n, "eth0", c.Spec.MTU); err != nil {
		return err
	}
	if err := c.Bridge.IP("link", "set", port, "master", "br0"); err != nil {
		return err
	}
	if err := n.Sysctl("net/ipv6/conf/eth0/accept_dad", "0"); err != nil {
		return err
	}
	a4, a6 := HostAddrs(host)
	if c.Spec.Outer.has(V4) {
		if err := n.IP("addr", "add", a4.String()+"/24", "dev", "eth0"); err != nil {
			return err
		}
	}
	if c.Spec.Outer.has(V6) {
		return n.IP("addr", "add", a6.String()+"/64", "dev", "eth0", "nodad")
	}
	return nil
}

// HostAddrs returns the addresses on the bridge of a host number.
func HostAddrs(host int) (a4, a6 netip.Addr) {
	return netip.MustParseAddr(fmt.Sprintf("172.18.0.%d", host)),
		netip.MustParseAddr(fmt.Sprintf("fd18::%x", host))
}

// Start starts all daemons and waits until they serve.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all daemons and removes everything that was made.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.close())
	}
	for i := len(c.undo) - 1; i >= 0; i-- {
		errs = append(errs, c.undo[i]())
	}
	c.undo = nil
	return errors.Join(errs...)
}
