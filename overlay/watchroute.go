package overlay

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// routeWatch judges route netlink's messages. It knows the links, so that it can
// tell ours from others and a change from a repetition.
type routeWatch struct {
	links map[int]linkState
	addrs map[addrAt]uint32 // flags
}

type linkState struct {
	ours        bool
	name, alias string
	flags       uint32
	mtu, master uint32
	mac         [6]byte
}

type addrAt struct {
	link int
	addr netip.Prefix
}

func newRouteWatch() *routeWatch {
	return &routeWatch{links: map[int]linkState{}, addrs: map[addrAt]uint32{}}
}

// dumpSeq marks the answers to our own request.
const dumpSeq = 1

// reset asks for all links. The answers come in order with the events.
func (w *routeWatch) reset(f *os.File) error {
	clear(w.links)
	clear(w.addrs)
	const size = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	var b []byte
	b = binary.NativeEndian.AppendUint32(b, size)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_GETLINK)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = binary.NativeEndian.AppendUint32(b, dumpSeq)
	b = append(b, make([]byte, size-len(b))...)
	_, err := f.Write(b)
	return err
}

func (w *routeWatch) message(h unix.NlMsghdr, b []byte) Event {
	switch h.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		e := w.link(h.Type, b)
		if h.Seq == dumpSeq && h.Flags&unix.NLM_F_MULTI != 0 {
			return 0
		}
		return e
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.addr(h.Type, b)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return w.route(b)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return w.neigh(h.Type, b)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		return EventPaths | EventRoutes
	case unix.RTM_NEWNETCONF:
		return w.netconf(b)
	}
	return 0
}

// lost is what the kernel removes in silence with a device or an address: IPv4
// routes (net/ipv4/fib_semantics.c fib_sync_down_dev), and neighbours.
const lost = EventRoutes | EventNeighs | EventAddrs

// link compares with what is known: the kernel repeats itself often.
func (w *routeWatch) link(typ uint16, b []byte) Event {
	if len(b) < unix.SizeofIfInfomsg || b[0] == unix.AF_BRIDGE { // the state of a port
		return 0
	}
	index := int(int32(get32(b[4:])))
	was, known := w.links[index]
	if typ == unix.RTM_DELLINK {
		delete(w.links, index)
		if was.ours {
			return EventLinks | lost
		}
		return EventLinks | EventPaths | EventRoutes
	}
	is := linkState{flags: get32(b[8:]) & (unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_NOARP)}
	attrs(b[unix.SizeofIfInfomsg:], func(typ int, data []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			is.name = unix.ByteSliceToString(data)
		case unix.IFLA_IFALIAS:
			is.alias = unix.ByteSliceToString(data)
		case unix.IFLA_MTU:
			is.mtu = get32(data)
		case unix.IFLA_MASTER:
			is.master = get32(data)
		case unix.IFLA_ADDRESS:
			copy(is.mac[:], data)
		}
	})
	is.ours = was.ours || strings.HasPrefix(is.name, "weft") || strings.HasPrefix(is.name, "wifb") ||
		strings.HasPrefix(is.alias, "weft:")
	w.links[index] = is
	if known && was == is {
		return 0
	}
	e := EventLinks
	if was.flags&unix.IFF_UP != 0 && is.flags&unix.IFF_UP == 0 || known && was.mac != is.mac {
		e |= lost
	}
	if !is.ours {
		if !known {
			return 0 // it has neither an address nor a route yet
		}
		e |= EventPaths
	}
	return e
}

// addr leaves out repetitions: each router advertisement gives one.
func (w *routeWatch) addr(typ uint16, b []byte) Event {
	p, link, flags := parseAddr(b)
	if !p.IsValid() || p.Addr().IsLinkLocalUnicast() {
		return 0
	}
	e := EventAddrs
	if !w.links[link].ours {
		e |= EventPaths
	}
	at := addrAt{link, p}
	if typ == unix.RTM_DELADDR {
		delete(w.addrs, at)
		return e | EventRoutes // those with this preferred source
	}
	was, known := w.addrs[at]
	w.addrs[at] = flags
	if known && was == flags {
		return 0
	}
	return e
}

func (w *routeWatch) route(b []byte) Event {
	r, ok := parseRoute(b)
	switch {
	case !ok:
		return 0
	case r.table == unix.RT_TABLE_LOCAL:
		if r.kind == unix.RTN_LOCAL && w.links[r.LinkIndex].ours {
			return EventAddrs // without it, the address is none
		}
		return 0
	case r.protocol == Protocol:
		return EventRoutes
	case r.protocol == unix.RTPROT_KERNEL && w.links[r.LinkIndex].ours:
		return 0 // fe80::/64 and the like
	case r.kind == unix.RTN_MULTICAST || r.kind == unix.RTN_ANYCAST || r.kind == unix.RTN_LOCAL || r.kind == unix.RTN_BROADCAST:
		return 0
	case r.table == unix.RT_TABLE_MAIN:
		return EventRoutes | EventPaths
	}
	return EventPaths
}

// neigh reports what happens to entries on our devices, but not what the kernel does by itself:
// link-local ones, and the end of those that need no asking (NOARP); it makes such in silence.
func (w *routeWatch) neigh(typ uint16, b []byte) Event {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return 0
	}
	if !w.links[int(get32(b[4:]))].ours || typ == unix.RTM_DELNEIGH && get16(b[8:])&unix.NUD_NOARP != 0 {
		return 0
	}
	var dst netip.Addr
	attrs(b[unix.SizeofNdMsg:], func(typ int, data []byte) {
		if typ == unix.NDA_DST {
			dst = getAddr(data)
		}
	})
	if dst.IsLinkLocalUnicast() || dst.IsMulticast() {
		return 0
	}
	return EventNeighs
}

const netconfIfindex = 1 // include/uapi/linux/netconf.h NETCONFA_IFINDEX

// netconf reports the settings of all devices (-1), and those of foreign ones;
// each new device of ours comes with a set of its own.
func (w *routeWatch) netconf(b []byte) (e Event) {
	const header = 4 // struct netconfmsg, aligned
	if len(b) < header {
		return 0
	}
	attrs(b[header:], func(typ int, data []byte) {
		if typ == netconfIfindex {
			if i := int(int32(get32(data))); i == -1 || w.links[i].name != "" && !w.links[i].ours {
				e = EventSysctls
			}
		}
	})
	return e
}

func get16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}
