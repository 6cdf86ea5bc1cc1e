package bpf

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func arp(op int, sha mac, spa netip.Addr, tha mac, tpa netip.Addr) []byte {
	return cat(be16(1), be16(ethIPv4), []byte{6, 4}, be16(op), sha[:], spa.AsSlice(), tha[:], tpa.AsSlice())
}

// nd is a neighbour solicitation or advertisement.
func nd(src, dst netip.Addr, kind byte, flags int, target netip.Addr, option ...byte) []byte {
	body := cat([]byte{kind, 0, 0, 0}, be32(flags), target.AsSlice(), option)
	return header{src: src, dst: dst, proto: protoICMP6, ttl: 255}.packet(icmp6(src, dst, body))
}

func TestPodsQuestionsForNeighboursAreAnswered(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	host := mac{2, 1, 1, 1, 1, 1}
	for _, a := range []netip.Addr{n.pod4, n.pod6} {
		must(t, n.Endpoints().Set(a, Endpoint{IfIndex: loopback, MAC: n.podMAC, HostMAC: host}))
	}
	group := addr("ff02::1:ff00:1")
	sll := cat([]byte{1, 1}, n.podMAC[:])
	tll := cat([]byte{2, 1}, host[:])
	for _, c := range []struct {
		name      string
		ask, want []byte
	}{
		{"arp for the gateway",
			ethernet(broadcast, n.podMAC, ethARP, arp(1, n.podMAC, n.pod4, mac{}, n.gw4)),
			ethernet(n.podMAC, host, ethARP, arp(2, host, n.gw4, n.podMAC, n.pod4))},
		{"arp for anything",
			ethernet(broadcast, n.podMAC, ethARP, arp(1, n.podMAC, n.pod4, mac{}, addr("10.9.9.9"))),
			ethernet(n.podMAC, host, ethARP, arp(2, host, addr("10.9.9.9"), n.podMAC, n.pod4))},
		{"solicitation for the gateway",
			ethernet(mac{0x33, 0x33, 0xff, 0, 0, 1}, n.podMAC, ethIPv6, nd(n.pod6, group, 135, 0, n.gw6, sll...)),
			ethernet(n.podMAC, host, ethIPv6, nd(n.gw6, n.pod6, 136, 0xe0000000, n.gw6, tll...))},
		{"probe without an option",
			ethernet(noMAC, n.podMAC, ethIPv6, nd(n.pod6, n.gw6, 135, 0, n.gw6)),
			ethernet(n.podMAC, host, ethIPv6, nd(n.gw6, n.pod6, 136, 0xe0000000, n.gw6))},
	} {
		t.Run(c.name, func(t *testing.T) {
			verdict, got := n.run(t, FromPod, c.ask, 0)
			if diff := cmp.Diff(got, c.want); verdict != tcxRedirect || diff != "" {
				t.Errorf("verdict %d, answer (-got +want):\n%s", int32(verdict), diff)
			}
		})
	}
}

