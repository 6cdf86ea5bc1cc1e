package load

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// payload is the size of a datagram: with it an IPv4 packet fills the smallest frame.
const payload = 18

// batch is how many datagrams one system call moves.
const batch = 64

// mmsghdr is struct mmsghdr of socket(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// messages are a batch of datagrams for sendmmsg and recvmmsg.
func messages() []mmsghdr {
	m := make([]mmsghdr, batch)
	for i := range m {
		iov := &unix.Iovec{Base: &make([]byte, payload)[0]}
		iov.SetLen(payload)
		m[i].hdr.Iov = iov
		m[i].hdr.SetIovlen(1)
	}
	return m
}

func mmsg(trap uintptr, fd int, m []mmsghdr, flags uintptr) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), flags, 0, 0)
		if e == 0 {
			return int(n), nil
		} else if e != unix.EINTR {
			return -1, e
		}
	}
}

func serveUDP(at netip.AddrPort, ready func(uint16)) error {
	fd, err := bind(at, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return fmt.Errorf("grow receive buffer: %w", err)
	}
	if err := tell(fd, ready); err != nil {
		return err
	}
	m := messages()
	for {
		n, err := mmsg(unix.SYS_RECVMMSG, fd, m, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		count.Add(uint64(n))
	}
}

func askUDP(at netip.AddrPort, ready func(uint16)) error {
	fd, err := connect(at, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	ready(0)
	m := messages()
	for {
		// ECONNREFUSED: the server has ended; the parent will end us too.
		if _, err := mmsg(unix.SYS_SENDMMSG, fd, m, 0); err != nil && err != unix.ECONNREFUSED && err != unix.ENOBUFS {
			return fmt.Errorf("send: %w", err)
		}
	}
}
