package overlay

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernelRoute is a route as the kernel tells it.
type kernelRoute struct {
	Route
	key      RouteKey
	protocol uint8
	table    uint32
	kind     uint8 // RTN_…
	hops     []int // links of a multipath route
}

func (r kernelRoute) ours() bool { return r.protocol == Protocol && r.table == unix.RT_TABLE_MAIN }

func rtMsg(m unix.RtMsg) *nl.RtMsg { return &nl.RtMsg{RtMsg: m} }

// routeFilter asks a dump for our routes of a family only.
func routeFilter(fam uint8) *nl.RtMsg {
	return rtMsg(unix.RtMsg{Family: fam, Table: unix.RT_TABLE_MAIN, Protocol: Protocol})
}

// routeLookup asks for the way to an address, with exceptions.
func routeLookup(dst netip.Addr, flags uint32) []nl.NetlinkRequestData {
	if dst.Is4() { // IPv6 names the table unasked, and refuses the flag
		flags |= unix.RTM_F_LOOKUP_TABLE
	}
	return []nl.NetlinkRequestData{
		rtMsg(unix.RtMsg{Family: family(dst), Dst_len: uint8(dst.BitLen()), Flags: flags}),
		attr(unix.RTA_DST, dst.AsSlice()),
	}
}

// routeMatch asks for the row of the table that an address matches.
func routeMatch(dst netip.Addr) []nl.NetlinkRequestData {
	return routeLookup(dst, unix.RTM_F_FIB_MATCH)
}

func routeMessage(k RouteKey, v Route) []nl.NetlinkRequestData {
	m := unix.RtMsg{
		Family: family(k.Dst.Addr()), Dst_len: uint8(k.Dst.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: Protocol, Type: unix.RTN_UNICAST, Scope: scopeOf(k, v),
	}
	if v.OnLink {
		m.Flags = unix.RTNH_F_ONLINK
	}
	if v.Unreachable {
		m.Type = unix.RTN_UNREACHABLE
	}
	parts := []nl.NetlinkRequestData{rtMsg(m), attr(unix.RTA_DST, k.Dst.Addr().AsSlice())}
	if metric := metricOf(k.Dst.Addr(), k.Metric); metric != 0 {
		parts = append(parts, attr32(unix.RTA_PRIORITY, metric))
	}
	if v.LinkIndex != 0 {
		parts = append(parts, attr32(unix.RTA_OIF, uint32(v.LinkIndex)))
	}
	switch {
	case !v.Gateway.IsValid():
	case v.Gateway.Is4() == k.Dst.Addr().Is4():
		parts = append(parts, attr(unix.RTA_GATEWAY, v.Gateway.AsSlice()))
	default: // struct rtvia
		via := binary.NativeEndian.AppendUint16(nil, uint16(family(v.Gateway)))
		parts = append(parts, attr(unix.RTA_VIA, append(via, v.Gateway.AsSlice()...)))
	}
	if v.Src.IsValid() {
		parts = append(parts, attr(unix.RTA_PREFSRC, v.Src.AsSlice()))
	}
	if v.MTU > 0 {
		metrics := attr(unix.RTA_METRICS, nil)
		metrics.AddChild(attr32(unix.RTAX_MTU, uint32(v.MTU)))
		parts = append(parts, metrics)
	}
	return parts
}

func routeDelete(k RouteKey, typ uint8) []nl.NetlinkRequestData {
	parts := []nl.NetlinkRequestData{
		rtMsg(unix.RtMsg{
			Family: family(k.Dst.Addr()), Dst_len: uint8(k.Dst.Bits()), Table: unix.RT_TABLE_MAIN,
			Protocol: Protocol, Type: typ, Scope: unix.RT_SCOPE_NOWHERE,
		}),
		attr(unix.RTA_DST, k.Dst.Addr().AsSlice()),
	}
	if metric := metricOf(k.Dst.Addr(), k.Metric); metric != 0 {
		parts = append(parts, attr32(unix.RTA_PRIORITY, metric))
	}
	return parts
}

// scopeOf is the scope that iproute2 would choose. IPv6 has none.
func scopeOf(k RouteKey, v Route) uint8 {
	if k.Dst.Addr().Is4() && !v.Unreachable && !v.Gateway.IsValid() {
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

// parseRoute reads an RTM_NEWROUTE; false for what is no IP route of a table.
func parseRoute(b []byte) (kernelRoute, bool) {
	var r kernelRoute
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	m := nl.DeserializeRtMsg(b)
	var dst netip.Addr
	switch {
	case m.Flags&unix.RTM_F_CLONED != 0:
		return r, false
	case m.Family == unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case m.Family == unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return r, false
	}
	r.protocol, r.table, r.kind = m.Protocol, uint32(m.Table), m.Type
	r.OnLink = m.Flags&unix.RTNH_F_ONLINK != 0
	r.Unreachable = m.Type == unix.RTN_UNREACHABLE
	r.Odd = m.Tos != 0 || m.Src_len != 0 || m.Type != unix.RTN_UNICAST && m.Type != unix.RTN_UNREACHABLE
	attrs(b[unix.SizeofRtMsg:], func(typ int, data []byte) {
		switch typ {
		case unix.RTA_DST:
			dst = getAddr(data)
		case unix.RTA_TABLE:
			r.table = get32(data)
		case unix.RTA_PRIORITY:
			r.key.Metric = get32(data)
		case unix.RTA_OIF:
			r.LinkIndex = int(get32(data))
		case unix.RTA_GATEWAY:
			r.Gateway = getAddr(data)
		case unix.RTA_VIA:
			r.Gateway = getVia(data)
		case unix.RTA_PREFSRC:
			r.Src = getAddr(data)
		case unix.RTA_METRICS:
			r.metrics(data)
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo; the third word is rta_expires
			r.Odd = r.Odd || len(data) >= 12 && get32(data[8:]) != 0
		case unix.RTA_PREF:
			r.Odd = r.Odd || len(data) > 0 && data[0] != 0 // 0 is medium
		case unix.RTA_MULTIPATH:
			r.Odd = true
			r.multipath(data)
		default:
			r.Odd = true
		}
	})
	if r.Unreachable {
		r.LinkIndex = 0 // IPv6 says lo
	}
	if m.Family == unix.AF_INET6 && r.key.Metric == metric6Default {
		r.key.Metric = 0
	}
	r.key.Dst = netip.PrefixFrom(dst, int(m.Dst_len))
	r.Odd = r.Odd || m.Family == unix.AF_INET && m.Scope != scopeOf(r.key, r.Route)
	return r, r.key.Dst.IsValid()
}

func (r *kernelRoute) metrics(b []byte) {
	attrs(b, func(typ int, data []byte) {
		if typ == unix.RTAX_MTU {
			r.MTU = int(get32(data))
			return
		}
		r.Odd = true
	})
}

// multipath gathers the links of an array of struct rtnexthop.
func (r *kernelRoute) multipath(b []byte) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return
		}
		r.hops = append(r.hops, int(get32(b[4:])))
		b = b[min((n+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1), len(b)):]
	}
}
