package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// datagrams is a UDP socket whose datagrams have DF set and a chosen size, and that
// hears what ICMP says of them. The kernel does not hold back what is bigger than the
// path MTU it knows (IP_PMTUDISC_PROBE), only what is bigger than the device's.
type datagrams struct {
	conn *net.UDPConn
	fd   int
	v4   bool
}

// icmpError is an ICMP error about a datagram (ip(7), "IP_RECVERR"). The local
// kernel's own have a type of 0 and no sender.
type icmpError struct {
	Errno      unix.Errno
	Type, Code uint8
	MTU        uint32
	From       netip.Addr
}

func (e icmpError) Error() string {
	return fmt.Sprintf("ICMP type %d code %d from %s, mtu %d (%v)", e.Type, e.Code, e.From, e.MTU, e.Errno)
}

// Types and codes of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const (
	icmpUnreachable, icmpFragNeeded = 3, 4
	icmpTimeExceeded                = 11
	icmp6TooBig                     = 2
	icmp6TimeExceeded               = 3
)

// sendTo opens the socket in a namespace.
func sendTo(t testing.TB, ns *testnet.NS, to netip.AddrPort) *datagrams {
	t.Helper()
	var d datagrams
	err := ns.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		d.conn = c
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close() })
	d.v4 = to.Addr().Is4()
	d.control(t, func(fd int) error {
		d.fd = fd
		if d.v4 {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
				unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
	})
	return &d
}

func (d *datagrams) control(t testing.TB, f func(fd int) error) {
	t.Helper()
	raw, err := d.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ferr error
	if err := errors.Join(raw.Control(func(fd uintptr) { ferr = f(int(fd)) }), ferr); err != nil {
		t.Fatal(err)
	}
}

// fragment lets the kernel fragment what is too big.
func (d *datagrams) fragment(t testing.TB) {
	d.control(t, func(fd int) error {
		if d.v4 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	})
}

// hops sets TTL or hop limit.
func (d *datagrams) hops(t testing.TB, n int) {
	d.control(t, func(fd int) error {
		if d.v4 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n)
	})
}

// options puts four bytes of IPv4 options, or a hop-by-hop header, into each packet;
// neither asks for anything.
func (d *datagrams) options(t testing.TB) {
	d.control(t, func(fd int) error {
		if d.v4 {
			return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00")
		}
		// Next header and length (filled in by the kernel), PadN of six bytes.
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
	})
}

// headers is what IP and UDP add.
func (d *datagrams) headers() int {
	if d.v4 {
		return 20 + 8
	}
	return 40 + 8
}

// send sends one datagram as an IP packet of size bytes.
func (d *datagrams) send(size int) error {
	b := make([]byte, size-d.headers())
	_, err := d.conn.Write(b)
	return err
}

// icmp waits for an ICMP error.
func (d *datagrams) icmp(within time.Duration) error {
	for deadline := time.Now().Add(within); ; {
		data, oob := make([]byte, 64), make([]byte, 512)
		_, n, _, _, err := unix.Recvmsg(d.fd, data, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == nil {
			return parseError(oob[:n])
		}
		if err != unix.EAGAIN || time.Now().After(deadline) {
			return fmt.Errorf("no ICMP error within %s: %w", within, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// parseError reads struct sock_extended_err (linux/errqueue.h) and the offender's
// address behind it.
func parseError(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if m.Header.Type != unix.IP_RECVERR && m.Header.Type != unix.IPV6_RECVERR || len(m.Data) < 16 {
			continue
		}
		b, native := m.Data, binary.NativeEndian
		e := icmpError{Errno: unix.Errno(native.Uint32(b)), Type: b[5], Code: b[6], MTU: native.Uint32(b[8:])}
		switch from := b[16:]; {
		case len(from) >= 8 && native.Uint16(from) == unix.AF_INET:
			e.From = netip.AddrFrom4([4]byte(from[4:8]))
		case len(from) >= 24 && native.Uint16(from) == unix.AF_INET6:
			e.From = netip.AddrFrom16([16]byte(from[8:24]))
		}
		return e
	}
	return fmt.Errorf("no extended error in %v", msgs)
}

// sink receives datagrams.
type sink struct{ conn *net.UDPConn }

func listenUDP(t testing.TB, ns *testnet.NS, addr netip.Addr) sink {
	t.Helper()
	return listenAt(t, ns, netip.AddrPortFrom(addr, 0))
}

func listenAt(t testing.TB, ns *testnet.NS, at netip.AddrPort) sink {
	t.Helper()
	var s sink
	err := ns.Do(func() (err error) {
		s.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

func (s sink) addr() netip.AddrPort {
	a := s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// receive returns the size of the next datagram's payload; -1 if none comes in time.
func (s sink) receive(within time.Duration) int {
	b := make([]byte, 1<<16)
	s.conn.SetReadDeadline(time.Now().Add(within))
	n, err := s.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return -1
	}
	return n
}

// drain forgets what has arrived, and old ICMP errors.
func (s sink) drain(d *datagrams) {
	for s.receive(50*time.Millisecond) >= 0 {
	}
	for {
		var e icmpError
		if !errors.As(d.icmp(0), &e) {
			return
		}
	}
}
