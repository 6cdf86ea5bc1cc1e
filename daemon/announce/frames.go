package announce

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Ethernet types, and the groups of all and of one's askers (RFC 4291, 2.7.1).
const (
	ethARP  = 0x0806
	ethIPv6 = 0x86dd
)

var (
	broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    [6]byte
	allNodes  = netip.MustParseAddr("ff02::1")
)

// Group is the multicast group that a neighbour's question for an IPv6 address is sent to
// (RFC 4291, 2.7.1).
func Group(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// GroupMAC is the MAC that frames to an IPv6 multicast group have (RFC 2464, 7).
func GroupMAC(group netip.Addr) [6]byte {
	b := group.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// Tell returns the frames by which all neighbours learn that an address is at a MAC: for
// IPv4 a gratuitous ARP question, which RFC 5227 asks for, and an answer, as some heed only
// those; for IPv6 an unsolicited advertisement that overrides what they know.
func Tell(a netip.Addr, mac [6]byte) [][]byte {
	if a.Is4() {
		return [][]byte{
			arp(1, broadcast, mac, mac, a, nobody, a),
			arp(2, broadcast, mac, mac, a, broadcast, a),
		}
	}
	return [][]byte{advert(a, mac)}
}

// Ask returns the frame by which whoever has an address is found out: a probe of RFC 5227,
// or a solicitation of RFC 4862, 5.4.2. It changes nobody's knowledge.
func Ask(a netip.Addr, mac [6]byte) []byte {
	if a.Is4() {
		return arp(1, broadcast, mac, mac, netip.IPv4Unspecified(), nobody, a)
	}
	group := Group(a)
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a.AsSlice())
	return neighbour(GroupMAC(group), mac, netip.IPv6Unspecified(), group, body)
}

// arp is a frame of RFC 826.
func arp(op uint16, dst, src, sha [6]byte, spa netip.Addr, tha [6]byte, tpa netip.Addr) []byte {
	b := slices.Concat(dst[:], src[:])
	for _, v := range []uint16{ethARP, 1, 0x0800, 0x0604, op} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return slices.Concat(b, sha[:], spa.AsSlice(), tha[:], tpa.AsSlice())
}

// advert is an unsolicited advertisement (RFC 4861, 7.2.6).
func advert(a netip.Addr, mac [6]byte) []byte {
	const override = 0x20
	body := slices.Concat([]byte{136, 0, 0, 0, override, 0, 0, 0}, a.AsSlice(), []byte{2, 1}, mac[:])
	return neighbour(GroupMAC(allNodes), mac, a, allNodes, body)
}

// neighbour is a frame with a message of neighbour discovery, whose checksum it fills in.
func neighbour(dstMAC, srcMAC [6]byte, src, dst netip.Addr, body []byte) []byte {
	const icmp = 58
	length := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	sum := checksum(slices.Concat(src.AsSlice(), dst.AsSlice(), length, []byte{0, 0, 0, icmp}, body))
	binary.BigEndian.PutUint16(body[2:], sum)
	b := slices.Concat(dstMAC[:], srcMAC[:])
	b = binary.BigEndian.AppendUint16(b, ethIPv6)
	b = append(b, 0x60, 0, 0, 0, length[2], length[3], icmp, 255)
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), body)
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
