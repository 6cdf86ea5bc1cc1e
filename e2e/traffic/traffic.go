// Package traffic makes and observes traffic in network namespaces. A socket
// belongs to the namespace it was made in, whichever thread uses it later.
package traffic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// Server answers, over TCP and UDP on one port of one address, with the address that
// it sees the question come from.
type Server struct {
	tcp *net.TCPListener
	udp *net.UDPConn
}

// Serve starts a server on the address, on any port if that is 0. (A UDP server on
// all addresses would answer from the one that the route to the asker prefers.)
func Serve(ns *testnet.NS, at netip.AddrPort) (*Server, error) {
	s := &Server{}
	err := ns.Do(func() (err error) {
		if s.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
			return fmt.Errorf("listen in %s: %w", ns.Name, err)
		}
		if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), uint16(s.Port())))); err != nil {
			s.tcp.Close()
			return fmt.Errorf("listen in %s: %w", ns.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	go s.serveTCP()
	go s.serveUDP()
	return s, nil
}

// Port is the port of both.
func (s *Server) Port() int { return s.tcp.Addr().(*net.TCPAddr).Port }

// Close ends the server.
func (s *Server) Close() {
	s.tcp.Close()
	s.udp.Close()
}

func (s *Server) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, seen(conn.RemoteAddr())+"\n")
		conn.Close()
	}
}

func (s *Server) serveUDP() {
	buf := make([]byte, 65536)
	for {
		_, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		s.udp.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
	}
}

func seen(a net.Addr) string {
	return a.(*net.TCPAddr).AddrPort().Addr().Unmap().String()
}

// Ask connects by TCP from a namespace to a [Server] and returns the address that it
// saw.
func Ask(ns *testnet.NS, to netip.AddrPort, timeout time.Duration) (netip.Addr, error) {
	return AskFrom(ns, "tcp", netip.Addr{}, to, timeout)
}

// AskUDP is Ask with one datagram.
func AskUDP(ns *testnet.NS, to netip.AddrPort, timeout time.Duration) (netip.Addr, error) {
	return AskFrom(ns, "udp", netip.Addr{}, to, timeout)
}

// AskFrom is the same over tcp or udp, from a socket that is bound to an address; zero:
// to none.
func AskFrom(ns *testnet.NS, network string, bound netip.Addr, to netip.AddrPort, timeout time.Duration) (netip.Addr, error) {
	conn, err := DialFrom(ns, network, netip.AddrPortFrom(bound, 0), to, timeout)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return netip.Addr{}, err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return netip.Addr{}, fmt.Errorf("ask %s: %w", to, err)
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask %s over %s from %s: %w", to, network, ns.Name, err)
	}
	return netip.ParseAddr(strings.TrimSpace(string(buf[:n])))
}

// Dial connects from a namespace.
func Dial(ns *testnet.NS, network string, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	return DialFrom(ns, network, netip.AddrPort{}, to, timeout)
}

// Resent is how many packets of a TCP connection its end has sent again, the SYN among them
// (tcp_info's tcpi_total_retrans).
func Resent(conn net.Conn) (n int, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		return 0, fmt.Errorf("look at connection: %w", errors.Join(e, err))
	}
	return int(info.Total_retrans), nil
}

// DialFrom is the same from an address, or from any, and from a port that other connections may
// have, too; 0: from any.
func DialFrom(ns *testnet.NS, network string, from, to netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: timeout}
	switch {
	case from == netip.AddrPort{}:
	case network == "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	default:
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	if from.Port() != 0 {
		d.Control = testnet.SharePort
	}
	err = ns.Do(func() error {
		conn, err = d.Dial(network, to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s over %s from %s: %w", to, network, ns.Name, err)
	}
	return conn, nil
}
