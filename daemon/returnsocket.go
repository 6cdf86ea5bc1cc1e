package daemon

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// returnSockets send what only the tunnel's programs of other nodes read, by our address.
type returnSockets map[netip.Addr]int

func (s returnSockets) close() {
	for _, fd := range s {
		unix.Close(fd)
	}
}

// send sends a datagram. That there is no way, or no room, is as if it were lost.
func (s returnSockets) send(from netip.Addr, to netip.AddrPort, payload []byte) error {
	fd, ok := s[from]
	if !ok {
		var err error
		if fd, err = returnSocket(from); err != nil {
			return err
		}
		s[from] = fd
	}
	err := unix.Sendto(fd, payload, unix.MSG_DONTWAIT, sockaddr(to))
	if errors.Is(err, unix.EINVAL) { // the address is gone
		unix.Close(fd)
		delete(s, from)
	}
	return nil
}

// returnSocket is bound to any port. Its datagrams have no checksum: a device would complete
// it after the other node has taken the outer headers off.
func returnSocket(from netip.Addr) (int, error) {
	family, level, option, free := unix.AF_INET, unix.SOL_SOCKET, unix.SO_NO_CHECK, unix.IP_FREEBIND
	ip := unix.IPPROTO_IP
	if from.Is6() {
		family, level, option, free = unix.AF_INET6, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, unix.IPV6_FREEBIND
		ip = unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket for the tunnel: %w", err)
	}
	err = errors.Join(unix.SetsockoptInt(fd, level, option, 1), unix.SetsockoptInt(fd, ip, free, 1))
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0)))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open socket for the tunnel on %s: %w", from, err)
	}
	return fd, nil
}
