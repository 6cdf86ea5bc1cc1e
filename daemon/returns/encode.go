package returns

import (
	"encoding/binary"
	"net/netip"
)

// bodyLen is struct probe's length in bpf/src/announce.h, kind its PROBE_RETURN.
const (
	bodyLen = 40
	kind    = 4
)

// Encode returns the payload of the tunnel's datagram that asks a question: a frame with the
// VNI of packets that one node passes on to another, in it a datagram from q.To to q.From, at
// the port of probes. The other node sends it back as it would an answer to a client.
func (q Question) Encode(vni uint32, port uint16) []byte {
	datagram := make([]byte, 8+bodyLen)
	binary.BigEndian.PutUint16(datagram, port)
	binary.BigEndian.PutUint16(datagram[2:], port)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	body := datagram[8:]
	copy(body, "weft")
	body[4] = kind
	binary.BigEndian.PutUint64(body[8:], q.Nonce)

	const udp = 17
	src, dst := q.To.AsSlice(), q.From.AsSlice()
	pseudo := append(append(append([]byte{}, src...), dst...), 0, udp, 0, byte(len(datagram)))
	check := sum(append(pseudo, datagram...))
	if check == 0 {
		check = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(datagram[6:], check)

	// RFC 7348: flags with a valid VNI; then a frame with unicast, local MACs.
	frame := []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0, 2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0}
	if q.To.Is4() {
		head := append(append([]byte{0x45, 0, 0, byte(20 + len(datagram)), 0, 0, 0x40, 0, 64, udp, 0, 0}, src...), dst...)
		binary.BigEndian.PutUint16(head[10:], sum(head))
		frame = append(append(frame, 0x08, 0x00), head...)
	} else {
		head := []byte{0x60, 0, 0, 0, 0, byte(len(datagram)), udp, 64}
		frame = append(append(append(append(frame, 0x86, 0xdd), head...), src...), dst...)
	}
	return append(frame, datagram...)
}

// sum is the Internet checksum (RFC 1071) of an even number of bytes.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}

// Sources chooses, of the addresses at which Services are asked, the one of each family that
// answers are tried from: the lowest, so that it stays the same while others come and go.
func Sources(addrs []netip.Addr) (v4, v6 netip.Addr) {
	for _, a := range addrs {
		best := &v6
		if a.Is4() {
			best = &v4
		}
		if !best.IsValid() || a.Less(*best) {
			*best = a
		}
	}
	return v4, v6
}
