package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Ethernet types and protocol numbers of the test packets.
const (
	ethIPv4, ethARP, ethIPv6 = 0x0800, 0x0806, 0x86dd
	protoUDP, protoICMP6     = 17, 58
)

type mac = [6]byte

// cat joins the parts of a packet.
func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
func be32(v int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }

// sum is the Internet checksum of all parts (RFC 1071).
func sum(parts ...[]byte) []byte {
	var s uint32
	b := cat(parts...)
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return be16(int(^s))
}

func ethernet(dst, src mac, proto int, payload []byte) []byte {
	return cat(dst[:], src[:], be16(proto), payload)
}

// header is an IP header to be made.
type header struct {
	src, dst netip.Addr
	proto    byte
	ttl      byte // 0: 64
	tos      byte
	df       bool
	frag     int    // flags and offset, IPv4
	options  []byte // IPv4 options, multiple of 4 bytes
	id, flow int
}

// packet is an IP packet of the family of the addresses.
func (h header) packet(payload []byte) []byte {
	ttl := h.ttl
	if ttl == 0 {
		ttl = 64
	}
	if h.src.Is4() {
		frag := h.frag
		if h.df {
			frag |= 0x4000
		}
		head := cat([]byte{0x45 + byte(len(h.options)/4), h.tos}, be16(20+len(h.options)+len(payload)),
			be16(h.id), be16(frag), []byte{ttl, h.proto, 0, 0}, h.src.AsSlice(), h.dst.AsSlice(), h.options)
		copy(head[10:], sum(head))
		return cat(head, payload)
	}
	return cat(be32(0x60000000|int(h.tos)<<20|h.flow), be16(len(payload)), []byte{h.proto, ttl},
		h.src.AsSlice(), h.dst.AsSlice(), payload)
}

func (h header) ethType() int {
	if h.src.Is4() {
		return ethIPv4
	}
	return ethIPv6
}

func udp(sport, dport int, payload []byte) []byte {
	return cat(be16(sport), be16(dport), be16(8+len(payload)), be16(0), payload)
}

func vxlan(flags byte, vni int, frame []byte) []byte {
	return cat([]byte{flags, 0, 0, 0}, be32(vni<<8), frame)
}

// icmp6 has the checksum over the pseudo header (RFC 4443).
func icmp6(src, dst netip.Addr, body []byte) []byte {
	b := slices.Clone(body)
	copy(b[2:], []byte{0, 0})
	copy(b[2:], sum(src.AsSlice(), dst.AsSlice(), be32(len(b)), be32(protoICMP6), b))
	return b
}

// edit returns a copy of a packet with bytes replaced from an offset on.
func edit(b []byte, at int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], with)
	return b
}
