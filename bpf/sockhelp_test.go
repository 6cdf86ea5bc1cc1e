package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The places of the tests: a Service, and the backends 10.1.0.11… and fd01::11….
var (
	service4 = netip.MustParseAddr("10.96.0.10")
	service6 = netip.MustParseAddr("fd00:96::10")
)

func backend4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + i)}) }

func backend6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 1, 15: byte(0x10 + i)})
}

// newCgroup makes a cgroup below the one that the test is in.
func newCgroup(t testing.TB) string {
	t.Helper()
	root, err := FindCgroup()
	must(t, err)
	return newCgroupIn(t, filepath.Join(root, threadCgroup(t)))
}

// newCgroupIn makes a threaded cgroup: tests that run beside each other are one process,
// and each moves only the thread that it is on.
func newCgroupIn(t testing.TB, parent string) string {
	t.Helper()
	dir := filepath.Join(parent, fmt.Sprintf("weft-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		// The kernel moves a thread out of it a moment after we asked.
		var err error
		for range 100 {
			if err = os.Remove(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("remove cgroup: %v", err)
	})
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.type"), []byte("threaded"), 0))
	return dir
}

// threadCgroup is the cgroup2 path ("/a/b") of the thread that this runs on.
func threadCgroup(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/cgroup")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(p)
		}
	}
	t.Fatal("this thread is in no cgroup2")
	return ""
}

// inCgroup runs f in a cgroup: sockets that f makes belong there. What goroutines that f
// starts make does not.
func inCgroup(t testing.TB, dir string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	root, err := FindCgroup()
	must(t, err)
	home := filepath.Join(root, threadCgroup(t))
	enter := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.threads"), []byte("0"), 0)
	}
	must(t, enter(dir))
	defer func() {
		if err := enter(home); err != nil {
			panic(err) // the thread must not go on in the wrong cgroup
		}
	}()
	f()
}

// sockNode is a node with programs on a cgroup of its own; its network namespace and
// that of one pod both have all backends' addresses.
type sockNode struct {
	*Datapath
	Services
	t         testing.TB
	o         Options
	cgroup    string
	host, pod netns.NsHandle
}

func newSockNode(t testing.TB) *sockNode {
	t.Helper()
	n := &sockNode{t: t, cgroup: newCgroup(t), host: newNS(t), pod: newNS(t)}
	for _, ns := range []netns.NsHandle{n.host, n.pod} {
		for i := 1; i <= 3; i++ {
			ip(t, ns, "addr add %s/32 dev lo", backend4(i))
			ip(t, ns, "addr add %s/128 dev lo nodad", backend6(i))
		}
		ip(t, ns, "route add 10.96.0.0/16 dev lo") // what is not translated goes nowhere
	}
	n.o = Options{Dir: bpffs(t)}
	n.start()
	t.Cleanup(func() { must(t, Remove(n.o.Dir)) })
	return n
}

// start opens the datapath as the node's daemon does.
func (n *sockNode) start() {
	n.t.Helper()
	in(n.t, n.host, func() { n.Datapath = open(n.t, n.o) })
	n.Services = n.Datapath.Services()
	n.attach()
}

func (n *sockNode) attach() {
	n.t.Helper()
	for p := range SocketPrograms() {
		must(n.t, n.SocketHooks(n.cgroup).Set(p, struct{}{}))
	}
}

// serve gives a Service its backends, as many as there are places. The generation of
// each is its number.
func (n *sockNode) serve(at Place, f Frontend, backends ...netip.AddrPort) {
	n.t.Helper()
	f.Inside = SetID(at.Port)<<8 | SetID(at.Protocol)
	if at.Addr.Is6() {
		f.Inside |= 1 << 32
	}
	for i, b := range backends {
		must(n.t, n.Alive.Set(Place{b.Addr(), b.Port(), at.Protocol}, uint32(i+1)))
		must(n.t, n.Backends.Set(Slot{f.Inside, uint32(i)}, Backend{b.Addr(), b.Port(), uint32(i + 1)}))
	}
	s, _, err := n.Sets.(interface {
		Get(SetID) (Set, bool, error)
	}).Get(f.Inside)
	must(n.t, err)
	must(n.t, n.Sets.Set(f.Inside, Set{Count: uint32(len(backends)), Flags: s.Flags}))
	must(n.t, n.Frontends.Set(at, f))
	must(n.t, n.Frontends.Set(Place{Addr: at.Addr}, Frontend{}))
}

// do runs f in the node's cgroup and a namespace.
func (n *sockNode) do(ns netns.NsHandle, f func()) {
	n.t.Helper()
	inCgroup(n.t, n.cgroup, func() { in(n.t, ns, f) })
}

// tcpServer accepts and sends its own address to everyone, then reads until the end.
func tcpServer(t testing.TB, ns netns.NsHandle, at netip.AddrPort) {
	t.Helper()
	var l *net.TCPListener
	in(t, ns, func() {
		var err error
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		must(t, err)
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, at.Addr())
				var b [1]byte
				for err == nil {
					_, err = c.Read(b[:])
				}
			}()
		}
	}()
}

// udpServer answers every datagram with its own address.
func udpServer(t testing.TB, ns netns.NsHandle, at netip.AddrPort) {
	t.Helper()
	c := udpSocket(t, ns, at)
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort([]byte(at.Addr().String()), from)
			}
		}
	}()
}

func udpSocket(t testing.TB, ns netns.NsHandle, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	in(t, ns, func() {
		network := "udp" // of IPv6, for both
		if at.Addr().Is4() {
			network = "udp4"
		}
		var err error
		c, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
		must(t, err)
	})
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// dial connects a socket that is made in the node's cgroup and a namespace, and returns
// the address that the server says it has (TCP).
func (n *sockNode) dial(ns netns.NsHandle, network string, to netip.AddrPort) (net.Conn, string, error) {
	n.t.Helper()
	var c net.Conn
	var err error
	n.do(ns, func() { c, err = net.DialTimeout(network, to.String(), 5*time.Second) })
	if err != nil {
		return nil, "", err
	}
	n.t.Cleanup(func() { c.Close() })
	must(n.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	if network == "udp" {
		_, err = c.Write([]byte("?"))
		must(n.t, err)
	}
	b := make([]byte, 100)
	got, err := c.Read(b)
	return c, string(b[:got]), err
}

// ask sends a datagram from an unconnected socket and returns what the server says its
// address is, and where the answer came from.
func ask(t testing.TB, c *net.UDPConn, to netip.AddrPort) (string, netip.AddrPort) {
	t.Helper()
	_, err := c.WriteToUDPAddrPort([]byte("?"), to)
	must(t, err)
	b := make([]byte, 100)
	got, from, err := c.ReadFromUDPAddrPort(b)
	must(t, err)
	return string(bytes.TrimSpace(b[:got])), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// wantErrno fails the test unless err is that of the kernel.
func wantErrno(t testing.TB, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
