package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Event is a set of what may no longer be as it was: what to refresh.
type Event uint32

const (
	EventLinks   Event = 1 << iota // a device of ours, or one that may be an uplink
	EventAddrs                     // an address of the node or of our device
	EventRoutes                    // a route of ours, or one that hides it
	EventNeighs                    // a neighbour on a device of ours
	EventChains                    // our chains, the jumps to them, or the back end
	EventPaths                     // what LookupPath and Uplinks answer
	EventSysctls                   // forwarding or rp_filter

	EventAll = EventLinks | EventAddrs | EventRoutes | EventNeighs | EventChains | EventPaths | EventSysctls
)

// Has says whether e has any of the bits of f.
func (e Event) Has(f Event) bool { return e&f != 0 }

func (e Event) String() string {
	var out []string
	for i, name := range []string{"links", "addrs", "routes", "neighs", "chains", "paths", "sysctls"} {
		if e.Has(1 << i) {
			out = append(out, name)
		}
	}
	return strings.Join(out, "|")
}

// Watch reports changes of the kernel's state that may concern us, also those
// that we make, in the network namespace of the calling thread. Events that are
// not read are merged into one; the channel is closed when ctx is done. Where the
// kernel lost messages, [EventAll] is reported.
//
// What it cannot see is left to the periodic refresh: path MTU exceptions that end,
// and changes of large legacy tables that keep their size (see legacyWatch).
func Watch(ctx context.Context, log *slog.Logger) (<-chan Event, error) {
	route, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return nil, fmt.Errorf("watch route netlink: %w", err)
	}
	legacy, err := newLegacyWatch()
	if err != nil {
		route.Close()
		return nil, fmt.Errorf("watch iptables: %w", err)
	}
	// A kernel without nf_tables has nothing there to watch.
	nft, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil && !noNFT(err) {
		route.Close()
		legacy.close()
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}

	box := &mailbox{ch: make(chan Event, 1)}
	var wg sync.WaitGroup
	read := func(f *os.File, h handler) {
		context.AfterFunc(ctx, func() { f.Close() })
		if err := h.reset(f); err != nil {
			log.Warn("cannot list the links to watch", "err", err)
		}
		wg.Go(func() { readLoop(ctx, f, h, box, log) })
	}
	read(route, newRouteWatch())
	if nft != nil {
		read(nft, nftWatch{})
	}
	wg.Go(func() { legacy.run(ctx, box, log) })
	for _, w := range []icmpWatch{{}, {v6: true}} {
		f, err := w.open()
		if err != nil {
			log.Warn("path MTUs are not watched", "err", err)
		}
		if f != nil {
			context.AfterFunc(ctx, func() { f.Close() })
			wg.Go(func() { w.run(ctx, f, box, log) })
		}
	}
	go func() {
		wg.Wait()
		close(box.ch)
	}()
	return box.ch, nil
}

// mailbox merges what is not read yet.
type mailbox struct {
	mu sync.Mutex
	ch chan Event // of size 1
}

func (m *mailbox) raise(e Event) {
	if e == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case old := <-m.ch:
		e |= old
	default:
	}
	m.ch <- e // has room: nobody else sends
}

// handler judges the messages of one netlink socket.
type handler interface {
	// reset forgets what was learned, and asks for it anew on the same socket.
	reset(f *os.File) error
	message(h unix.NlMsghdr, payload []byte) Event
}

// gather is how long messages are left in the socket after some were read: an ADD makes
// some 15, and to wake up for each would take its CPU time.
const gather = 25 * time.Millisecond

// readLoop reads until f is closed.
func readLoop(ctx context.Context, f *os.File, h handler, box *mailbox, log *slog.Logger) {
	buf := make([]byte, 1<<16)
	for ctx.Err() == nil {
		e, err := readAll(f, h, buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.ENOBUFS):
			// The socket is still subscribed; only messages are lost.
			log.Debug("netlink messages lost, everything will be looked at")
			if err := h.reset(f); err != nil {
				log.Warn("cannot list the links to watch", "err", err)
			}
			e = EventAll
		case err != nil:
			log.Error("the kernel's changes are no longer watched, all is looked at every minute", "err", err)
			unwatched(ctx, box, time.Minute)
			return
		}
		box.raise(e)
		select {
		case <-ctx.Done():
		case <-time.After(gather):
		}
	}
}

// unwatched reports that anything may have changed, every now and then until ctx is done:
// what relies on being told of changes looks for itself then.
func unwatched(ctx context.Context, box *mailbox, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		box.raise(EventAll)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readAll waits for a message, and judges it and all that are there, up to a number: in
// a storm what they say is to be heard, too.
func readAll(f *os.File, h handler, buf []byte) (e Event, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	some := false
	waitErr := conn.Read(func(fd uintptr) bool {
		for range 1 << 12 {
			var n int
			n, err = unix.Read(int(fd), buf)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				err = nil
				return some
			case err != nil:
				return true
			}
			some = true
			e |= judge(h, buf[:n])
		}
		return true
	})
	return e, errors.Join(err, waitErr)
}

// judge takes one datagram apart.
func judge(h handler, b []byte) (e Event) {
	for len(b) >= unix.SizeofNlMsghdr {
		hdr := unix.NlMsghdr{Len: get32(b), Type: get16(b[4:]), Flags: get16(b[6:]), Seq: get32(b[8:]), Pid: get32(b[12:])}
		if hdr.Len < unix.SizeofNlMsghdr || int(hdr.Len) > len(b) {
			return EventAll // cut off
		}
		e |= h.message(hdr, b[unix.SizeofNlMsghdr:hdr.Len])
		b = b[min((int(hdr.Len)+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return e
}

// receiveBuffer holds the messages of some thousand changes at once.
const receiveBuffer = 4 << 20

// subscribe opens a netlink socket as a file, so that reading it waits in the
// runtime's poller and ends when it is closed.
func subscribe(protocol int, groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			f.Close()
			return nil, fmt.Errorf("join netlink group %d: %w", g, err)
		}
	}
	// It needs CAP_NET_ADMIN; without, the system's default has to do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	return f, nil
}
