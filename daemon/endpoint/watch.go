package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/ipam"
)

const (
	// settle is how long events of one pod are collected before it is looked at, and
	// how often at most.
	settle = 200 * time.Millisecond
	// gather is how long events are left in the socket after the first: an ADD makes
	// some 25, and to wake up for each would take its CPU time. While nothing concerns a
	// pod (the node's own neighbours come and go all the time) it is doubled, up to gatherMost.
	gather     = 50 * time.Millisecond
	gatherMost = 800 * time.Millisecond
	// calm is how long there must have been no ADD and no DEL before all changed pods are
	// looked at. In a burst of calls most events are their own, and to look takes their
	// time and their locks: then it is a few every settle.
	calm = 300 * time.Millisecond
	few  = 8
)

// watched are the groups of rtnetlink events in which drift shows.
var watched = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, // forwarding and rp_filter; of other sysctls nobody tells
}

// event names what an rtnetlink notification is about: a device of the host, or
// (netns >= 0) whatever of another network namespace. all: events were lost.
type event struct {
	netns int
	index int
	ours  bool // of a device of the host whose name or alias is like ours
	all   bool
}

// unrest says whether something may have happened to the host's devices since the last
// look at all of them.
type unrest struct {
	listening atomic.Bool // Watch hears of whatever happens
	stirred   atomic.Bool // it heard of something, or there was something to do
	looked    time.Time   // Sweep's
}

// wholeEvery is how often all devices are looked at when nothing is heard of them.
const wholeEvery = time.Minute

// due says whether they must be looked at, and takes note that they are.
func (u *unrest) due(now time.Time) bool {
	if stirred := u.stirred.Swap(false); !stirred && u.listening.Load() && now.Sub(u.looked) < wholeEvery {
		return false
	}
	u.looked = now
	return true
}

// Watch repairs pods as soon as something of them changes, in the host's namespace
// or in theirs, until ctx ends. It begins with a look at all of them. Other
// namespaces are heard by one socket (NETLINK_LISTEN_ALL_NSID, which needs
// CAP_NET_BROADCAST); each pod's has an id here, because the other end of its veth
// is here.
func (m *Manager) Watch(ctx context.Context) error {
	f, err := listen()
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch netlink events: %w", err)
	}
	defer context.AfterFunc(ctx, func() { f.Close() })()
	m.unrest.stirred.Store(true) // what changed while nobody listened
	m.unrest.listening.Store(true)
	defer m.unrest.listening.Store(false)
	dirty := map[ipam.Owner]bool{}
	for _, o := range m.all() {
		dirty[o] = true
	}
	buf := make([]byte, 64<<10)
	var since time.Time
	rest := gather
	for ctx.Err() == nil {
		var until time.Time // nothing to do before something happens: an idle node stays asleep
		if len(dirty) > 0 {
			until = time.Now().Add(settle)
		}
		if err := f.SetReadDeadline(until); err != nil {
			return endOf(ctx, err)
		}
		concerned := false
		hear := func(events []event) {
			for _, e := range events {
				owners := m.concerned(e)
				concerned = concerned || len(owners) > 0
				if e.all || e.ours || e.netns < 0 && len(owners) > 0 {
					m.unrest.stirred.Store(true)
				}
				for _, o := range owners {
					if len(dirty) == 0 {
						since = time.Now()
					}
					dirty[o] = true
				}
			}
		}
		heard, err := readAll(ctx, conn, buf, rest, hear)
		if err != nil {
			return endOf(ctx, err)
		}
		switch {
		case concerned:
			rest = gather
		case heard:
			rest = min(2*rest, gatherMost)
		}
		if len(dirty) == 0 || time.Since(since) < settle {
			continue
		}
		turn := len(dirty)
		if time.Now().UnixNano()-m.called.Load() < int64(calm) {
			turn = few
		}
		for o := range dirty {
			if turn--; turn < 0 {
				break
			}
			delete(dirty, o)
			if m.adding(o) {
				continue
			}
			if err := m.Repair(ctx, o); err != nil && ctx.Err() == nil {
				m.Log.Warn("repair pod, will retry", "err", err, "ifname", o.IfName)
			}
		}
		since = time.Now()
	}
	return nil
}

