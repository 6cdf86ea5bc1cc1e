package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// pair is two nodes that know each other, with a pod each.
func pair(t testing.TB, outer6 bool) (a, b *host, p, q *pod) {
	t.Helper()
	segment := newSegment(t)
	a, b = newHost(t, 1, segment), newHost(t, 2, segment)
	a.knows(b, outer6, false)
	b.knows(a, outer6, false)
	return a, b, a.addPod(), b.addPod()
}

// conns are two connected UDP sockets, the second one listening on dst.
func conns(t testing.TB, from, to netns.NsHandle, dst netip.Addr) (c, l *net.UDPConn) {
	t.Helper()
	var err error
	in(t, to, func() { l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0))) })
	must(t, err)
	t.Cleanup(func() { l.Close() })
	in(t, from, func() { c, err = net.DialUDP("udp", nil, l.LocalAddr().(*net.UDPAddr)) })
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c, l
}

// control does something with a socket's descriptor.
func control(t testing.TB, c *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	var inner error
	must(t, raw.Control(func(fd uintptr) { inner = f(int(fd)) }))
	must(t, inner)
}

// UDP segment trains (UDP_SEGMENT, as QUIC sends them) arrive as their segments.
func TestUDPSegmentTrainsCross(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		_, _, p, q := pair(t, outer6)
		for _, dst := range []netip.Addr{q.v4, q.v6} {
			c, l := conns(t, p.ns, q.ns, dst)
			control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
			data := make([]byte, 10_500)
			for i := range data {
				data[i] = byte(i / 1000)
			}
			_, err := c.Write(data)
			must(t, err)
			l.SetDeadline(time.Now().Add(3 * time.Second))
			buf := make([]byte, 1<<16)
			for i := 0; i < len(data); i += 1000 {
				n, err := l.Read(buf)
				want := data[i:min(i+1000, len(data))]
				if err != nil || !bytes.Equal(buf[:n], want) {
					t.Fatalf("outer6=%v, to %s: segment %d: got %d bytes (%v), want %d", outer6, dst, i/1000, n, err, len(want))
				}
			}
		}
	}
}

