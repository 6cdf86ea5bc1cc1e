package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// Node is one node: a namespace, and a daemon with folders of its own.
type Node struct {
	Name     string
	Number   int
	NS       *testnet.NS
	Addrs    []netip.Addr // as in the Node object
	PodCIDRs []netip.Prefix
	Dir      string // below it: state, run, net.d, bin, cache
	BPFDir   string
	Cgroup   string   // whose processes are the node's: [Node.Join]; empty: there is no cgroup2
	Bin      string   // folder of the binaries it runs
	Flags    []string // more flags for weftd

	cluster *Cluster
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd has ended
}

func (c *Cluster) newNode(number int) (*Node, error) {
	n := &Node{
		Name: fmt.Sprintf("node-%d", number), Number: number,
		cluster: c, Bin: c.Spec.Bin, Flags: c.Spec.Flags,
	}
	n.Dir = filepath.Join(c.Dir, n.Name)
	n.BPFDir = filepath.Join(c.bpffs, n.Name)
	for _, d := range []string{"state", "run", "net.d", "bin", "cache"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make folders of %s: %w", n.Name, err)
		}
	}
	var err error
	if n.NS, err = c.ns(n.Name); err != nil {
		return nil, err
	}
	if n.Cgroup, err = c.cgroup(); err != nil {
		return nil, err
	}
	if err := c.plug(n.NS, n.Name, number); err != nil {
		return nil, err
	}
	a4, a6 := HostAddrs(number)
	gw4, gw6 := HostAddrs(254)
	if c.Spec.Outer.has(V4) {
		n.Addrs = append(n.Addrs, a4)
		if err := n.NS.IP("route", "add", "default", "via", gw4.String()); err != nil {
			return nil, err
		}
	}
	if c.Spec.Outer.has(V6) {
		n.Addrs = append(n.Addrs, a6)
		if err := n.NS.IP("route", "add", "default", "via", gw6.String()); err != nil {
			return nil, err
		}
	}
	if c.Spec.OuterV6First && len(n.Addrs) == 2 {
		n.Addrs[0], n.Addrs[1] = n.Addrs[1], n.Addrs[0]
	}
	if c.Spec.Pods.has(V4) {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", number)))
	}
	if c.Spec.Pods.has(V6) {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd00:244:%x::/64", number)))
	}
	return n, nil
}

// NodeYAML is a Node object.
func NodeYAML(name string, podCIDRs []netip.Prefix, addrs []netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec:\n  podCIDRs:\n", name)
	for _, p := range podCIDRs {
		fmt.Fprintf(&b, "  - %q\n", p)
	}
	b.WriteString("status:\n  addresses:\n")
	for _, a := range addrs {
		fmt.Fprintf(&b, "  - {type: InternalIP, address: %q}\n", a)
	}
	return b.String()
}

// WriteNode writes the node's object into the source, as a whole.
func (c *Cluster) WriteNode(n *Node) error {
	return c.WriteObject(n.Name, NodeYAML(n.Name, n.PodCIDRs, n.Addrs))
}

// WriteObject writes a file of objects into the source, by rename.
func (c *Cluster) WriteObject(name, text string) error {
	path := filepath.Join(c.Source, name+".yaml")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return fmt.Errorf("write object: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write object: %w", err)
	}
	return nil
}

// DeleteObject removes a file of objects.
func (c *Cluster) DeleteObject(name string) error {
	return os.Remove(filepath.Join(c.Source, name+".yaml"))
}

// Path is a path below the node's folder.
func (n *Node) Path(elem ...string) string { return filepath.Join(append([]string{n.Dir}, elem...)...) }

// Socket is the daemon's.
func (n *Node) Socket() string { return n.Path("run", "weftd.sock") }

// Client talks to the node's daemon.
func (n *Node) Client() *api.Client { return api.NewClient(n.Socket()) }

// Settings are weftd's flags for this node.
func (n *Node) Settings() []string {
	return append([]string{
		"--node-name", n.Name, "--source", "dir:" + n.cluster.Source, "--socket", n.Socket(),
		"--state-dir", n.Path("state"), "--bpf-dir", n.BPFDir,
		"--cni-conf-dir", n.Path("net.d"), "--cni-bin-dir", n.Path("bin"),
		"--cni-binary", filepath.Join(n.Bin, "weft-cni"), "--cgroup", cmp.Or(n.Cgroup, "none"),
	}, n.Flags...)
}

// Command is a weftd command on this node, not started.
func (n *Node) Command(verb string, more ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(n.Bin, "weftd"), append(append([]string{verb}, n.Settings()...), more...)...)
	cmd.Env = append(append(os.Environ(), "GOTRACEBACK=all"), n.cluster.Spec.Env...)
	return cmd
}

// Start starts the daemon; it appends to the file weftd.log in the node's folder.
func (n *Node) Start(more ...string) error {
	if n.cmd != nil {
		return fmt.Errorf("%s: daemon is running", n.Name)
	}
	log, err := os.OpenFile(n.Path("weftd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := n.Command("run", more...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.NS.Start(cmd); err != nil {
		return fmt.Errorf("start weftd on %s: %w", n.Name, err)
	}
	n.cmd, n.done = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(n.done)
	}()
	return nil
}

// PID of the daemon; 0 if none runs.
func (n *Node) PID() int {
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Done is closed when the daemon has ended, by itself or by [Node.Stop].
func (n *Node) Done() <-chan struct{} { return n.done }

// Stop sends the signal and waits for the end. Without a daemon it does nothing.
func (n *Node) Stop(sig syscall.Signal) error {
	if n.cmd == nil {
		return nil
	}
	err := n.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-n.done:
	case <-time.After(20 * time.Second):
		err = errors.Join(fmt.Errorf("weftd on %s did not end within 20 s of %s", n.Name, sig), n.cmd.Process.Kill())
		<-n.done
	}
	n.cmd = nil
	return err
}

// Kill ends the daemon without notice (SIGKILL).
func (n *Node) Kill() error { return n.Stop(syscall.SIGKILL) }

// WaitReady waits until the daemon says that it is ready and has written the CNI
// configuration, as a runtime would.
func (n *Node) WaitReady(ctx context.Context) error {
	err := testnet.Wait(ctx, func() error {
		s, err := n.Client().Status(ctx)
		if err != nil {
			return err
		}
		if !s.Ready {
			return fmt.Errorf("not ready: %v", s.Problems)
		}
		_, err = n.ConfList()
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w\n%s", n.Name, err, n.LogTail(20))
	}
	return nil
}

// LogTail returns the last lines of the daemon's log.
func (n *Node) LogTail(lines int) string {
	b, err := os.ReadFile(n.Path("weftd.log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (n *Node) close() error {
	return n.Kill()
}
