package testnet

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// SharePort is the Control of a [net.Dialer] whose port other connections may have, too, to other
// places.
func SharePort(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, set)
}

// Roomy gives a socket room for what comes while its process does not run: the default is full
// after some 200 small datagrams, which is a quarter of a second of a thousand a second.
func Roomy(conn syscall.Conn) error {
	const bytes = 16 << 20
	c, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) })
	return errors.Join(err, set)
}
