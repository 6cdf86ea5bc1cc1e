package endpoint

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/ipam"
	"github.com/weftnet/weft/overlay"
)

// TestMain runs the tests in a child that is alone in its network and mount
// namespaces: the node. All it makes ends with it.
func TestMain(m *testing.M) {
	if os.Getenv("WEFT_TEST_NODE") != "" {
		// A test that starts this binary again does so on the node as it is.
		if os.Getenv("WEFT_TEST_PREPARED") != "" {
			os.Exit(m.Run())
		}
		if err := prepareNode(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare node:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "WEFT_TEST_NODE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run tests in namespaces of their own (needs root):", err)
		os.Exit(1)
	}
}

const (
	gateway4 = "10.244.1.1"
	gateway6 = "fd00:244:1::1"
)

func prepareNode() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// So that /sys/class/net shows this namespace's devices.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	for _, args := range []string{
		"link set lo up",
		"addr add " + gateway4 + "/32 dev lo",
		"addr add " + gateway6 + "/128 dev lo nodad",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	for dir, key := range map[string]string{"net/ipv4": "ip_forward", "net/ipv6/conf/all": "forwarding"} {
		if err := (sysctlDir{name: dir}).set(map[string]string{key: "1"}); err != nil {
			return err
		}
	}
	return nil
}

// rows is a table of the kernel that is a map.
type rows[K, V comparable] struct {
	mu sync.Mutex
	m  map[K]V
	// What Set and Delete answer, if set, and what they call.
	fail, failDelete error
	hook, hookDelete func()
}

func newRows[K, V comparable]() *rows[K, V] { return &rows[K, V]{m: map[K]V{}} }

func (r *rows[K, V]) Dump() (map[K]V, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.m), nil
}

func (r *rows[K, V]) Get(k K) (V, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.m[k]
	return v, ok, nil
}

func (r *rows[K, V]) Set(k K, v V) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook != nil {
		r.hook()
	}
	if r.fail != nil {
		return r.fail
	}
	r.m[k] = v
	return nil
}

func (r *rows[K, V]) Delete(k K) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hookDelete != nil {
		r.hookDelete()
	}
	if r.failDelete != nil {
		return r.failDelete
	}
	delete(r.m, k)
	return nil
}

// node is a manager with its tables: routes and neighbours real, BPF as maps.
type node struct {
	*Manager
	t     testing.TB
	dir   string
	now   time.Time
	net   Net
	rows  *rows[netip.Addr, bpf.Endpoint]
	link  *rows[bpf.Hook, struct{}]
	path  *bpf.Datapath     // instead of rows and link, if set
	seen  map[string]bool   // what Changed said, by container
	ports func(Ports) error // instead of one that does nothing
	// What policies say; nil: nothing.
	policies Policies
	mu       sync.Mutex
}

var pools = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:1::/64")}

// newNode starts a manager over a state folder of its own.
func newNode(t testing.TB, prefixes ...netip.Prefix) *node {
	t.Helper()
	if len(prefixes) == 0 {
		prefixes = pools
	}
	n := &node{t: t, dir: t.TempDir(), now: time.Now(), net: Net{Gateways: gatewaysOf(prefixes), MTU: 1450}}
	n.reset()
	n.start(prefixes...)
	t.Cleanup(func() {
		if err := Uninstall(context.Background()); err != nil {
			t.Errorf("uninstall: %v", err)
		}
	})
	return n
}

func gatewaysOf(prefixes []netip.Prefix) []netip.Addr { return overlay.GatewayAddrs(prefixes) }

// reset empties the tables that are maps.
func (n *node) reset() {
	n.rows, n.link = newRows[netip.Addr, bpf.Endpoint](), newRows[bpf.Hook, struct{}]()
}

// start makes the manager, anew if there was one: a restart of the daemon.
func (n *node) start(prefixes ...netip.Prefix) {
	n.t.Helper()
	clock := func() time.Time { n.mu.Lock(); defer n.mu.Unlock(); return n.now }
	pool, err := ipam.Open(n.dir, ipam.Options{Now: clock, ReuseDelay: 30 * time.Second})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := pool.SetPools(prefixes); err != nil {
		n.t.Fatal(err)
	}
	n.seen = map[string]bool{}
	ours := func(name string) bool { return strings.HasPrefix(name, "weft") }
	var rowTarget reconcile.Target[netip.Addr, bpf.Endpoint] = n.rows
	var linkTarget reconcile.Target[bpf.Hook, struct{}] = n.link
	if n.path != nil {
		rowTarget, linkTarget = n.path.Endpoints(), n.path.Links()
	}
	n.Manager = New(Deps{
		IPAM:      pool,
		Routes:    reconcile.New("routes", overlay.NewRoutes()),
		Neighs:    reconcile.New("neighbours", overlay.NewNeighbours(ours)),
		Rows:      reconcile.New("endpoints", rowTarget),
		Links:     reconcile.New("links", linkTarget),
		RowTarget: rowTarget, LinkTarget: linkTarget,
		Net: func() Net { n.mu.Lock(); defer n.mu.Unlock(); return n.net },
		Now: clock, StateDir: n.dir, Policies: n.policies,
		Changed: func(e api.Endpoint, gone bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.seen[e.ContainerID] = !gone
		},
		Ports: func(p Ports) error {
			if n.ports == nil {
				return nil
			}
			return n.ports(p)
		},
	})
}

// pass lets time go by.
func (n *node) pass(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = n.now.Add(d)
}

// newNetns makes a network namespace and answers its path.
func newNetns(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		t.Fatalf("make network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// endNetns ends a namespace that nothing else holds.
func endNetns(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

var containers int

// attach is a request for a new container in a namespace of its own.
func attach(t testing.TB) api.Attach {
	t.Helper()
	containers++
	return api.Attach{
		ContainerID: fmt.Sprintf("c%04d", containers), IfName: "eth0", Netns: newNetns(t), Network: "weft",
		PodNamespace: "default", PodName: fmt.Sprintf("pod-%d", containers),
	}
}

// mustAdd adds, and fails the test if that fails.
func (n *node) mustAdd(a api.Attach) []netip.Addr {
	n.t.Helper()
	r, err := n.Add(context.Background(), a)
	if err != nil {
		n.t.Fatalf("add %s: %v", a.ContainerID, err)
	}
	var out []netip.Addr
	for _, ip := range r.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, addr.Unmap())
	}
	return out
}

// in runs a command in a namespace and answers what it printed.
func in(t testing.TB, path, command string) string {
	t.Helper()
	out, err := tryIn(path, command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

func tryIn(path, command string) (string, error) {
	args := append([]string{"--net=" + path, "--"}, strings.Fields(command)...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	return string(out), err
}

// run runs a command on the node.
func run(t testing.TB, command string) string {
	t.Helper()
	args := strings.Fields(command)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// connect makes a TCP connection in each family between a namespace and the other:
// from fromPath ("" is the node) to an address in toPath.
func connect(t *testing.T, fromPath, toPath string, to netip.Addr) error {
	t.Helper()
	var listener net.Listener
	within(t, toPath, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String())
		return err
	})
	defer listener.Close()
	target := listener.Addr()
	var result error
	within(t, fromPath, func() error {
		var c net.Conn
		if c, result = net.DialTimeout("tcp", target.String(), 3*time.Second); result == nil {
			result = c.Close()
		}
		return nil
	})
	return result
}

// within runs f in a namespace; "" is the node's.
func within(t *testing.T, path string, f func() error) {
	t.Helper()
	if path == "" {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return
	}
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	if err := ns.do(f); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
