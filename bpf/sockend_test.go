package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func nsPath(ns netns.NsHandle) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns)) }

// gone is what the daemon asks: is the backend's row away, or another's?
func (n *sockNode) gone(p Place, generation uint32) bool {
	now, ok, err := n.Alive.(interface {
		Get(Place) (uint32, bool, error)
	}).Get(p)
	return err == nil && (!ok || now != generation)
}

// lives says whether the connection still is one.
func lives(t testing.TB, c net.Conn) bool {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Read(make([]byte, 100))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	if !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("end of the connection: %v, want an abort", err)
	}
	return false
}

func TestSocketsOfDeadBackendsEnd(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	paths := []string{nsPath(n.host), "/run/netns/there-is-none", nsPath(n.pod)}
	one, two, six := at(backend4(1), 8080), at(backend4(2), 8080), at(backend6(1), 8080)
	for _, p := range []Protocol{TCP, UDP} {
		n.serve(Place{service4, 80, p}, Frontend{}, one)
		n.serve(Place{service4, 81, p}, Frontend{}, two)
		n.serve(Place{service6, 80, p}, Frontend{}, six)
	}
	type conn struct {
		net.Conn
		name string
	}
	var onOne, onTwo, onSix, direct []conn
	open := func(list *[]conn, ns netns.NsHandle, network string, to netip.AddrPort) {
		t.Helper()
		c, _, err := n.dial(ns, network, to)
		must(t, err)
		*list = append(*list, conn{c, fmt.Sprintf("%s to %s by %v", network, to, ns)})
	}
	for _, ns := range []netns.NsHandle{n.host, n.pod} {
		for _, at := range []netip.AddrPort{one, two, six} {
			tcpServer(t, ns, at)
			udpServer(t, ns, at)
		}
		open(&onOne, ns, "tcp", at(service4, 80))
		open(&onOne, ns, "tcp", at(service4, 80))
		open(&onTwo, ns, "tcp", at(service4, 81))
		open(&onSix, ns, "tcp", at(service6, 80))
		open(&direct, ns, "tcp", one)
		open(&direct, ns, "tcp", six)
	}
	// A socket of IPv6 that speaks IPv4.
	var mapped int
	n.do(n.host, func() {
		var err error
		mapped, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		must(t, err)
		must(t, unix.Connect(mapped, &unix.SockaddrInet6{Port: 80, Addr: service4.As16()}))
	})
	f := os.NewFile(uintptr(mapped), "mapped")
	defer f.Close()
	c, err := net.FileConn(f)
	must(t, err)
	defer c.Close()
	_, err = c.Read(make([]byte, 100))
	must(t, err)
	onOne = append(onOne, conn{c, "mapped"})

	open(&onOne, n.host, "udp", at(service4, 80))
	open(&onTwo, n.host, "udp", at(service4, 81))
	open(&onSix, n.host, "udp", at(service6, 80))
	open(&direct, n.host, "udp", one)

	check := func(when string, list []conn, want bool) {
		t.Helper()
		for _, c := range list {
			if got := lives(t, c); got != want {
				t.Errorf("%s: %s lives: %v, want %v", when, c.name, got, want)
			}
		}
	}
	end := func(want int) {
		t.Helper()
		got, err := n.EndSockets(n.gone, paths...)
		if err != nil || got != want {
			t.Errorf("ended %d sockets, error %v; want %d", got, err, want)
		}
	}
	end(0)
	for _, p := range []Protocol{TCP, UDP} {
		must(t, n.Alive.Delete(Place{one.Addr(), one.Port(), p}))
	}
	end(len(onOne))
	end(0)
	check("first end", onOne, false)
	check("first end", onTwo, true)
	check("first end", onSix, true)
	check("first end", direct, true)
	for _, p := range []Protocol{TCP, UDP} {
		must(t, n.Alive.Delete(Place{two.Addr(), two.Port(), p}))
		must(t, n.Alive.Set(Place{six.Addr(), six.Port(), p}, 99)) // another pod's now
	}
	end(len(onTwo) + len(onSix))
	check("second end", onTwo, false)
	check("second end", onSix, false)
	check("second end", direct, true)
	// Only in the namespaces that are named.
	open(&onTwo, n.pod, "tcp", at(service4, 81))
	if got, err := n.EndSockets(n.gone, nsPath(n.host)); err != nil || got != 0 {
		t.Errorf("ended %d sockets of the host, error %v; want none", got, err)
	}
	end(1)
}

// The filter that the kernel applies is byte code of ours: with many places at once it
// must accept each and nothing else.
func TestManyDeadBackendsAtOnce(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	const count = 3*diagFilterPlaces/2 + 1
	ip(t, n.host, "route add local 10.2.0.0/24 dev lo")
	tcpServer(t, n.host, at(netip.IPv4Unspecified(), 8080))
	var list []net.Conn
	for i := range count {
		b := at(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), 8080)
		n.serve(Place{service4, uint16(1000 + i), TCP}, Frontend{}, b)
		c, _, err := n.dial(n.host, "tcp", at(service4, uint16(1000+i)))
		must(t, err)
		other, _, err := n.dial(n.host, "tcp", b)
		must(t, err)
		defer other.Close()
		list = append(list, c, other)
	}
	got, err := n.EndSockets(func(Place, uint32) bool { return true }, nsPath(n.host))
	if err != nil || got != count {
		t.Errorf("ended %d sockets, error %v; want %d", got, err, count)
	}
	for i, c := range list {
		if got, want := lives(t, c), i%2 == 1; got != want {
			t.Errorf("connection %d to %s lives: %v, want %v", i, c.RemoteAddr(), got, want)
		}
	}
}
