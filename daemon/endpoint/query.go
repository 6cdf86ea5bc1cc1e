package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// link is what we read of a device.
type link struct {
	index   int
	name    string
	alias   string
	kind    string // of IFLA_LINKINFO: veth, ifb, ...
	qdisc   string // kind of the root qdisc
	mac     net.HardwareAddr
	mtu     int
	flags   uint32 // IFF_UP ...
	master  int    // index of the bridge, or the like, that it is in
	peer    int    // index of a veth's other end, in its namespace
	netnsID int    // of the other end's namespace as seen from here; -1 if the same
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// skipStats leaves the statistics, half of the answer, out (RTEXT_FILTER_SKIP_STATS).
const skipStats = 1 << 3

func getLinkMessage(name string) *message {
	return newMessage(unix.RTM_GETLINK, 0, ifInfo(0, 0, 0)).
		str(unix.IFLA_IFNAME, name).u32(unix.IFLA_EXT_MASK, skipStats)
}

// linkOf reads the answer to getLinkMessage. ok is false if there is no such device.
func linkOf(r reply) (l link, ok bool, err error) {
	if errors.Is(r.err, unix.ENODEV) {
		return link{}, false, nil
	}
	if r.err != nil {
		return link{}, false, r.err
	}
	if len(r.parts) != 1 {
		return link{}, false, fmt.Errorf("%d answers to a question for one device", len(r.parts))
	}
	l, err = parseLink(r.parts[0].data)
	return l, err == nil, err
}

// linkByName asks for one device.
func (c *conn) linkByName(name string) (link, bool, error) {
	replies, err := c.exec(getLinkMessage(name))
	if err != nil {
		return link{}, false, err
	}
	return linkOf(replies[0])
}

// linkByIndex is linkByName by another key.
func (c *conn) linkByIndex(index int) (link, bool, error) {
	replies, err := c.exec(newMessage(unix.RTM_GETLINK, 0, ifInfo(index, 0, 0)).u32(unix.IFLA_EXT_MASK, skipStats))
	if err != nil {
		return link{}, false, err
	}
	return linkOf(replies[0])
}

// links asks for all devices of one kind ("veth", "ifb").
func (c *conn) links(kind string) ([]link, error) {
	var all []link
	var bad error
	err := c.each(unix.RTM_GETLINK, ifInfo(0, 0, 0), func(m *message) {
		m.u32(unix.IFLA_EXT_MASK, skipStats)
		m.nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func() { m.attr(unix.IFLA_INFO_KIND, []byte(kind)) })
	}, func() { all = nil }, func(p part) {
		l, err := parseLink(p.data)
		if err != nil {
			bad = err
		} else if l.kind == kind {
			all = append(all, l)
		}
	})
	if err := errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("list %s devices: %w", kind, err)
	}
	return all, nil
}

func parseLink(b []byte) (link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, errors.New("short answer about a device")
	}
	l := link{index: int(u32(b[4:])), flags: u32(b[8:]), netnsID: -1}
	for typ, data := range eachAttr(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = cString(data)
		case unix.IFLA_IFALIAS:
			l.alias = cString(data)
		case unix.IFLA_LINKINFO:
			l.kind = word(attrOf(data, unix.IFLA_INFO_KIND))
		case unix.IFLA_QDISC:
			l.qdisc = word(data)
		case unix.IFLA_ADDRESS:
			l.mac = bytes.Clone(data)
		case unix.IFLA_MTU:
			l.mtu = int(u32(data))
		case unix.IFLA_MASTER:
			l.master = int(u32(data))
		case unix.IFLA_LINK:
			l.peer = int(u32(data))
		case unix.IFLA_LINK_NETNSID:
			l.netnsID = int(int32(u32(data)))
		}
	}
	return l, nil
}

// word is cString of what is nearly always one of a few words.
func word(b []byte) string {
	b = terminated(b)
	for _, w := range []string{"veth", "ifb", "noqueue"} {
		if string(b) == w {
			return w
		}
	}
	return string(b)
}

