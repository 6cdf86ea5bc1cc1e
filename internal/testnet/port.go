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
