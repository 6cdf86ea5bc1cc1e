package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rejected is a packet for which there is no way, and how many bytes of it an ICMP error
// quotes: the ports are the last that matter.
type rejected struct {
	name   string
	packet []byte
	quoted int
}

// wholeAndFirst is a packet, and the first fragment of one, with the same bytes behind the
// headers of IP.
func wholeAndFirst(proto Protocol, src, dst netip.AddrPort, flags byte, load []byte) []rejected {
	body := segment(proto, src, dst, flags, load)
	whole := header{src: src.Addr(), dst: dst.Addr(), proto: byte(proto)}
	first, quoted := whole, 20+8
	cut := body
	if first.frag, first.id = 0x2000, 5; src.Addr().Is6() {
		first.proto, cut = 44, cat([]byte{byte(proto), 0}, be16(1), be32(5), body)
		quoted = 40 + 8
	}
	return []rejected{
		{"whole", whole.packet(body), quoted},
		{"first fragment", first.packet(cut), quoted + len(cut) - len(body)},
	}
}

// reset is a TCP reset without data.
func reset(src, dst netip.AddrPort, seq, ackNumber int, flags byte) []byte {
	b := cat(be16(int(src.Port())), be16(int(dst.Port())), be32(seq), be32(ackNumber), []byte{0x50, flags, 0, 0, 0, 0, 0, 0})
	b = edit(b, 16, sum(src.Addr().AsSlice(), dst.Addr().AsSlice(), be32(len(b)), be32(int(TCP)), b)...)
	return header{src: src.Addr(), dst: dst.Addr(), proto: byte(TCP), df: true}.packet(b)
}

// told is the ICMP error about a packet, by whom that is to: that its port cannot be reached,
// or that it is too big if mtu says for what.
func told(src, dst netip.Addr, mtu int, quoted []byte) []byte {
	kind, code := byte(3), byte(3)
	switch {
	case src.Is6() && mtu != 0:
		kind, code = 2, 0
	case src.Is6():
		kind, code = 1, 4
	case mtu != 0:
		code = 4
	}
	out := icmpError(src, dst, 64, kind, code, mtu, quoted)
	if src.Is4() { // it is sent with DF
		out = edit(out, 6, 0x40, 0, 64, 1, 0, 0)
		out = edit(out, 10, sum(out[:20])...)
	}
	return out
}

// Who sends what is refused is told by what he can find his socket with, also if the packet
// comes in fragments: their first one is refused, and the others have nowhere to go.
func TestRefusalsAreWellFormed(t *testing.T) {
	t.Parallel()
	load := make([]byte, 24)
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		to := netip.AddrPortFrom(p.vip.Addr(), 81)
		refused := func(name string, packet, want []byte) {
			t.Helper()
			verdict, got := p.from(t, p.clientMAC, packet, false)
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("v6=%v, %s: verdict %d, counters %v (-got +want):\n%s", v6, name, int32(verdict), p.counts(t), diff)
			}
		}
		for flags, want := range map[byte][]byte{
			syn:       reset(to, p.client, 0, 1000+len(load)+1, rst|ack),
			syn | ack: reset(to, p.client, 2000, 0, rst),
			ack:       reset(to, p.client, 2000, 0, rst),
			rst:       nil,
		} {
			for _, r := range wholeAndFirst(TCP, p.client, to, flags, load) {
				refused(fmt.Sprintf("TCP with flags %#x, %s", flags, r.name), r.packet, want)
			}
		}
		for _, proto := range []Protocol{UDP, SCTP} {
			for _, r := range wholeAndFirst(proto, p.client, to, 0, load) {
				want := told(to.Addr(), p.client.Addr(), 0, r.packet[:r.quoted])
				refused(fmt.Sprintf("%s, %s", proto, r.name), r.packet, want)
			}
		}
		for _, r := range wholeAndFirst(UDP, p.client, p.vip, 0, make([]byte, 1440)) {
			want := told(p.vip.Addr(), p.client.Addr(), 1450, r.packet[:r.quoted])
			refused(r.name+" that is too big for the backend", r.packet, want)
		}
	}
}