// addresses lists the addresses of one device, with their prefix lengths.
func (c *conn) addresses(index int) (map[netip.Prefix]bool, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	native.PutUint32(header[4:], uint32(index))
	var have map[netip.Prefix]bool
	err := c.each(unix.RTM_GETADDR, header, nil, func() { have = map[netip.Prefix]bool{} }, func(p part) {
		if len(p.data) < unix.SizeofIfAddrmsg || int(u32(p.data[4:])) != index {
			return
		}
		var raw []byte
		for typ, data := range eachAttr(p.data[unix.SizeofIfAddrmsg:]) {
			if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && raw == nil {
				raw = data
			}
		}
		if addr, ok := netip.AddrFromSlice(raw); ok {
			have[netip.PrefixFrom(addr, int(p.data[1]))] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return have, nil
}

// route is what we read of a route.
type route struct {
	dst   netip.Prefix
	gw    netip.Addr
	oif   int
	mtu   int
	proto uint8
	// metric is the priority; a smaller one is better.
	metric uint32
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// routes lists one family's main table.
func (c *conn) routes(fam uint8) ([]route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = fam
	var all []route
	err := c.each(unix.RTM_GETROUTE, header, func(m *message) { m.u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN) },
		func() { all = nil }, func(p part) {
			if r, ok := parseRoute(p.data); ok {
				all = append(all, r)
			}
		})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the table does not exist before its first route
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

func parseRoute(b []byte) (route, bool) {
	if len(b) < unix.SizeofRtMsg || b[7] != unix.RTN_UNICAST {
		return route{}, false
	}
	r := route{proto: b[5]}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for typ, data := range eachAttr(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(data); ok {
				dst = a
			}
		case unix.RTA_GATEWAY:
			r.gw, _ = netip.AddrFromSlice(data)
		case unix.RTA_OIF:
			r.oif = int(u32(data))
		case unix.RTA_PRIORITY:
			r.metric = u32(data)
		case unix.RTA_METRICS:
			r.mtu = int(u32(attrOf(data, unix.RTAX_MTU)))
		}
	}
	r.dst = netip.PrefixFrom(dst, int(b[1]))
	return r, true
}

// routeMessage asks which entry of the table a packet to addr would take.
func routeMessage(addr netip.Addr) *message {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(addr), uint8(addr.BitLen())
	native.PutUint32(header[8:], unix.RTM_F_FIB_MATCH)
	return newMessage(unix.RTM_GETROUTE, 0, header).attr(unix.RTA_DST, addr.AsSlice())
}

// awaitLocal waits until the namespace takes packets for the address; r is the first
// answer to its routeMessage. The kernel adds the local route of an IPv6 address from a
// work queue, also without duplicate address detection (net/ipv6/addrconf.c,
// addrconf_dad_start): a packet that comes before is lost. The queue needs some 50 µs
// of this CPU, and Go's timers are not finer than 1 ms while the process idles. Where it
// needs long the CPU is busy, and who asks less often leaves more of it to the queue.
func (c *conn) awaitLocal(a netip.Addr, r reply) error {
	deadline := time.Now().Add(localWithin)
	for wait := 50 * time.Microsecond; !isLocal(r); wait = min(2*wait, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the pod's kernel does not take packets for %s after %s; its answer to RTM_GETROUTE: %v", a, localWithin, r.err)
		}
		pause := unix.NsecToTimespec(int64(wait))
		_ = unix.Nanosleep(&pause, nil) // shorter if a signal comes
		replies, err := c.exec(routeMessage(a))
		if err != nil {
			return err
		}
		r = replies[0]
	}
	return nil
}

// isLocal reads the answer to a routeMessage.
func isLocal(r reply) bool {
	return r.err == nil && len(r.parts) == 1 && len(r.parts[0].data) >= unix.SizeofRtMsg && r.parts[0].data[7] == unix.RTN_LOCAL
}

// localWithin is far more than a work queue takes, also on a busy node.
const localWithin = 15 * time.Second

// neighbourMessage asks for one neighbour entry.
func neighbourMessage(index int, addr netip.Addr) *message {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = family(addr)
	native.PutUint32(header[4:], uint32(index))
	return newMessage(unix.RTM_GETNEIGH, 0, header).attr(unix.NDA_DST, addr.AsSlice())
}

// neighbourOf reads the answer: the MAC, nil unless the entry is permanent.
func neighbourOf(r reply) (net.HardwareAddr, error) {
	if errors.Is(r.err, unix.ENOENT) || r.err == nil && len(r.parts) == 0 {
		return nil, nil
	}
	if r.err != nil {
		return nil, r.err
	}
	b := r.parts[0].data
	if len(b) < unix.SizeofNdMsg || native.Uint16(b[8:])&unix.NUD_PERMANENT == 0 {
		return nil, nil
	}
	return net.HardwareAddr(attrOf(b[unix.SizeofNdMsg:], unix.NDA_LLADDR)), nil
}
