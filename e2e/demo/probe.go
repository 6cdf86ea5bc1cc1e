package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// mtu finds the largest packet from node to node that may not be fragmented, then makes
// the wire narrower and looks whether the pods follow.
func (s *story) mtu(ctx context.Context) error {
	title("The largest packet between nodes, without fragments")
	from, to := s.all[0], s.all[2]
	if err := s.largest(from, to); err != nil {
		return err
	}
	const narrow = 1400
	begin := time.Now()
	if err := s.wire(narrow); err != nil {
		return err
	}
	follow, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := testnet.Wait(follow, func() error {
		size, err := largest(from, to, to.IP4)
		if err == nil && size != narrow-50 {
			err = fmt.Errorf("pods send up to %d bytes over a wire of %d, want %d", size, narrow, narrow-50)
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("  the wire gets narrower, to %d: live pods follow within %d ms\n", narrow, time.Since(begin).Milliseconds())
	if err := s.largest(from, to); err != nil {
		return err
	}
	if err := s.wire(1500); err != nil {
		return err
	}
	return testnet.Wait(follow, func() error {
		size, err := largest(from, to, to.IP4)
		if err == nil && size != 1450 {
			err = fmt.Errorf("pods send up to %d bytes over a wire of 1500, want 1450", size)
		}
		return err
	})
}

func (s *story) largest(from, to *cluster.Pod) error {
	for _, addr := range to.Addrs() {
		size, err := largest(from, to, addr)
		if err != nil {
			return err
		}
		fmt.Printf("  %s → %s: %d bytes pass, %d are refused at once\n", from.Name, addr, size, size+1)
	}
	return nil
}

// wire sets the MTU of all nodes' uplinks.
func (s *story) wire(mtu int) error {
	for _, n := range s.c.Nodes {
		if err := n.NS.IP("link", "set", "eth0", "mtu", fmt.Sprint(mtu)); err != nil {
			return err
		}
	}
	return nil
}

// largest is the size of the largest IP packet from a pod that is answered by the other;
// the pod's own kernel refuses one byte more.
func largest(from, at *cluster.Pod, to netip.Addr) (size int, err error) {
	server, err := traffic.Serve(at.NS, netip.AddrPortFrom(to, 0))
	if err != nil {
		return 0, err
	}
	defer server.Close()
	err = from.NS.Do(func() error {
		conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: to.AsSlice(), Port: server.Port()})
		if err != nil {
			return err
		}
		defer conn.Close()
		headers := 48 // IPv6 and UDP
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var serr error
		if err := raw.Control(func(fd uintptr) {
			if to.Is4() {
				headers = 28
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			}
		}); err != nil || serr != nil {
			return errors.Join(err, serr)
		}
		fits, tooBig := 1200, 9001
		for tooBig-fits > 1 {
			size := (fits + tooBig) / 2
			switch _, err := conn.Write(make([]byte, size-headers)); {
			case err == nil:
				if err := answered(conn); err != nil {
					return fmt.Errorf("send %d bytes to %s: %w", size, to, err)
				}
				fits = size
			case errors.Is(err, unix.EMSGSIZE):
				tooBig = size
			default:
				return fmt.Errorf("send %d bytes to %s: %w", size, to, err)
			}
		}
		size = fits
		return nil
	})
	return size, err
}

func answered(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 64))
	return err
}
