package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// caller is the context of a verb. It ends, as that of every request, soon after the caller
// has gone: when net/http has had the processor for a read. Its Err asks the kernel, and
// says so at once: whoever is told that the caller is there knows that what follows the
// caller's death, a DEL or its tombstone, follows this moment. Contexts made of it do not
// ask.
type caller struct {
	context.Context
	cancel context.CancelFunc
	conn   syscall.RawConn
}

// Err is that of the request's context, which it ends if the caller has gone.
func (c *caller) Err() error {
	if c.Context.Err() == nil && hungUp(c.conn) {
		c.cancel()
	}
	return c.Context.Err()
}

// hungUp says whether the other side has closed the connection (poll(2), POLLHUP), or our
// side has.
func hungUp(conn syscall.RawConn) bool {
	fds := []unix.PollFd{{}} // of no events: a hang-up is always told
	err := conn.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		for {
			if _, err := unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return err != nil || fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// connKey is what a request's context has its connection by, as a [syscall.RawConn].
type connKey struct{}

// withConn is the ConnContext of a server.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return context.WithValue(ctx, connKey{}, raw)
		}
	}
	return ctx
}

// callerOf is the context of the verb that a request asks for. Done with it, end it. It asks
// the kernel if [Serve] serves.
func callerOf(r *http.Request) (ctx context.Context, end context.CancelFunc) {
	ctx, end = context.WithCancel(r.Context())
	if conn, ok := ctx.Value(connKey{}).(syscall.RawConn); ok {
		ctx = &caller{ctx, end, conn}
	}
	return ctx, end
}