func TestNeighbourNoiseIsDropped(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	other := mac{2, 9, 9, 9, 9, 9}
	group := addr("ff02::1:ff00:1")
	sll := cat([]byte{1, 1}, n.podMAC[:])
	frame := func(p []byte) []byte { return ethernet(broadcast, n.podMAC, ethIPv6, p) }
	good := arp(1, n.podMAC, n.pod4, mac{}, n.gw4)
	check(t, n, []bad{
		{"arp truncated", FromPod, ethernet(broadcast, n.podMAC, ethARP, good[:27]), 0, tcxDrop, "drop truncated"},
		{"arp of another", FromPod, ethernet(broadcast, n.podMAC, ethARP, arp(1, n.podMAC, n.sib4, mac{}, n.gw4)), 0, tcxDrop, "drop spoofed-address"},
		{"arp sender MAC of another", FromPod, ethernet(broadcast, n.podMAC, ethARP, arp(1, other, n.pod4, mac{}, n.gw4)), 0, tcxDrop, "drop spoofed-mac"},
		{"arp frame of another", FromPod, ethernet(broadcast, other, ethARP, good), 0, tcxDrop, "drop spoofed-mac"},
		{"arp reply for another", FromPod, ethernet(noMAC, n.podMAC, ethARP, arp(2, n.podMAC, n.gw4, mac{}, n.gw4)), 0, tcxDrop, "drop spoofed-address"},
		{"arp reply of its own", FromPod, ethernet(noMAC, n.podMAC, ethARP, arp(2, n.podMAC, n.pod4, mac{}, n.gw4)), 0, tcxNext, ""},
		{"arp probe", FromPod, ethernet(broadcast, n.podMAC, ethARP, arp(1, n.podMAC, addr("0.0.0.0"), mac{}, n.pod4)), 0, tcxDrop, "drop link-local"},
		{"arp announcement", FromPod, ethernet(broadcast, n.podMAC, ethARP, arp(1, n.podMAC, n.pod4, mac{}, n.pod4)), 0, tcxDrop, "drop link-local"},
		{"arp of another kind", FromPod, ethernet(broadcast, n.podMAC, ethARP, edit(good, 0, 0, 6)), 0, tcxDrop, "drop bad-neighbour"},
		{"arp of another operation", FromPod, ethernet(broadcast, n.podMAC, ethARP, arp(3, n.podMAC, n.pod4, mac{}, n.gw4)), 0, tcxDrop, "drop bad-neighbour"},
		{"solicitation by hop", FromPod, edit(frame(nd(n.pod6, group, 135, 0, n.gw6, sll...)), 14+7, 64), 0, tcxDrop, "drop bad-neighbour"},
		{"solicitation for a group", FromPod, frame(nd(n.pod6, group, 135, 0, group, sll...)), 0, tcxDrop, "drop bad-neighbour"},
		{"solicitation for itself", FromPod, frame(nd(n.pod6, group, 135, 0, n.pod6, sll...)), 0, tcxDrop, "drop link-local"},
		{"solicitation truncated", FromPod, frame(nd(n.pod6, group, 135, 0, n.gw6, sll...)[:60]), 0, tcxDrop, "drop bad-length"},
		{"solicitation too short", FromPod, frame(header{src: n.pod6, dst: group, proto: protoICMP6, ttl: 255}.packet([]byte{135, 0, 0, 0, 0, 0, 0, 0})), 0, tcxDrop, "drop truncated"},
		{"solicitation of another", FromPod, frame(nd(n.sib6, group, 135, 0, n.gw6, sll...)), 0, tcxDrop, "drop spoofed-address"},
		{"duplicate address detection", FromPod, frame(nd(addr("::"), group, 135, 0, n.pod6)), 0, tcxDrop, "drop link-local"},
		{"advertisement", FromPod, ethernet(noMAC, n.podMAC, ethIPv6, nd(n.pod6, n.gw6, 136, 0, n.pod6)), 0, tcxNext, ""},
	})
}

func TestSolicitationWithUnknownOptionIsDropped(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	for _, opt := range [][]byte{
		cat([]byte{14, 1}, make([]byte, 6)),                 // a nonce (RFC 3971) instead of the address
		cat([]byte{1, 2}, make([]byte, 14)),                 // longer
		cat([]byte{1, 1}, make([]byte, 6), make([]byte, 8)), // followed by another
		cat([]byte{1, 1}, make([]byte, 3)),                  // cut
	} {
		p := nd(n.pod6, addr("ff02::1:ff00:1"), 135, 0, n.gw6, opt...)
		verdict, _ := n.run(t, FromPod, ethernet(broadcast, n.podMAC, ethIPv6, p), 0)
		if verdict != tcxDrop {
			t.Errorf("option % x: verdict %d, want drop", opt, int32(verdict))
		}
	}
	if got := n.counts(t)["drop bad-neighbour"]; got != 4 {
		t.Errorf("counted %d, want 4", got)
	}
}
