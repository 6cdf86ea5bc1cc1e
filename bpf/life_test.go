package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The life of a packet: out of a pod, over the wire, into a pod of another node, and
// the answer back; every inner and outer family.
func TestPacketCrossesNodesAndBack(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		a, b := newNode(t, 1), newNode(t, 2)
		a.knows(t, b, outer6)
		b.knows(t, a, outer6)
		for _, c := range []struct {
			name               string
			from, to           *node
			src, dst           netip.Addr
			outerSrc, outerDst netip.Addr
		}{
			{"v4 there", a, b, a.pod4, b.sib4, a.outer4, b.outer4},
			{"v4 back", b, a, b.pod4, a.sib4, b.outer4, a.outer4},
			{"v6 there", a, b, a.pod6, b.sib6, a.outer4, b.outer4},
			{"v6 back", b, a, b.pod6, a.sib6, b.outer4, a.outer4},
		} {
			t.Run(fmt.Sprintf("%s outer6=%v", c.name, outer6), func(t *testing.T) {
				outer := header{src: c.outerSrc, dst: c.outerDst, proto: protoUDP, df: true, tos: 2}
				if outer6 {
					outer.src, outer.dst = c.from.outer6, c.to.outer6
				}
				inner := header{src: c.src, dst: c.dst, proto: protoUDP, ttl: 9, tos: 0xb8 | 2}
				body := udp(1000, 53, []byte("question"))
				sent := ethernet(noMAC, c.from.podMAC, inner.ethType(), inner.packet(body))
				verdict, wire := c.from.run(t, FromPod, sent, 0)
				if verdict != tcxRedirect {
					t.Fatalf("from_pod: verdict %d, counters %v", verdict, c.from.counts(t))
				}

				inner.ttl--
				var port, flow int
				if outer6 {
					port = int(wire[54])<<8 | int(wire[55])
					flow = int(wire[15]&0xf)<<16 | int(wire[16])<<8 | int(wire[17])
				} else {
					port = int(wire[34])<<8 | int(wire[35])
				}
				if port < 0xc000 {
					t.Errorf("outer source port %d, want one of 49152…65535", port)
				}
				outer.flow = flow
				src := innerSource(outer.src)
				frame := ethernet(mac{0x0e, 0x57, 9, 9, 9, 9}, src, inner.ethType(), inner.packet(body))
				want := ethernet(noMAC, c.from.podMAC, outer.ethType(),
					outer.packet(udp(port, 8872, vxlan(8, 87, frame))))
				if diff := cmp.Diff(wire, want); diff != "" {
					t.Fatalf("on the wire (-got +want):\n%s", diff)
				}

				verdict, got := c.to.run(t, FromUplink, wire, 0)
				if verdict != tcxRedirect {
					t.Fatalf("from_uplink: verdict %d, counters %v", verdict, c.to.counts(t))
				}
				inner.ttl--
				want = ethernet(c.to.sibMAC, c.to.sibHost, inner.ethType(), inner.packet(body))
				if diff := cmp.Diff(got, want); diff != "" {
					t.Fatalf("into the pod (-got +want):\n%s", diff)
				}
			})
		}
		for _, n := range []*node{a, b} {
			if diff := cmp.Diff(n.counts(t), map[string]uint64{}); diff != "" {
				t.Errorf("counters (-got +want):\n%s", diff)
			}
		}
	}
}

func TestPacketStaysOnNode(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	for _, h := range []header{
		{src: n.pod4, dst: n.sib4, proto: protoUDP},
		{src: n.pod6, dst: n.sib6, proto: protoUDP},
	} {
		body := udp(1, 2, []byte("hello"))
		verdict, got := n.run(t, FromPod, ethernet(noMAC, n.podMAC, h.ethType(), h.packet(body)), 0)
		h.ttl = 63
		want := ethernet(n.sibMAC, n.sibHost, h.ethType(), h.packet(body))
		if diff := cmp.Diff(got, want); verdict != tcxRedirect || diff != "" {
			t.Errorf("verdict %d, packet (-got +want):\n%s", verdict, diff)
		}
	}
}
