package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/ipam"
)

// settle is how long events of one pod are collected before it is looked at, and
// how often at most.
const settle = 200 * time.Millisecond

// watched are the groups of rtnetlink events in which drift shows.
var watched = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
}

// event names what an rtnetlink notification is about: a device of the host, or
// (netns >= 0) whatever of another network namespace. all: events were lost.
type event struct {
	netns int
	index int
	all   bool
}

// Watch repairs pods as soon as something of them changes, in the host's namespace
// or in theirs, until ctx ends. It begins with a look at all of them. Other
// namespaces are heard by one socket (NETLINK_LISTEN_ALL_NSID, which needs
// CAP_NET_BROADCAST); each pod's has an id here, because the other end of its veth
// is here.
func (m *Manager) Watch(ctx context.Context) error {
	fd, err := listen()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make event descriptor: %w", err)
	}
	defer unix.Close(end)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		if _, err := unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			m.Log.Warn("end the watch of pods", "err", err)
		}
	})
	defer func() {
		if !stop() {
			<-woken // before the descriptor is closed
		}
	}()
	dirty := map[ipam.Owner]bool{}
	for _, o := range m.all() {
		dirty[o] = true // what changed while nobody listened
	}
	buf := make([]byte, 64<<10)
	var since time.Time
	for ctx.Err() == nil {
		wait := -1 // nothing to do before something happens: an idle node stays asleep
		if len(dirty) > 0 {
			wait = int(settle.Milliseconds())
		}
		events, err := readEvents(fd, end, wait, buf)
		if err != nil {
			return err
		}
		for _, e := range events {
			for _, o := range m.concerned(e) {
				if len(dirty) == 0 {
					since = time.Now()
				}
				dirty[o] = true
			}
		}
		if len(dirty) == 0 || time.Since(since) < settle {
			continue
		}
		for o := range dirty {
			if m.adding(o) {
				continue
			}
			if err := m.Repair(ctx, o); err != nil && ctx.Err() == nil {
				m.Log.Warn("repair pod, will retry", "err", err, "ifname", o.IfName)
			}
		}
		clear(dirty)
	}
	return nil
}

func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open netlink socket: %w", err)
	}
	fail := func(what string, err error) (int, error) {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", what, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fail("listen to all namespaces (needs CAP_NET_BROADCAST)", err)
	}
	// Forced: pods come and go in bursts. Where that is not allowed, events are
	// lost earlier, and then everything is looked at.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail("bind netlink socket", err)
	}
	for _, g := range watched {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fail("subscribe to netlink events", err)
		}
	}
	return fd, nil
}

// readEvents waits at most so many milliseconds (-1: for ever) for one datagram, or
// until end can be read. None is no error.
func readEvents(fd, end, wait int, buf []byte) ([]event, error) {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(end), Events: unix.POLLIN}}, wait)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("wait for netlink events: %w", err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, nil
	case errors.Is(err, unix.ENOBUFS):
		return []event{{all: true}}, nil
	case err != nil:
		return nil, fmt.Errorf("read netlink events: %w", err)
	}
	netns := -1
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("read netlink events: %w", err)
	}
	for _, c := range controls {
		if c.Header.Level == unix.SOL_NETLINK && c.Header.Type == unix.NETLINK_LISTEN_ALL_NSID {
			netns = int(int32(u32(c.Data)))
		}
	}
	var events []event
	for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(native.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		events = append(events, event{netns: netns, index: eventIndex(native.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size])})
		b = b[min(align(size), len(b)):]
	}
	return events, nil
}

// eventIndex is the device that a message of the host's namespace is about. All but
// routes have it at the same place; routes name it in an attribute.
func eventIndex(typ uint16, b []byte) int {
	switch typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(b) >= unix.SizeofRtMsg {
			return int(u32(attrs(b[unix.SizeofRtMsg:])[unix.RTA_OIF]))
		}
		return 0
	}
	if len(b) < 8 {
		return 0
	}
	return int(u32(b[4:]))
}

// concerned lists the attachments that an event may be about.
func (m *Manager) concerned(e event) []ipam.Owner {
	if e.all {
		m.Log.Warn("netlink events lost, looking at all pods")
		return m.all()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.netns >= 0 {
		return m.byNetns[e.netns]
	}
	return m.byIndex[e.index]
}
