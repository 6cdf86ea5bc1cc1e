package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// icmpWatch hears "too big" for what this host sends, our encapsulated packets among
// it: the kernel notes the path's MTU, but tells nobody (there is no netlink message
// about exceptions). Without this, packets of the pods would vanish on such a path
// until the next full look.
type icmpWatch struct{ v6 bool }

const (
	icmpUnreachable  = 3 // RFC 792
	icmpFragNeeded   = 4 // code; RFC 1191
	icmpv6TooBig     = 2 // RFC 4443
	ipv4HeaderLength = 20
)

// open opens a socket that gets such messages only. A nil file: the kernel lacks
// the family.
func (w icmpWatch) open() (*os.File, error) {
	family, protocol, level := unix.AF_INET, unix.IPPROTO_ICMP, unix.SOL_RAW
	if w.v6 {
		family, protocol, level = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if isErr(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "icmp")
	// Both filters are bitmaps of the types that are not wanted.
	if w.v6 {
		filter := unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		filter.Data[icmpv6TooBig>>5] &^= 1 << (icmpv6TooBig & 31)
		err = unix.SetsockoptICMPv6Filter(fd, level, unix.ICMPV6_FILTER, &filter)
	} else {
		const icmpFilter = 1 // ICMP_FILTER (linux/icmp.h)
		wanted := uint32(1) << icmpUnreachable
		err = unix.SetsockoptInt(fd, level, icmpFilter, int(int32(^wanted)))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filter ICMP: %w", err)
	}
	return f, nil
}

// tooBig says whether a message, as the socket reads it, is one.
func (w icmpWatch) tooBig(b []byte) bool {
	if w.v6 { // read without IP header
		return len(b) >= 8 && b[0] == icmpv6TooBig
	}
	if len(b) < ipv4HeaderLength || len(b) < int(b[0]&15)*4+8 {
		return false
	}
	b = b[int(b[0]&15)*4:]
	return b[0] == icmpUnreachable && b[1] == icmpFragNeeded
}

// run reads until f is closed.
func (w icmpWatch) run(ctx context.Context, f *os.File, box *mailbox, log *slog.Logger) {
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			log.Error("path MTUs are no longer watched", "err", err)
			return
		}
		if w.tooBig(buf[:n]) {
			box.raise(EventPaths)
		}
	}
}
