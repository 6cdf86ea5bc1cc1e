package bpf

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// datagrams sends UDP datagrams of some sizes and wants each back; it returns the
// source address that the other end saw.
func datagrams(t testing.TB, from, to netns.NsHandle, dst netip.Addr, sizes ...int) netip.Addr {
	t.Helper()
	var l *net.UDPConn
	in(t, to, func() {
		var err error
		l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		must(t, err)
	})
	defer l.Close()
	var c *net.UDPConn
	in(t, from, func() {
		var err error
		c, err = net.DialUDP("udp", nil, l.LocalAddr().(*net.UDPAddr))
		must(t, err)
	})
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	l.SetDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, 1<<16)
	var seen netip.AddrPort
	for _, size := range sizes {
		data := bytes.Repeat([]byte{byte(size)}, size)
		_, err := c.Write(data)
		must(t, err)
		n, src, err := l.ReadFromUDPAddrPort(buf)
		if err != nil || !bytes.Equal(buf[:n], data) {
			t.Fatalf("datagram of %d bytes to %s: got %d, %v", size, dst, n, err)
		}
		seen = src
		_, err = l.WriteToUDPAddrPort(data, src)
		must(t, err)
		if n, err = c.Read(buf); err != nil || !bytes.Equal(buf[:n], data) {
			t.Fatalf("answer of %d bytes from %s: got %d, %v", size, dst, n, err)
		}
	}
	return seen.Addr().Unmap()
}

// stream sends data over TCP and wants it back whole.
func stream(t testing.TB, from, to netns.NsHandle, dst netip.Addr) {
	t.Helper()
	data := bytes.Repeat([]byte("weft and warp "), 1<<16)
	var l net.Listener
	in(t, to, func() {
		var err error
		l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String())
		must(t, err)
	})
	defer l.Close()
	echo := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			buf := make([]byte, len(data))
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err = io.ReadFull(c, buf); err == nil {
				_, err = c.Write(buf)
			}
		}
		echo <- err
	}()
	in(t, from, func() {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		must(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		sent := make(chan error, 1)
		go func() { _, err := c.Write(data); sent <- err }()
		got := make([]byte, len(data))
		_, err = io.ReadFull(c, got)
		must(t, err)
		must(t, <-sent)
		if !bytes.Equal(got, data) {
			t.Errorf("stream to %s came back damaged", dst)
		}
	})
	must(t, <-echo)
}

func TestTrafficBetweenPodsAndHosts(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name           string
		outer6, direct bool
	}{{"vxlan over v4", false, false}, {"vxlan over v6", true, false}, {"direct", false, true}} {
		t.Run(mode.name, func(t *testing.T) {
			segment := newSegment(t)
			a, b := newHost(t, 1, segment), newHost(t, 2, segment)
			a.knows(b, mode.outer6, mode.direct)
			b.knows(a, mode.outer6, mode.direct)
			p, near, far := a.addPod(), a.addPod(), b.addPod()
			for _, c := range []struct {
				name     string
				from, to netns.NsHandle
				v4, v6   netip.Addr
				seen     map[bool]netip.Addr // by "is IPv6": the source
			}{
				{"same node", p.ns, near.ns, near.v4, near.v6, map[bool]netip.Addr{false: p.v4, true: p.v6}},
				{"cross node", p.ns, far.ns, far.v4, far.v6, map[bool]netip.Addr{false: p.v4, true: p.v6}},
				{"back", far.ns, p.ns, p.v4, p.v6, map[bool]netip.Addr{false: far.v4, true: far.v6}},
				{"host to local pod", a.ns, p.ns, p.v4, p.v6, map[bool]netip.Addr{false: a.gw4, true: a.gw6}},
				{"pod to its node", p.ns, a.ns, a.gw4, a.gw6, map[bool]netip.Addr{false: p.v4, true: p.v6}},
				{"host to remote pod", a.ns, far.ns, far.v4, far.v6, map[bool]netip.Addr{false: a.gw4, true: a.gw6}},
			} {
				for _, dst := range []netip.Addr{c.v4, c.v6} {
					seen := datagrams(t, c.from, c.to, dst, 1, 1000, 1380, 5000)
					if want := c.seen[dst.Is6()]; seen != want {
						t.Errorf("%s: %s saw %s, want %s", c.name, dst, seen, want)
					}
					stream(t, c.from, c.to, dst)
				}
			}
			for _, h := range []*host{a, b} {
				for reason, n := range h.counts(t) {
					if reason != "drop link-local" { // of the host's and the pods' own noise
						t.Errorf("node %d: %s %d", h.n, reason, n)
					}
				}
			}
		})
	}
}

// A kernel's VXLAN device as the other node, set up with static entries, both ways:
// what we write is standard VXLAN, and we read it.
func TestKernelVXLANPeer(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("outer6=%v", outer6), func(t *testing.T) {
			segment := newSegment(t)
			a, k := newHost(t, 1, segment), bare(t, 3, segment)
			k.gw4, k.gw6 = hostAddr(3, 1)
			a.knows(k, outer6, false)
			p := a.addPod()
			local, remote := k.outer4, a.outer4
			if outer6 {
				local, remote = k.outer6, a.outer6
			}
			own, theirs := nodeMAC(k.outer4), nodeMAC(a.outer4)
			ip(t, k.ns, "link add vx87 address %s mtu %d type vxlan id 87 dstport 8872 local %s nolearning udp6zerocsumtx udp6zerocsumrx",
				net.HardwareAddr(own[:]), a.mtu, local)
			ip(t, k.ns, "link set vx87 up")
			ip(t, k.ns, "addr add %s/32 dev vx87", k.gw4)
			ip(t, k.ns, "addr add %s/128 dev vx87 nodad", k.gw6)
			sh(t, k.ns, fmt.Sprintf("bridge fdb append %s dev vx87 dst %s", net.HardwareAddr(theirs[:]), remote))
			for _, gw := range []netip.Addr{a.gw4, a.gw6} {
				ip(t, k.ns, "neigh add %s lladdr %s dev vx87 nud permanent", gw, net.HardwareAddr(theirs[:]))
				bits := map[bool]int{true: 24, false: 64}[gw.Is4()]
				ip(t, k.ns, "route add %s via %s dev vx87 onlink", netip.PrefixFrom(gw, bits).Masked(), gw)
			}
			for _, gso := range []string{"on", "off"} {
				sh(t, p.ns, "ethtool -K eth0 gso "+gso+" tso "+gso)
				sh(t, k.ns, "ethtool -K vx87 gso "+gso+" tso "+gso)
				for i, dst := range []netip.Addr{k.gw4, k.gw6} {
					pod := []netip.Addr{p.v4, p.v6}[i]
					datagrams(t, p.ns, k.ns, dst, 1, 1000, 1380, 5000)
					datagrams(t, k.ns, p.ns, pod, 1, 1000, 1380, 5000)
					stream(t, p.ns, k.ns, dst)
					stream(t, k.ns, p.ns, pod)
					datagrams(t, a.ns, k.ns, dst, 1, 1000, 1380, 5000)
				}
			}
			for reason, n := range a.counts(t) {
				if reason != "drop link-local" {
					t.Errorf("%s %d", reason, n)
				}
			}
		})
	}
}
