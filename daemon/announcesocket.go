package daemon

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/daemon/announce"
)

// announceSockets is how a node speaks with its links and with other nodes about load
// balancers' addresses. Nothing of it blocks. It is not safe for concurrent use.
type announceSockets struct {
	port   uint16
	packet int                // for frames; -1: not opened yet
	member int                // that has joined groups; -1: not opened yet
	udp    map[netip.Addr]int // by our address
	groups map[linkGroup]bool // that member is in
}

// linkGroup is a multicast group on a link.
type linkGroup struct {
	link  int
	group netip.Addr
}

func newAnnounceSockets(port uint16) *announceSockets {
	return &announceSockets{port: port, packet: -1, member: -1, udp: map[netip.Addr]int{}, groups: map[linkGroup]bool{}}
}

func (s *announceSockets) close() {
	for _, fd := range s.udp {
		unix.Close(fd)
	}
	for _, fd := range []int{s.packet, s.member} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// listen opens a socket on each of our addresses, and closes those on others. The addresses
// need not be there yet.
func (s *announceSockets) listen(addrs []netip.Addr) error {
	want := map[netip.Addr]bool{}
	var errs []error
	for _, a := range addrs {
		want[a] = true
		if _, ok := s.udp[a]; ok {
			continue
		}
		fd, err := listenProbes(netip.AddrPortFrom(a, s.port))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.udp[a] = fd
	}
	for a, fd := range s.udp {
		if !want[a] {
			unix.Close(fd)
			delete(s.udp, a)
		}
	}
	return errors.Join(errs...)
}

func listenProbes(at netip.AddrPort) (int, error) {
	family, level, free := unix.AF_INET, unix.IPPROTO_IP, unix.IP_FREEBIND
	if at.Addr().Is6() {
		family, level, free = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket for probes: %w", err)
	}
	const room = 1 << 20 // of answers that come while nobody reads
	err = errors.Join(unix.SetsockoptInt(fd, level, free, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room))
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen for probes on %s: %w: choose a free port by announce-port, or by port, which is two before it; the same on all nodes", at, err)
	}
	return fd, nil
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// send sends a datagram from one of our addresses. That it cannot be sent is as if it were
// lost.
func (s *announceSockets) send(from, to netip.Addr, d announce.Datagram) {
	if fd, ok := s.udp[from]; ok {
		_ = unix.Sendto(fd, d.Encode(), 0, sockaddr(netip.AddrPortFrom(to, s.port)))
	}
}

// receivedAtOnce is how many datagrams of a socket are taken up at once: more than there is
// room for. Who floods the port must not keep the daemon from all else, its sign of life above
// all.
const receivedAtOnce = 4096

// receive tells f of the datagrams that have come.
func (s *announceSockets) receive(f func(netip.Addr, announce.Datagram)) {
	b := make([]byte, 64) // what is longer is none of ours
	for _, fd := range s.udp {
		for range receivedAtOnce {
			n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			} else if err != nil {
				break
			}
			d, ok := announce.Decode(b[:n])
			if !ok {
				continue
			}
			switch a := from.(type) {
			case *unix.SockaddrInet4:
				f(netip.AddrFrom4(a.Addr), d)
			case *unix.SockaddrInet6:
				f(netip.AddrFrom16(a.Addr), d)
			}
		}
	}
}

// frames sends frames on a link as they are.
func (s *announceSockets) frames(link int, frames ...[]byte) error {
	if s.packet < 0 {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open socket for frames: %w", err)
		}
		s.packet = fd
	}
	for _, f := range frames {
		if err := unix.Sendto(s.packet, f, 0, &unix.SockaddrLinklayer{Ifindex: link}); err != nil {
			return fmt.Errorf("send frame on link %d: %w", link, err)
		}
	}
	return nil
}

// join makes the node a member of exactly these groups, so that its devices and the
// switches let neighbours' questions through to it.
func (s *announceSockets) join(want map[linkGroup]bool) error {
	if s.member < 0 && len(want) > 0 {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket for groups: %w", err)
		}
		s.member = fd
	}
	var errs []error
	change := func(g linkGroup, option int) error {
		m := unix.IPv6Mreq{Multiaddr: g.group.As16(), Interface: uint32(g.link)}
		return unix.SetsockoptIPv6Mreq(s.member, unix.IPPROTO_IPV6, option, &m)
	}
	for g := range s.groups {
		if !want[g] {
			_ = change(g, unix.IPV6_LEAVE_GROUP) // the link may be gone
			delete(s.groups, g)
		}
	}
	for g := range want {
		if s.groups[g] {
			continue
		}
		if err := change(g, unix.IPV6_JOIN_GROUP); err != nil && !errors.Is(err, unix.EADDRINUSE) {
			errs = append(errs, fmt.Errorf("join group %s on link %d: %w", g.group, g.link, err))
			continue
		}
		s.groups[g] = true
	}
	return errors.Join(errs...)
}
