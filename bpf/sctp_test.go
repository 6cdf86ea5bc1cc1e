package bpf

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sctp is an SCTP packet of size bytes with an INIT chunk, with the checksum of RFC 9260,
// appendix A, if it is to have one.
func sctp(sport, dport uint16, size int, summed bool) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12] = 1
	binary.BigEndian.PutUint16(b[14:], uint16(size-12))
	for i := 16; i < size; i++ {
		b[i] = byte(i * 7)
	}
	if summed {
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

// An SCTP packet to a Service has the right checksum behind its translation, and so has
// what comes back; one that a device is still to make stays zero.
func TestSCTPChecksum(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			p := newLane(t, v6, far)
			for i, size := range []int{16, 17, 100, 1400} {
				for j, summed := range []bool{true, false} {
					t.Run(fmt.Sprintf("v6=%v far=%v %d bytes summed=%v", v6, far, size, summed), func(t *testing.T) {
						client := netip.AddrPortFrom(p.client.Addr(), uint16(50000+2*i+j))
						packet := func(src, dst netip.AddrPort, ttl byte) []byte {
							h := header{src: src.Addr(), dst: dst.Addr(), proto: byte(SCTP), ttl: ttl}
							return h.packet(sctp(src.Port(), dst.Port(), size, summed))
						}
						verdict, got := p.send(t, packet(client, p.vip, 64))
						if diff := cmp.Diff(got, packet(client, p.backend, 63)); diff != "" {
							t.Errorf("there: verdict %d, counters %v (-got +want):\n%s", int32(verdict), p.counts(t), diff)
						}
						verdict, got = p.answer(t, packet(p.backend, client, 64))
						if diff := cmp.Diff(got, packet(p.vip, client, 63)); diff != "" {
							t.Errorf("back: verdict %d, counters %v (-got +want):\n%s", int32(verdict), p.counts(t), diff)
						}
					})
				}
			}
			if diff := cmp.Diff(p.counts(t), map[string]uint64{}); diff != "" {
				t.Errorf("counters (-got +want):\n%s", diff)
			}
		}
	}
}
