package bpf

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inBoth runs a test as the node's own process and as a pod's.
func inBoth(t *testing.T, n *sockNode, f func(t *testing.T, ns netns.NsHandle)) {
	for name, ns := range map[string]netns.NsHandle{"host": n.host, "pod": n.pod} {
		t.Run(name, func(t *testing.T) { f(t, ns) })
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestSocketConnectsToBackend(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	n.serve(Place{service4, 80, TCP}, Frontend{}, at(backend4(1), 8080))
	n.serve(Place{service6, 80, TCP}, Frontend{}, at(backend6(1), 8080))
	inBoth(t, n, func(t *testing.T, ns netns.NsHandle) {
		tcpServer(t, ns, at(backend4(1), 8080))
		tcpServer(t, ns, at(backend6(1), 8080))
		for to, want := range map[netip.AddrPort]netip.Addr{
			at(service4, 80): backend4(1), at(service6, 80): backend6(1),
		} {
			c, got, err := n.dial(ns, "tcp", to)
			must(t, err)
			if got != want.String() || c.RemoteAddr().String() != to.String() {
				t.Errorf("connected to %s: server %s, peer %s; want %s and %s", to, got, c.RemoteAddr(), want, to)
			}
		}
		// An IPv6 socket that speaks IPv4.
		to := &unix.SockaddrInet6{Port: 80, Addr: service4.As16()}
		var fd int
		n.do(ns, func() {
			var err error
			fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
			must(t, err)
			must(t, unix.Connect(fd, to))
		})
		defer unix.Close(fd)
		b := make([]byte, 100)
		got, err := unix.Read(fd, b)
		must(t, err)
		peer, err := unix.Getpeername(fd)
		must(t, err)
		p, ok := peer.(*unix.SockaddrInet6)
		if string(b[:got]) != backend4(1).String() || !ok || p.Addr != to.Addr || p.Port != 80 {
			t.Errorf("mapped address: server %s, peer %+v; want %s and %+v", b[:got], peer, backend4(1), to)
		}
		// What is no Service is left alone.
		c, got2, err := n.dial(ns, "tcp", at(backend4(1), 8080))
		must(t, err)
		if want := at(backend4(1), 8080).String(); got2 != backend4(1).String() || c.RemoteAddr().String() != want {
			t.Errorf("without a Service: server %s, peer %s; want %s", got2, c.RemoteAddr(), want)
		}
	})
}

func TestSocketSpreadsConnections(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	var places []netip.AddrPort
	for i := 1; i <= 3; i++ {
		places = append(places, at(backend4(i), 8080))
		tcpServer(t, n.host, places[i-1])
	}
	n.serve(Place{service4, 80, TCP}, Frontend{}, places...)
	got := map[string]int{}
	n.do(n.host, func() {
		for range 3000 {
			c, err := net.Dial("tcp", at(service4, 80).String())
			must(t, err)
			b := make([]byte, 100)
			k, err := c.Read(b)
			must(t, err)
			got[string(b[:k])]++
			must(t, c.(*net.TCPConn).SetLinger(0))
			c.Close()
		}
	})
	for _, p := range places {
		if k := got[p.Addr().String()]; k < 700 || k > 1300 {
			t.Errorf("backends got %v, want about 1000 each", got)
		}
	}
	if n, err := n.Begun(Place{service4, 80, TCP}); n != 3000 || err != nil {
		t.Errorf("%d flows began (%v), want 3000", n, err)
	}
	// A connection's row goes with its socket.
	if rows := n.rows(weftMapSockets); rows != 0 {
		t.Errorf("%d sockets are remembered, want none", rows)
	}
}

// rows is how many rows a map that programs write has.
func (n *sockNode) rows(name string) int {
	n.t.Helper()
	var k, v []byte
	count := 0
	for it := n.maps[name].Iterate(); it.Next(&k, &v); {
		count++
	}
	return count
}

func TestSocketConnectedDatagrams(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	for to, b := range map[netip.Addr]netip.Addr{service4: backend4(1), service6: backend6(1)} {
		udpServer(t, n.host, at(b, 5353))
		n.serve(Place{to, 53, UDP}, Frontend{}, at(b, 5353))
		c, got, err := n.dial(n.host, "udp", at(to, 53))
		must(t, err)
		if got != b.String() || c.RemoteAddr().String() != at(to, 53).String() {
			t.Errorf("connected to %s: server %s, peer %s; want %s", to, got, c.RemoteAddr(), b)
		}
		_, err = c.Write([]byte("?"))
		must(t, err)
		_, from, err := c.(*net.UDPConn).ReadFromUDPAddrPort(make([]byte, 100))
		must(t, err)
		if from := at(from.Addr().Unmap(), from.Port()); from != at(to, 53) {
			t.Errorf("the answer came from %s, want %s", from, at(to, 53))
		}
	}
	// In a pod it is the packets' programs' matter.
	n.do(n.pod, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: service4.As4()}))
	})
	if rows := n.rows(weftMapSockets); rows != 2 {
		t.Errorf("%d sockets are remembered, want the host's 2", rows)
	}
}

