package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ServeProbe answers probes on the gateway addresses local until ctx is done.
// The addresses need not be there yet. It answers nobody elsewhere, and never
// with more than it was sent.
func ServeProbe(ctx context.Context, local []netip.Addr) error {
	var (
		conns []net.PacketConn
		wg    sync.WaitGroup
		errs  = make([]error, len(local))
	)
	closeAll := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for _, a := range local {
		l := net.ListenConfig{Control: probeSocket(a.Is4(), false)}
		conn, err := l.ListenPacket(ctx, "udp", netip.AddrPortFrom(a, ProbePort).String())
		if err != nil {
			closeAll()
			return fmt.Errorf("serve probes: %w", err)
		}
		conns = append(conns, conn)
	}
	stop := context.AfterFunc(ctx, closeAll)
	defer stop()
	for i, c := range conns {
		wg.Go(func() { errs[i] = answerProbes(c.(*net.UDPConn)) })
	}
	wg.Wait()
	closeAll()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve probes: %w", errors.Join(errs...))
}

// answerProbes reads until conn is closed.
func answerProbes(conn *net.UDPConn) error {
	b := make([]byte, 2*probeHeader) // what is longer is cut off
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // an ICMP error about an answer of ours
			if isErr(err, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE) {
				continue
			}
			return err
		}
		if n < probeHeader || string(b[:4]) != probeMagic || b[4] != probeQuestion {
			continue
		}
		b[4] = probeAnswer
		// A lost answer is what the other side is to find out.
		_, _ = conn.WriteToUDPAddrPort(b[:probeHeader], from)
	}
}

// probeSocket sets up a socket: it may be bound to an address that is not there
// (yet), datagrams carry the don't-fragment bit and may be as long as the device
// allows, and a checksum only if that is wanted. Those without one are received
// also over IPv6 (RFC 6935).
func probeSocket(is4, checksum bool) func(network, address string, c syscall.RawConn) error {
	type option struct{ level, name, value int }
	var options []option
	noCheck := 1
	if checksum {
		noCheck = 0
	}
	if is4 {
		options = []option{
			{unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
			{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
			{unix.SOL_SOCKET, unix.SO_NO_CHECK, noCheck},
		}
	} else {
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
			{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, noCheck},
			{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1},
		}
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			for _, o := range options {
				if err == nil {
					err = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
				}
			}
		})
		return errors.Join(cerr, err)
	}
}
