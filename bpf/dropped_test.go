package bpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePacket(t *testing.T) {
	t.Parallel()
	v4, w4 := addr("10.0.0.1"), addr("10.0.0.2")
	v6, w6 := addr("fd00::1"), addr("fd00::2")
	at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	body := udp(7, 9, []byte("payload"))
	inner := header{src: v4, dst: w4, proto: protoUDP}
	frame := ethernet(mac{}, mac{10}, ethIPv4, inner.packet(body))
	for _, tt := range []struct {
		name string
		in   []byte
		want Packet
	}{
		{"IPv4", inner.packet(body), Packet{Src: at(v4, 7), Dst: at(w4, 9), Protocol: UDP}},
		{"IPv4 options", header{src: v4, dst: w4, proto: protoUDP, options: []byte{0x94, 4, 0, 0}}.packet(body), Packet{Src: at(v4, 7), Dst: at(w4, 9), Protocol: UDP}},
		{"later fragment", header{src: v4, dst: w4, proto: protoUDP, frag: 100}.packet(body), Packet{Src: at(v4, 0), Dst: at(w4, 0), Protocol: UDP}},
		{"IPv6", header{src: v6, dst: w6, proto: protoUDP}.packet(body), Packet{Src: at(v6, 7), Dst: at(w6, 9), Protocol: UDP}},
		{"IPv6 options", header{src: v6, dst: w6, proto: protoHopByHop}.packet(cat([]byte{protoOptions, 0, 1, 4, 0, 0, 0, 0}, []byte{17, 0, 1, 4, 0, 0, 0, 0}, body)), Packet{Src: at(v6, 7), Dst: at(w6, 9), Protocol: UDP}},
		{"IPv6 later fragment", header{src: v6, dst: w6, proto: protoFragment}.packet(cat([]byte{17, 0, 0, 8, 0, 0, 0, 1}, body)), Packet{Src: at(v6, 0), Dst: at(w6, 0), Protocol: UDP}},
		{"ICMPv6", header{src: v6, dst: w6, proto: protoICMPv6}.packet([]byte{128, 0, 0, 0}), Packet{Src: at(v6, 0), Dst: at(w6, 0), Protocol: protoICMPv6, ICMPType: 128}},
		{"overlay", header{src: v6, dst: w6, proto: protoUDP}.packet(udp(50000, 8872, vxlan(8, 87, frame))), Packet{Src: at(v4, 7), Dst: at(w4, 9), Protocol: UDP}},
		{"to the overlay's port, but nothing inside", header{src: v6, dst: w6, proto: protoUDP}.packet(udp(50000, 8872, nil)), Packet{Src: at(v6, 50000), Dst: at(w6, 8872), Protocol: UDP}},
		{"cut off", inner.packet(body)[:19], Packet{}},
		{"without ports", inner.packet(body)[:22], Packet{Src: at(v4, 0), Dst: at(w4, 0), Protocol: UDP}},
		{"nothing", nil, Packet{}},
	} {
		same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
		if diff := cmp.Diff(parsePacket(tt.in, 8872), tt.want, same); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.name, diff)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(header{src: addr("fd00::1"), dst: addr("fd00::2"), proto: protoHopByHop}.packet([]byte{protoFragment, 0, 1, 4, 0, 0, 0, 0}))
	f.Add(header{src: addr("10.0.0.1"), dst: addr("10.0.0.2"), proto: protoUDP}.packet(udp(1, 8872, make([]byte, 40))))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := parsePacket(in, 8872)
		if p.Src.IsValid() != p.Dst.IsValid() {
			t.Errorf("one end only: %+v", p)
		}
	})
}