func TestSocketUnconnectedDatagrams(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	inBoth(t, n, func(t *testing.T, ns netns.NsHandle) {
		for _, c := range []struct {
			service netip.Addr
			backend func(int) netip.Addr
			local   netip.Addr
		}{
			{service4, backend4, netip.IPv4Unspecified()},
			{service6, backend6, netip.IPv6Unspecified()},
			{service4, backend4, netip.IPv6Unspecified()}, // as ::ffff:10.96.0.10
		} {
			var places []netip.AddrPort
			for i := 1; i <= 3; i++ {
				places = append(places, at(c.backend(i), 5353))
			}
			n.serve(Place{c.service, 53, UDP}, Frontend{}, places...)
			var s *net.UDPConn
			n.do(ns, func() { s = udpSocket(t, ns, at(c.local, 0)) })
			t.Run(c.service.String()+" from "+c.local.String(), func(t *testing.T) {
				for i := 1; i <= 3; i++ {
					udpServer(t, ns, at(c.backend(i), 5353))
				}
				first, from := ask(t, s, at(c.service, 53))
				if from != at(c.service, 53) {
					t.Errorf("the answer came from %s, want %s", from, at(c.service, 53))
				}
				for range 20 {
					if got, _ := ask(t, s, at(c.service, 53)); got != first {
						t.Fatalf("a live backend changed from %s to %s", first, got)
					}
				}
				// A backend's end moves the next datagram, a new generation too.
				gone := Place{netip.MustParseAddr(first), 5353, UDP}
				var left []netip.AddrPort
				for _, p := range places {
					if p.Addr() != gone.Addr {
						left = append(left, p)
					}
				}
				n.serve(Place{c.service, 53, UDP}, Frontend{}, left...)
				must(t, n.Alive.Delete(gone))
				second, from := ask(t, s, at(c.service, 53))
				if second == first || from != at(c.service, 53) {
					t.Errorf("after the end of %s: server %s, answer from %s", first, second, from)
				}
				// An answer of a place that is no backend keeps its sender.
				other := at(c.backend(1), 7777)
				udpServer(t, ns, other)
				if _, from := ask(t, s, other); from != other {
					t.Errorf("the answer came from %s, want %s", from, other)
				}
			})
		}
	})
}

func TestSocketIsRefused(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	drop := netip.MustParseAddr("10.96.0.11")
	must(t, n.Sets.Set(81<<8|SetID(TCP), Set{Flags: SetDrop}))
	must(t, n.Sets.Set(81<<8|SetID(UDP), Set{Flags: SetDrop}))
	for _, p := range []Protocol{TCP, UDP} {
		n.serve(Place{service4, 80, p}, Frontend{})
		n.serve(Place{service6, 80, p}, Frontend{})
		n.serve(Place{drop, 81, p}, Frontend{})
	}
	inBoth(t, n, func(t *testing.T, ns netns.NsHandle) {
		start := time.Now()
		for to, want := range map[netip.AddrPort]unix.Errno{
			at(service4, 80): unix.ECONNREFUSED, at(service6, 80): unix.ECONNREFUSED, // no backend
			at(service4, 99): unix.ECONNREFUSED, at(service6, 99): unix.ECONNREFUSED, // no port
			at(drop, 81): unix.EHOSTUNREACH,
		} {
			_, _, err := n.dial(ns, "tcp", to)
			wantErrno(t, "connect to "+to.String(), err, want)
			var s *net.UDPConn
			n.do(ns, func() { s = udpSocket(t, ns, at(netip.IPv6Unspecified(), 0)) })
			_, err = s.WriteToUDPAddrPort([]byte("?"), to)
			wantErrno(t, "send to "+to.String(), err, want)
			if ns == n.host {
				_, _, err = n.dial(ns, "udp", to)
				wantErrno(t, "connect UDP to "+to.String(), err, want)
			}
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("being refused took %s", d)
		}
	})
}

