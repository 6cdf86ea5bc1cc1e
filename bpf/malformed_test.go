package bpf

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bad is one packet, and what must become of it.
type bad struct {
	name    string
	program Program
	packet  []byte
	gso     uint32
	verdict uint32
	count   string // the counter that goes up by one; empty: none
}

// check runs the cases on a node; no packet may be redirected unless the case says so.
func check(t *testing.T, n *node, cases []bad) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want := n.counts(t)
			if c.count != "" {
				want[c.count]++
			}
			verdict, out := n.run(t, c.program, c.packet, c.gso)
			if verdict != c.verdict {
				t.Errorf("verdict %d, want %d", int32(verdict), int32(c.verdict))
			}
			if diff := cmp.Diff(n.counts(t), want); diff != "" {
				t.Errorf("counters (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(out, c.packet); diff != "" && verdict != tcxRedirect {
				t.Errorf("packet was changed (-got +want):\n%s", diff)
			}
		})
	}
}

func TestPodCannotSpoofOrConfuse(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1), newNode(t, 2)
	a.knows(t, b, false)
	h4 := header{src: a.pod4, dst: b.sib4, proto: protoUDP}
	h6 := header{src: a.pod6, dst: b.sib6, proto: protoUDP}
	body := udp(1, 2, []byte("x"))
	from := func(h header, payload []byte) []byte {
		return ethernet(noMAC, a.podMAC, h.ethType(), h.packet(payload))
	}
	good4, good6 := from(h4, body), from(h6, body)
	with := func(h header, f func(*header)) header { f(&h); return h }
	other := mac{2, 9, 9, 9, 9, 9}

	check(t, a, []bad{
		{"overlay packet of its own making", FromPod, from(with(h4, func(h *header) { h.dst = addr("192.0.2.7") }), udp(1, 8872, []byte("x"))), 0, tcxDrop, "drop overlay-port"},
		{"overlay packet of its own making v6", FromPod, from(with(h6, func(h *header) { h.dst = addr("2001:db8::7") }), udp(1, 8872, []byte("x"))), 0, tcxDrop, "drop overlay-port"},
		{"another port outside", FromPod, from(with(h4, func(h *header) { h.dst = addr("192.0.2.7") }), udp(1, 8871, []byte("x"))), 0, tcxNext, ""},
		{"address of nobody", FromPod, from(with(h4, func(h *header) { h.src = addr("10.9.9.9") }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of nobody v6", FromPod, from(with(h6, func(h *header) { h.src = addr("fd00::9") }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of a neighbour pod", FromPod, from(with(h4, func(h *header) { h.src = a.sib4 }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of a neighbour pod v6", FromPod, from(with(h6, func(h *header) { h.src = a.sib6 }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of the gateway", FromPod, from(with(h4, func(h *header) { h.src = a.gw4 }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of the node", FromPod, from(with(h6, func(h *header) { h.src = a.outer6 }), body), 0, tcxDrop, "drop spoofed-address"},
		{"address of a remote pod", FromPod, from(with(h4, func(h *header) { h.src = b.pod4 }), body), 0, tcxDrop, "drop spoofed-address"},
		{"no address", FromPod, from(with(h4, func(h *header) { h.src = addr("0.0.0.0") }), body), 0, tcxDrop, "drop spoofed-address"},
		{"mapped IPv4 address", FromPod, ethernet(noMAC, a.podMAC, ethIPv6, edit(h6.packet(body), 8, addr("::ffff:10.244.2.5").AsSlice()...)), 0, tcxDrop, "drop spoofed-address"},
		{"MAC of another", FromPod, ethernet(noMAC, other, ethIPv4, h4.packet(body)), 0, tcxDrop, "drop spoofed-mac"},
		{"MAC of another v6", FromPod, ethernet(noMAC, other, ethIPv6, h6.packet(body)), 0, tcxDrop, "drop spoofed-mac"},
		{"link-local", FromPod, from(with(h6, func(h *header) { h.src, h.dst = addr("fe80::1"), addr("ff02::2") }), body), 0, tcxDrop, "drop link-local"},
		{"unspecified v6", FromPod, from(with(h6, func(h *header) { h.src, h.dst = addr("::"), addr("ff02::16") }), body), 0, tcxDrop, "drop link-local"},
		{"not IP", FromPod, ethernet(noMAC, a.podMAC, 0x88cc, make([]byte, 46)), 0, tcxDrop, "drop not-ip"},
		{"wrong version", FromPod, edit(good4, 14, 0x65), 0, tcxDrop, "drop bad-header"},
		{"wrong version v6", FromPod, edit(good6, 14, 0x40), 0, tcxDrop, "drop bad-header"},
		{"header length below 20", FromPod, edit(good4, 14, 0x44), 0, tcxDrop, "drop bad-header"},
		{"longer than the frame", FromPod, edit(good4, 16, 0x10, 0), 0, tcxDrop, "drop bad-length"},
		{"longer than the frame v6", FromPod, edit(good6, 18, 0x10, 0), 0, tcxDrop, "drop bad-length"},
		{"shorter than its header", FromPod, edit(good4, 16, 0, 19), 0, tcxDrop, "drop bad-length"},

		{"last hop", FromPod, from(with(h4, func(h *header) { h.ttl = 1 }), body), 0, tcxNext, "stack ttl"},
		{"last hop v6", FromPod, from(with(h6, func(h *header) { h.ttl = 1 }), body), 0, tcxNext, "stack ttl"},
		{"IP options", FromPod, from(with(h4, func(h *header) { h.options = []byte{0x94, 4, 0, 0} }), body), 0, tcxNext, "stack options"},
		{"hop-by-hop options", FromPod, from(with(h6, func(h *header) { h.proto = 0 }), cat([]byte{protoUDP, 0, 5, 2, 0, 0, 1, 0}, body)), 0, tcxNext, "stack options"},
		{"spoofed with options", FromPod, from(with(h4, func(h *header) { h.src, h.options = b.pod4, []byte{0x94, 4, 0, 0} }), body), 0, tcxDrop, "drop spoofed-address"},
		{"as big as fits", FromPod, from(h4, udp(1, 2, make([]byte, 1450-28))), 0, tcxRedirect, ""},
		{"too big", FromPod, from(h4, udp(1, 2, make([]byte, 1451-28))), 0, tcxNext, "stack too-big"},
		{"as big as fits v6", FromPod, from(h6, udp(1, 2, make([]byte, 1450-48))), 0, tcxRedirect, ""},
		{"too big v6", FromPod, from(h6, udp(1, 2, make([]byte, 1451-48))), 0, tcxNext, "stack too-big"},
		{"segments too big", FromPod, from(h4, udp(1, 2, make([]byte, 3000))), 1450 - 27, tcxNext, "stack too-big"},
		{"to its node", FromPod, from(with(h4, func(h *header) { h.dst = a.gw4 }), body), 0, tcxNext, ""},
		{"to the outside", FromPod, from(with(h4, func(h *header) { h.dst = addr("198.51.100.1") }), body), 0, tcxNext, ""},
		{"to the outside v6", FromPod, from(with(h6, func(h *header) { h.dst = addr("2001:db8::9") }), body), 0, tcxNext, ""},
		{"not for the host's MAC", FromPod, ethernet(other, a.podMAC, ethIPv4, h4.packet(body)), 0, tcxNext, ""},
	})

	a.flag(t, a.sib4, EndpointStack)
	a.flag(t, a.sib6, EndpointStack)
	check(t, a, []bad{
		{"to a limited pod", FromPod, from(with(h4, func(h *header) { h.dst = a.sib4 }), body), 0, tcxNext, "stack limited"},
		{"to a limited pod v6", FromPod, from(with(h6, func(h *header) { h.dst = a.sib6 }), body), 0, tcxNext, "stack limited"},
	})
	a.flag(t, a.pod4, EndpointStack)
	check(t, a, []bad{
		{"from a limited pod", FromPod, from(h4, body), 0, tcxNext, "stack limited"},
		{"spoofed by a limited pod", FromPod, ethernet(noMAC, other, ethIPv4, h4.packet(body)), 0, tcxDrop, "drop spoofed-mac"},
	})
}

// wire is a well-formed packet of node a's pod on its way to b, as a wrote it.
func wire(t *testing.T, a, b *node, v6 bool) []byte {
	t.Helper()
	h := header{src: a.pod4, dst: b.sib4, proto: protoUDP}
	if v6 {
		h.src, h.dst = a.pod6, b.sib6
	}
	verdict, out := a.run(t, FromPod, ethernet(noMAC, a.podMAC, h.ethType(), h.packet(udp(1, 2, []byte("payload")))), 0)
	if verdict != tcxRedirect {
		t.Fatalf("from_pod: verdict %d", verdict)
	}
	return out
}

func TestMalformedTunnelPacketsNeverCross(t *testing.T) {
	t.Parallel()
	for name, outer6 := range map[string]bool{"outer v4": false, "outer v6": true} {
		for family, v6 := range map[string]bool{"inner v4": false, "inner v6": true} {
			t.Run(name+" "+family, func(t *testing.T) {
				a, b := newNode(t, 1), newNode(t, 2)
				a.knows(t, b, outer6)
				b.knows(t, a, outer6)
				tunnelCases(t, b, wire(t, a, b, v6), outer6, v6)
			})
		}
	}
}

// tunnelCases damages one good packet to b in every way.
func tunnelCases(t *testing.T, b *node, good []byte, outer6, v6 bool) {
	ipAt, udpAt := 14, 34
	if outer6 {
		udpAt = 54
	}
	vxAt, inAt := udpAt+8, udpAt+16+14
	src, dst := 12, 16
	if v6 {
		src, dst = 8, 24
	}
	// fix makes the outer IPv4 checksum right again.
	fix := func(p []byte) []byte {
		if outer6 {
			return p
		}
		return edit(edit(p, ipAt+10, 0, 0), ipAt+10, sum(edit(p, ipAt+10, 0, 0)[ipAt:udpAt])...)
	}
	// short cuts the packet and makes all outer lengths right again.
	short := func(n int) []byte {
		p := edit(good[:n], udpAt+4, be16(n-udpAt)...)
		if outer6 {
			return edit(p, ipAt+4, be16(n-udpAt)...)
		}
		return fix(edit(p, ipAt+2, be16(n-ipAt)...))
	}
	outerSrc, outerDst := ipAt+12+3, ipAt+16+3 // last byte
	if outer6 {
		outerSrc, outerDst = ipAt+8+15, ipAt+24+15
	}
	lenAt, ttlAt := 2, 8
	if v6 {
		lenAt, ttlAt = 4, 7
	}
	const up = FromUplink
	cases := []bad{
		{"cut in the VXLAN header", up, short(vxAt + 4), 0, tcxDrop, "drop truncated"},
		{"cut in the inner Ethernet header", up, short(inAt - 1), 0, tcxDrop, "drop truncated"},
		{"no inner packet", up, short(inAt), 0, tcxDrop, "drop truncated"},
		{"cut in the inner IP header", up, short(inAt + 15), 0, tcxDrop, "drop truncated"},
		{"cut in the inner payload", up, short(len(good) - 1), 0, tcxDrop, "drop bad-length"},
		{"UDP longer than IP", up, edit(good, udpAt+4, be16(len(good)-udpAt+1)...), 0, tcxDrop, "drop bad-length"},
		{"UDP shorter than its headers", up, edit(good, udpAt+4, be16(29)...), 0, tcxDrop, "drop bad-length"},
		{"UDP length 0", up, edit(good, udpAt+4, 0, 0), 0, tcxDrop, "drop bad-length"},
		{"no VNI flag", up, edit(good, vxAt, 0), 0, tcxDrop, "drop vxlan-flags"},
		{"other flags", up, edit(good, vxAt, 0x88), 0, tcxDrop, "drop vxlan-flags"},
		{"other VNI", up, edit(good, vxAt+4, 0, 0, 86), 0, tcxDrop, "drop vxlan-vni"},
		{"other VNI, high byte", up, edit(good, vxAt+4, 1, 0, 87), 0, tcxDrop, "drop vxlan-vni"},
		{"inner ARP", up, edit(good, inAt-2, 8, 6), 0, tcxDrop, "drop not-ip"},
		{"inner family wrong", up, edit(good, inAt, 0x50), 0, tcxDrop, "drop bad-header"},
		{"inner longer than the datagram", up, edit(good, inAt+lenAt, 0x10, 0), 0, tcxDrop, "drop bad-length"},
		{"inner source of nobody", up, edit(good, inAt+src, 99), 0, tcxDrop, "drop unknown-sender"},
		{"inner source is our pod", up, edit(good, inAt+src, good[inAt+dst:inAt+dst+dst-src]...), 0, tcxDrop, "drop unknown-sender"},
		{"outer source of nobody", up, fix(edit(good, outerSrc, 200)), 0, tcxDrop, "drop unknown-sender"},
		{"outer destination is not ours", up, fix(edit(good, outerDst, 200)), 0, tcxNext, ""},
		{"not ours and malformed", up, edit(fix(edit(good, outerDst, 200)), vxAt, 0), 0, tcxNext, ""},
		{"other port", up, edit(good, udpAt+2, be16(4789)...), 0, tcxNext, ""},
		{"inner last hop", up, edit(good, inAt+ttlAt, 1), 0, tcxNext, "stack ttl"},
		{"to no pod of ours", up, edit(good, inAt+dst+dst-src-1, 99), 0, tcxNext, ""},
		{"well", up, good, 0, tcxRedirect, ""},
	}
	if outer6 {
		cases = append(cases,
			bad{"outer longer than the frame", up, edit(good, ipAt+4, 0x10, 0), 0, tcxDrop, "drop bad-length"},
			bad{"outer fragment header", up, edit(good, ipAt+6, 44), 0, tcxNext, ""})
	} else {
		cases = append(cases,
			bad{"outer checksum wrong", up, edit(good, ipAt+10, 1, 2), 0, tcxDrop, "drop bad-checksum"},
			bad{"outer longer than the frame", up, fix(edit(good, ipAt+2, 0x10, 0)), 0, tcxDrop, "drop bad-length"},
			bad{"outer shorter than its header", up, fix(edit(good, ipAt+2, 0, 19)), 0, tcxDrop, "drop bad-length"},
			bad{"first outer fragment", up, fix(edit(good, ipAt+6, 0x20, 0)), 0, tcxNext, "stack outer-fragment"},
			bad{"later outer fragment", up, fix(edit(good, ipAt+6, 0, 9)), 0, tcxNext, ""},
			bad{"outer options", up, edit(good, ipAt, 0x46), 0, tcxNext, ""})
	}
	check(t, b, cases)
	// The whole packet cut at every length that PROG_TEST_RUN takes: never redirected.
	for n := udpAt; n < len(good); n++ {
		if verdict, _ := b.run(t, up, good[:n], 0); verdict == tcxRedirect {
			t.Errorf("cut to %d of %d bytes: redirected", n, len(good))
		}
	}
	before := b.counts(t)
	b.flag(t, b.sib4, EndpointStack)
	b.flag(t, b.sib6, EndpointStack)
	verdict, _ := b.run(t, up, good, 0)
	want := maps.Clone(before)
	want["stack limited"]++
	if diff := cmp.Diff(b.counts(t), want); verdict != tcxNext || diff != "" {
		t.Errorf("to a limited pod: verdict %d, counters (-got +want):\n%s", int32(verdict), diff)
	}
}