// offender reads the next ICMP error of a socket (IP_RECVERR) and returns who sent it
// and, for "too big", the MTU it names.
func offender(t testing.TB, c *net.UDPConn) (netip.Addr, uint32) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Second)
	for {
		oob := make([]byte, 512)
		var n int
		var err error
		control(t, c, func(fd int) error {
			_, n, _, _, err = unix.Recvmsg(fd, make([]byte, 2048), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			return nil
		})
		if err == nil {
			// struct sock_extended_err, then the offender's sockaddr, behind cmsghdr.
			e := oob[unix.CmsgLen(0):n]
			info, sa := binary.NativeEndian.Uint32(e[8:]), e[16:]
			if binary.NativeEndian.Uint16(sa) == unix.AF_INET6 {
				return netip.AddrFrom16([16]byte(sa[8:24])), info
			}
			return netip.AddrFrom4([4]byte(sa[4:8])), info
		}
		if time.Now().After(deadline) {
			t.Fatalf("no ICMP error within the deadline: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// What does not fit a peer, and what has no hops left, is answered by the gateway.
func TestErrorsComeFromTheGateway(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		a, b, p, q := pair(t, outer6)
		for i, dst := range []netip.Addr{q.v4, q.v6} {
			gw, bits, family := a.gw4, 24, "-4"
			level, recverr, discover, do, ttl := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, unix.IP_TTL
			if i == 1 {
				gw, bits, family = a.gw6, 64, "-6"
				level, recverr, discover, do, ttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, unix.IPV6_UNICAST_HOPS
			}
			dstNet := netip.PrefixFrom(dst, bits).Masked()
			rows, err := a.Peers().Dump()
			must(t, err)
			row := rows[dstNet]
			row.MTU = 1300
			must(t, a.Peers().Set(dstNet, row))
			ip(t, a.ns, "%s route replace %s dev weft-vxlan src %s mtu 1300 proto 87", family, dstNet, gw)
			c, _ := conns(t, p.ns, q.ns, dst)
			control(t, c, func(fd int) error {
				return errors.Join(unix.SetsockoptInt(fd, level, recverr, 1), unix.SetsockoptInt(fd, level, discover, do))
			})
			_, err = c.Write(make([]byte, 1400))
			must(t, err)
			if from, mtu := offender(t, c); from != gw || mtu != 1300 {
				t.Errorf("outer6=%v, to %s: too big: MTU %d from %s, want 1300 from %s", outer6, dst, mtu, from, gw)
			}
			// One hop: ends at the sender's node. Two: at the receiver's.
			there := b.gw4
			if i == 1 {
				there = b.gw6
			}
			for hops, want := range map[int]netip.Addr{1: gw, 2: there} {
				c, _ := conns(t, p.ns, q.ns, dst)
				control(t, c, func(fd int) error {
					return errors.Join(unix.SetsockoptInt(fd, level, recverr, 1), unix.SetsockoptInt(fd, level, ttl, hops))
				})
				_, err = c.Write([]byte("x"))
				must(t, err)
				if from, _ := offender(t, c); from != want {
					t.Errorf("outer6=%v, to %s: %d hops: error from %s, want %s", outer6, dst, hops, from, want)
				}
			}
		}
	}
}

// A pod whose row says so is reached and left through the stack, with all traffic.
func TestLimitedPodsGoThroughTheStack(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		a, b, p, q := pair(t, outer6)
		near := a.addPod()
		for _, h := range []*host{a, b} {
			rows, err := h.Endpoints().Dump()
			must(t, err)
			for at, row := range rows {
				if row.IfIndex > 0 {
					row.Flags |= EndpointStack
					must(t, h.Endpoints().Set(at, row))
				}
			}
		}
		for i, dst := range []netip.Addr{q.v4, q.v6} {
			local := []netip.Addr{near.v4, near.v6}[i]
			datagrams(t, p.ns, q.ns, dst, 1, 1000, 1380, 5000)
			datagrams(t, p.ns, near.ns, local, 1, 1000, 1380, 5000)
			stream(t, p.ns, q.ns, dst)
			stream(t, p.ns, near.ns, local)
		}
		if a.counts(t)["stack limited"] == 0 || b.counts(t)["stack limited"] == 0 {
			t.Errorf("outer6=%v: nothing was counted: %v, %v", outer6, a.counts(t), b.counts(t))
		}
	}
}

// Another layout and back, under traffic: nothing is lost.
func TestUpgradeUnderTrafficLosesNothing(t *testing.T) {
	t.Parallel()
	a, b, p, q := pair(t, false)
	near := a.addPod()
	stop := make(chan struct{})
	type result struct{ sent, got int }
	results := make(chan result)
	flows := []netip.Addr{q.v4, q.v6, near.v4, near.v6}
	for i, dst := range flows {
		to := q.ns
		if i >= 2 {
			to = near.ns
		}
		c, l := conns(t, p.ns, to, dst)
		must(t, l.SetReadBuffer(4<<20))
		go func() {
			var r result
			defer func() { results <- r }()
			buf := make([]byte, 16)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(buf[:8]); err != nil {
					continue
				}
				r.sent++
				// In step with the receiver, so that only the path can lose.
				l.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := l.Read(buf); err == nil {
					r.got++
				}
			}
		}()
	}
	for range 3 {
		for _, size := range []uint32{32, 16} {
			for _, h := range []*host{a, b} {
				in(t, h.ns, func() {
					d := open(t, Options{Dir: h.dir, MaxPeers: size})
					endpoints, err := h.Endpoints().Dump()
					must(t, err)
					for k, v := range endpoints {
						must(t, d.Endpoints().Set(k, v))
					}
					peers, err := h.Peers().Dump()
					must(t, err)
					for k, v := range peers {
						must(t, d.Peers().Set(k, v))
					}
					must(t, d.Commit())
					h.Datapath = d
				})
			}
		}
	}
	close(stop)
	for range flows {
		if r := <-results; r.got != r.sent || r.sent == 0 {
			t.Errorf("sent %d, got %d", r.sent, r.got)
		}
	}
}

// Frames too short for PROG_TEST_RUN, from a real pod.
func TestTruncatedFramesAreDropped(t *testing.T) {
	t.Parallel()
	a, _, p, q := pair(t, false)
	whole := [][]byte{
		ethernet(noMAC, p.mac, ethIPv4, header{src: p.v4, dst: q.v4, proto: protoUDP}.packet(nil)),
		ethernet(noMAC, p.mac, ethIPv6, header{src: p.v6, dst: q.v6, proto: protoUDP}.packet(nil)),
		ethernet(broadcast, p.mac, ethARP, arp(1, p.mac, p.v4, mac{}, a.gw4)),
	}
	var fd int
	var index int
	in(t, p.ns, func() {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		must(t, err)
		index = up(t, "eth0").Attrs().Index
	})
	defer unix.Close(fd)
	sent := uint64(0)
	before := a.counts(t)["drop truncated"]
	for _, frame := range whole {
		for n := 15; n < len(frame); n++ {
			must(t, unix.Sendto(fd, frame[:n], 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}))
			sent++
		}
	}
	for deadline := time.Now().Add(3 * time.Second); a.counts(t)["drop truncated"] != before+sent; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("sent %d, counters %v", sent, a.counts(t))
		}
	}
}