// What the socket's programs cannot know is the packets' programs' matter: then the
// destination stays what it is, and there is nobody at it here.
func TestSocketLeavesAlone(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	lo := netip.MustParseAddr("127.0.0.1")
	n.serve(Place{service4, 80, TCP}, Frontend{Affinity: 100}, at(backend4(1), 8080), at(backend4(2), 8080), at(backend4(3), 8080))
	n.serve(Place{service4, 81, TCP}, Frontend{Ranges: 5}, at(backend4(1), 8080))
	n.serve(Place{lo, 82, TCP}, Frontend{}, at(backend4(1), 8080))
	n.serve(Place{netip.IPv6Loopback(), 82, TCP}, Frontend{}, at(backend6(1), 8080))
	for _, ns := range []netns.NsHandle{n.host, n.pod} {
		for i := 1; i <= 3; i++ {
			tcpServer(t, ns, at(backend4(i), 8080))
			tcpServer(t, ns, at(backend6(i), 8080))
		}
	}
	left := func(ns netns.NsHandle, to netip.AddrPort) bool {
		t.Helper()
		fd := -1
		n.do(ns, func() {
			var err error
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			must(t, err)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil && err != unix.EINPROGRESS {
				t.Errorf("connect to %s: %v", to, err)
			}
		})
		defer unix.Close(fd)
		c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		must(t, err)
		_, translated, err := get[uint64, weftConnected](n.Datapath, weftMapSockets, c)
		must(t, err)
		return !translated
	}
	for _, c := range []struct {
		what string
		ns   netns.NsHandle
		to   netip.AddrPort
		want bool
	}{
		{"pod, affinity", n.pod, at(service4, 80), true},
		{"host, affinity", n.host, at(service4, 80), false},
		{"pod, ranges", n.pod, at(service4, 81), true},
		{"host, ranges", n.host, at(service4, 81), true},
	} {
		if got := left(c.ns, c.to); got != c.want {
			t.Errorf("%s: left alone %v, want %v", c.what, got, c.want)
		}
	}
	for to, want := range map[netip.Addr]string{lo: backend4(1).String(), netip.IPv6Loopback(): backend6(1).String()} {
		if _, got, err := n.dial(n.host, "tcp", at(to, 82)); err != nil || got != want {
			t.Errorf("host, %s: server %q, error %v; want %s", to, got, err, want)
		}
		_, _, err := n.dial(n.pod, "tcp", at(to, 82)) // the pod's own, where nobody listens
		wantErrno(t, "pod, "+to.String(), err, unix.ECONNREFUSED)
	}
}

// While connections live that began elsewhere, those that pods begin are left to the
// packets; the host's are not.
func TestSocketLeavesPodsToPackets(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	n.serve(Place{service4, 80, TCP}, Frontend{}, at(backend4(1), 8080))
	n.serve(Place{service6, 80, TCP}, Frontend{}, at(backend6(1), 8080))
	for _, ns := range []netns.NsHandle{n.host, n.pod} {
		tcpServer(t, ns, at(backend4(1), 8080))
		tcpServer(t, ns, at(backend6(1), 8080))
	}
	for _, leave := range []bool{false, true, false} {
		must(t, n.LeavePodsToPackets(leave))
		for _, to := range []netip.AddrPort{at(service4, 80), at(service6, 80)} {
			if _, _, err := n.dial(n.host, "tcp", to); err != nil {
				t.Errorf("leave=%v: host to %s: %v", leave, to, err)
			}
			var fd int
			n.do(n.pod, func() {
				family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: 80, Addr: to.Addr().As16()})
				if to.Addr().Is4() {
					family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: 80, Addr: to.Addr().As4()}
				}
				var err error
				fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				must(t, err)
				if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS && err != unix.ENETUNREACH {
					t.Errorf("leave=%v: pod to %s: %v", leave, to, err)
				}
			})
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			must(t, err)
			_, translated, err := get[uint64, weftConnected](n.Datapath, weftMapSockets, cookie)
			must(t, err)
			if translated == leave {
				t.Errorf("leave=%v: pod to %s: translated %v", leave, to, translated)
			}
			unix.Close(fd)
		}
	}
}

// The host stays with its backend until the time is over, or that ends or is not chosen any
// more.
func TestSocketStaysWithBackend(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	var places []netip.AddrPort
	for i := 1; i <= 3; i++ {
		places = append(places, at(backend4(i), 8080))
		tcpServer(t, n.host, places[i-1])
	}
	n.serve(Place{service4, 80, TCP}, Frontend{Affinity: 100}, places...)
	first, seen := "", map[string]bool{}
	for range 20 {
		_, got, err := n.dial(n.host, "tcp", at(service4, 80))
		must(t, err)
		if first == "" {
			first = got
		}
		if got != first {
			t.Fatalf("affinity: server %s, want %s", got, first)
		}
	}
	for range 40 {
		n.pass(t, 200*time.Second)
		_, got, err := n.dial(n.host, "tcp", at(service4, 80))
		must(t, err)
		seen[got] = true
	}
	if len(seen) != len(places) {
		t.Errorf("affinity that is over: servers %v, want all", seen)
	}
	_, got, err := n.dial(n.host, "tcp", at(service4, 80))
	must(t, err)
	dead := Place{netip.MustParseAddr(got), 8080, TCP}
	places = slices.DeleteFunc(places, func(p netip.AddrPort) bool { return p.Addr() == dead.Addr })
	n.serve(Place{service4, 80, TCP}, Frontend{Affinity: 100}, places...)
	must(t, n.Alive.Delete(dead))
	_, now, err := n.dial(n.host, "tcp", at(service4, 80))
	if err != nil || now == got {
		t.Errorf("after the end of %s: server %q, error %v", got, now, err)
	}
	// The next one lives, but is not chosen any more.
	places = slices.DeleteFunc(places, func(p netip.AddrPort) bool { return p.Addr().String() == now })
	n.serve(Place{service4, 80, TCP}, Frontend{Affinity: 100}, places...)
	if _, got, err := n.dial(n.host, "tcp", at(service4, 80)); err != nil || got != places[0].Addr().String() {
		t.Errorf("when %s is not ready: server %q, error %v; want %s", now, got, err, places[0].Addr())
	}
}
