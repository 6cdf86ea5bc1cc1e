package load

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The loops use raw system calls: the Go scheduler learns nothing of them and adds
// nothing to them. What must run beside them runs on other threads.

func raw(trap, a, b, c uintptr) (int, error) {
	for {
		n, _, e := unix.RawSyscall(trap, a, b, c)
		if e == 0 {
			return int(n), nil
		} else if e != unix.EINTR {
			return -1, e
		}
	}
}

func read(fd int, b []byte) (int, error) {
	return raw(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := read(fd, b)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return errors.New("read: the other end has closed")
		}
		b = b[n:]
	}
	return nil
}

func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := raw(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

func accept(fd int) (int, error) {
	n, err := raw(unix.SYS_ACCEPT, uintptr(fd), 0, 0)
	if err != nil {
		return -1, fmt.Errorf("accept: %w", err)
	}
	return n, nil
}

func closeFD(fd int) { raw(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// socket makes a socket of the address's family. TCP uses cubic, whatever the
// machine's default is: BBR halves a single stream on veth.
func socket(at netip.AddrPort, typ int) (int, unix.Sockaddr, error) {
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if at.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, typ, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("make socket: %w", err)
	}
	if typ == unix.SOCK_STREAM {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
			return -1, nil, fmt.Errorf("choose cubic: %w", err)
		}
	}
	return fd, sa, nil
}

func noDelay(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// listen listens, on any port if that is 0, and tells the port.
func listen(at netip.AddrPort, ready func(uint16)) (int, error) {
	fd, err := bind(at, unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, tell(fd, ready)
}

func bind(at netip.AddrPort, typ int) (int, error) {
	fd, sa, err := socket(at, typ)
	if err != nil {
		return -1, err
	}
	// A port that is given may have connections of an earlier load in TIME_WAIT.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, fmt.Errorf("allow to use the port again: %w", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("bind %s: %w", at, err)
	}
	return fd, nil
}

func tell(fd int, ready func(uint16)) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("find own port: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		ready(uint16(sa.Port))
	case *unix.SockaddrInet6:
		ready(uint16(sa.Port))
	}
	return nil
}

func dial(at netip.AddrPort) (int, error) {
	return connect(at, unix.SOCK_STREAM)
}

func connect(at netip.AddrPort, typ int) (int, error) {
	fd, sa, err := socket(at, typ)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return -1, fmt.Errorf("connect to %s: %w", at, err)
	}
	return fd, nil
}
