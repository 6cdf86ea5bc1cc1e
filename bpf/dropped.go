package bpf

import (
	"encoding/binary"
	"net/netip"
)

// Packet is what can be told of a packet by its first bytes. Of one in the overlay it is
// the packet inside. Addresses are not valid if there is no whole IP header, ports are 0
// if there are none: in other protocols, in later fragments.
type Packet struct {
	Src, Dst netip.AddrPort
	Protocol Protocol
	ICMPType uint8 // of ICMP and ICMPv6
}

// Protocols and extension headers that are looked into (RFC 8200).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoRouting  = 43
	protoFragment = 44
	protoICMPv6   = 58
	protoOptions  = 60
)

// parsePacket reads b, a packet from its IP header on, perhaps cut off; port is the
// overlay's.
func parsePacket(b []byte, port uint16) Packet {
	p, rest := parseIP(b)
	if p.Protocol != UDP || port == 0 || p.Dst.Port() != port {
		return p
	}
	const udp, vxlan, ethernet = 8, 8, 14
	if len(rest) < udp+vxlan+ethernet {
		return p
	}
	if inner, _ := parseIP(rest[udp+vxlan+ethernet:]); inner.Src.IsValid() {
		return inner
	}
	return p
}

// parseIP returns what follows the IP header, too.
func parseIP(b []byte) (p Packet, rest []byte) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		p.Protocol = Protocol(b[9])
		head := int(b[0]&0xf) * 4
		if head < 20 || head > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return p, nil
		}
		rest = b[head:]
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		var first bool
		if p.Protocol, rest, first = skipExtensions(b[6], b[40:]); !first {
			return p, nil
		}
	default:
		return p, nil
	}
	switch p.Protocol {
	case TCP, UDP, SCTP:
		if len(rest) >= 4 {
			p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(rest))
			p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(rest[2:]))
		}
	case protoICMP, protoICMPv6:
		if len(rest) > 0 {
			p.ICMPType = rest[0]
		}
	}
	return p, rest
}

// skipExtensions returns the protocol behind the extension headers of IPv6, and what is
// there; first is false for a later fragment, of which there is nothing.
func skipExtensions(next byte, b []byte) (proto Protocol, rest []byte, first bool) {
	for {
		size := 0
		switch next {
		case protoHopByHop, protoRouting, protoOptions:
			if len(b) < 2 {
				return Protocol(next), nil, true
			}
			size = 8 + 8*int(b[1])
		case protoFragment:
			if len(b) < 8 {
				return Protocol(next), nil, true
			}
			if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return Protocol(b[0]), nil, false
			}
			size = 8
		default:
			return Protocol(next), b, true
		}
		next, b = b[0], b[min(size, len(b)):]
	}
}
