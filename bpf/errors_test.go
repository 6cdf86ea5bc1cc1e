package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A connected UDP client of a Service whose backend does not listen is refused, wherever
// the backend is.
func TestPortUnreachableReachesClient(t *testing.T) {
	t.Parallel()
	w := newTown(t, false)
	for _, v6 := range []bool{false, true} {
		vip, node, near, other, far := addr("10.96.0.50"), w.a.outer4, w.near.v4, w.other.v4, w.far.v4
		if v6 {
			vip, node, near, other, far = addr("fd00:96::50"), w.a.outer6, w.near.v6, w.other.v6, w.far.v6
		}
		for i, c := range []struct {
			name    string
			from    netns.NsHandle
			at      netip.Addr
			backend netip.Addr
		}{
			{"pod to pod of its node", w.near.ns, vip, other},
			{"pod to pod of another node", w.near.ns, vip, far},
			{"pod to itself", w.near.ns, vip, near},
			{"pod to its node's network", w.near.ns, vip, node},
			{"pod to a node port of its node", w.near.ns, node, far},
			{"outside to a pod of the node", w.outside.ns, node, near},
			{"outside to a pod of another node", w.outside.ns, node, far},
			{"outside to the node's network", w.outside.ns, node, node},
		} {
			at := netip.AddrPortFrom(c.at, uint16(2000+i))
			w.a.serve(t, SetID(500+i), at, c.backend)
			if _, err := askService(t, c.from, "udp", at, 1); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s, v6=%v: %v, want refused", c.name, v6, err)
			}
		}
	}
}

// A UDP client that wants no fragments learns the MTU to its backend through a Service:
// from this node, which knows the peer's, and from the other, whose pod has less.
func TestPathMTUThroughService(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		mtu  int
		make func(w town, mtu int)
	}{
		{"of the peer", 1300, func(w town, mtu int) {
			rows, err := w.a.Peers().Dump()
			must(t, err)
			for prefix, p := range rows {
				p.MTU = uint32(mtu)
				must(t, w.a.Peers().Set(prefix, p))
			}
		}},
		{"of the pod", 1310, func(w town, mtu int) {
			ip(t, w.b.ns, "link set %s mtu %d", w.far.hostVeth.Attrs().Name, mtu)
			rows, err := w.b.Endpoints().Dump()
			must(t, err)
			for _, a := range []netip.Addr{w.far.v4, w.far.v6} {
				e := rows[a]
				e.Flags |= EndpointStack
				must(t, w.b.Endpoints().Set(a, e))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTown(t, false)
			backendEcho(t, w.far.ns, w.far.v4)
			backendEcho(t, w.far.ns, w.far.v6)
			c.make(w, c.mtu)
			for i, f := range []struct {
				name   string
				from   netns.NsHandle
				at, to netip.Addr
			}{
				{"ClusterIP", w.near.ns, addr("10.96.0.60"), w.far.v4},
				{"ClusterIP v6", w.near.ns, addr("fd00:96::60"), w.far.v6},
				{"NodePort", w.outside.ns, w.a.outer4, w.far.v4},
				{"NodePort v6", w.outside.ns, w.a.outer6, w.far.v6},
			} {
				at := netip.AddrPortFrom(f.at, uint16(3000+i))
				w.a.serve(t, SetID(600+i), at, f.to)
				got, err := pathMTU(t, f.from, at, 1400)
				if err != nil || got != c.mtu {
					t.Errorf("%s: MTU %d, %v, want %d", f.name, got, err, c.mtu)
				}
				if _, err := askService(t, f.from, "udp", at, 1200); err != nil {
					t.Errorf("%s, after that: %v", f.name, err)
				}
			}
		})
	}
}

// A TCP client that sends more than fits the way to its backend learns so, too, by segments
// whose checksum is still to be made.
func TestStreamFindsThePathMTUThroughService(t *testing.T) {
	t.Parallel()
	w := newTown(t, false)
	backendEcho(t, w.far.ns, w.far.v4)
	backendEcho(t, w.far.ns, w.far.v6)
	w.a.setPeerMTU(t, 1300)
	for i, c := range []struct {
		from   netns.NsHandle
		at, to netip.Addr
	}{
		{w.near.ns, addr("10.96.0.61"), w.far.v4},
		{w.near.ns, addr("fd00:96::61"), w.far.v6},
		{w.outside.ns, w.a.outer4, w.far.v4},
		{w.outside.ns, w.a.outer6, w.far.v6},
	} {
		at := netip.AddrPortFrom(c.at, uint16(3100+i))
		w.a.serve(t, SetID(620+i), at, c.to)
		if _, err := askService(t, c.from, "tcp", at, 1<<17); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// pathMTU sends datagrams of a size that must not be fragmented until one is refused as
// too big, and returns what the socket then knows as the MTU.
func pathMTU(t testing.TB, ns netns.NsHandle, to netip.AddrPort, size int) (int, error) {
	t.Helper()
	level, discover, get := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if to.Addr().Is6() {
		level, discover, get = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	var c *net.UDPConn
	in(t, ns, func() {
		var err error
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		must(t, err)
	})
	defer c.Close()
	raw, err := c.SyscallConn()
	must(t, err)
	var mtu int
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO) }))
	must(t, err)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		_, err := c.Write(make([]byte, size))
		if errors.Is(err, syscall.EMSGSIZE) {
			must(t, raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, get) }))
			return mtu, err
		}
		if err != nil {
			return 0, err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, fmt.Errorf("%d bytes are never too big", size)
}