// endOf is nil for the end that was asked for.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	fail := func(what string, err error) (*os.File, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", what, err)
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
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// readAll waits for an event, at most until the read deadline, and so long for those that
// come with it. It tells hear of all, and says whether there were any.
func readAll(ctx context.Context, conn syscall.RawConn, buf []byte, rest time.Duration, hear func([]event)) (heard bool, err error) {
	one := func(fd uintptr) bool {
		var events []event
		var there bool
		if events, there, err = readEvents(int(fd), buf); there {
			hear(events)
		}
		return there
	}
	waited := conn.Read(func(fd uintptr) bool {
		heard = one(fd)
		return heard || err != nil
	})
	switch {
	case errors.Is(waited, os.ErrDeadlineExceeded):
		return false, nil
	case waited != nil || err != nil:
		return false, errors.Join(waited, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(rest):
	}
	waited = conn.Read(func(fd uintptr) bool {
		for n := 1 << 12; n > 0 && one(fd); n-- { // in a storm what is dirty gets its turn, too
		}
		return true
	})
	if errors.Is(waited, os.ErrDeadlineExceeded) {
		waited = nil
	}
	return true, errors.Join(waited, err)
}

// readEvents reads one datagram, without waiting; there is false if there was none.
func readEvents(fd int, buf []byte) (events []event, there bool, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, false, nil
	case errors.Is(err, unix.ENOBUFS):
		return []event{{all: true}}, true, nil
	case err != nil:
		return nil, false, fmt.Errorf("read netlink events: %w", err)
	}
	netns := -1
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, false, fmt.Errorf("read netlink events: %w", err)
	}
	for _, c := range controls {
		if c.Header.Level == unix.SOL_NETLINK && c.Header.Type == unix.NETLINK_LISTEN_ALL_NSID {
			netns = int(int32(u32(c.Data)))
		}
	}
	for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(native.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		typ, body := native.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]
		if !eventIdle(typ, body) {
			events = append(events, event{netns: netns, index: eventIndex(typ, body), ours: netns < 0 && eventOurs(typ, body)})
		}
		b = b[min(align(size), len(b)):]
	}
	return events, true, nil
}

// eventIndex is the device that a message of the host's namespace is about. All but
// routes and sysctls have it at the same place; these name it in an attribute.
func eventIndex(typ uint16, b []byte) int {
	switch typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(b) >= unix.SizeofRtMsg {
			return int(u32(attrOf(b[unix.SizeofRtMsg:], unix.RTA_OIF)))
		}
		return 0
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return int(int32(u32(attrOf(b[min(netconfHeader, len(b)):], netconfIfindex))))
	}
	if len(b) < 8 {
		return 0
	}
	return int(u32(b[4:]))
}

// struct netconfmsg, aligned, and NETCONFA_IFINDEX (include/uapi/linux/netconf.h).
const (
	netconfHeader  = 4
	netconfIfindex = 1
)

// eventIdle says whether a message is about a neighbour such as the kernel makes and forgets by
// itself: multicast and link-local ones, and the end of those that need no address resolution.
// Each pod with IPv6 has some, for a minute or so after it has begun.
func eventIdle(typ uint16, b []byte) bool {
	if typ != unix.RTM_NEWNEIGH && typ != unix.RTM_DELNEIGH || len(b) < unix.SizeofNdMsg {
		return false
	}
	dst, _ := netip.AddrFromSlice(attrOf(b[unix.SizeofNdMsg:], unix.NDA_DST))
	return typ == unix.RTM_DELNEIGH && native.Uint16(b[8:])&unix.NUD_NOARP != 0 || dst.IsMulticast() || dst.IsLinkLocalUnicast()
}

// eventOurs says whether a message is about a device whose name or alias is like ours.
func eventOurs(typ uint16, b []byte) bool {
	if typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK || len(b) < unix.SizeofIfInfomsg {
		return false
	}
	for typ, data := range eachAttr(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			if bytes.HasPrefix(data, []byte(vethPrefix)) || bytes.HasPrefix(data, []byte(ifbPrefix)) {
				return true
			}
		case unix.IFLA_IFALIAS:
			if bytes.HasPrefix(data, []byte(aliasPrefix)) {
				return true
			}
		}
	}
	return false
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
