package bpf

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FuzzPackets gives any bytes to every program. Whatever they are: a verdict is one of
// three; what is not redirected is not changed; what is redirected had the right
// sender, and comes out with the length it must have.
func FuzzPackets(f *testing.F) {
	a, b := newNode(f, 1), newNode(f, 2)
	a.knows(f, b, false)
	b.knows(f, a, false)
	body := udp(1, 2, []byte("payload"))
	for _, h := range []header{
		{src: a.pod4, dst: b.sib4, proto: protoUDP},
		{src: a.pod6, dst: b.sib6, proto: protoUDP},
		{src: a.pod4, dst: a.sib4, proto: protoUDP},
		{src: a.pod6, dst: a.sib6, proto: protoUDP},
		{src: a.gw4, dst: b.sib4, proto: protoUDP},
		{src: a.pod4, dst: b.sib4, proto: protoUDP, options: []byte{0x94, 4, 0, 0}},
	} {
		sent := ethernet(noMAC, a.podMAC, h.ethType(), h.packet(body))
		f.Add(sent)
		frame := ethernet(mac{}, mac{10}, h.ethType(), h.packet(body))
		f.Add(ethernet(noMAC, mac{2}, ethIPv4, header{src: a.outer4, dst: b.outer4, proto: protoUDP}.packet(udp(50000, 8872, vxlan(8, 87, frame)))))
		f.Add(ethernet(noMAC, mac{2}, ethIPv6, header{src: a.outer6, dst: b.outer6, proto: protoUDP}.packet(udp(50000, 8872, vxlan(8, 87, frame)))))
	}
	f.Add(ethernet(broadcast, a.podMAC, ethARP, arp(1, a.podMAC, a.pod4, mac{}, a.gw4)))
	f.Add(ethernet(noMAC, a.podMAC, ethIPv6, nd(a.pod6, a.gw6, 135, 0, a.gw6)))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, c := range []struct {
			node *node
			p    Program
		}{{a, FromPod}, {b, FromUplink}, {a, ToOverlay}, {b, FromOverlay}} {
			o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
			verdict, err := c.node.programs[c.p].Run(&o)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.E2BIG) {
				return // the kernel takes no such test packet
			}
			must(t, err)
			judge(t, c.node, c.p, verdict, in, o.DataOut)
		}
	})
}

func judge(t *testing.T, n *node, p Program, verdict uint32, in, out []byte) {
	switch verdict {
	case tcxNext:
		// to_overlay writes the inner MACs.
		if !bytes.Equal(in[12:], out[12:]) || p != ToOverlay && !bytes.Equal(in, out) {
			t.Errorf("%s changed a packet and left it to the stack:\n% x\n% x", p, in, out)
		}
	case tcxDrop:
	case tcxRedirect:
		less := 0
		switch p {
		case FromPod:
			if !bytes.Equal(in[6:12], n.podMAC[:]) {
				t.Errorf("%s redirected the packet of a foreign MAC: % x", p, in)
			}
			if len(out) == len(in)+50 {
				less = -50
			}
		case FromUplink:
			less = 50
			if !bytes.Equal(out[:6], n.sibMAC[:]) && !bytes.Equal(out[:6], n.podMAC[:]) {
				t.Errorf("%s redirected to no pod's MAC: % x", p, out)
			}
		default:
			t.Errorf("%s redirected a packet without a tunnel key: % x", p, in)
		}
		if len(out) != len(in)-less {
			t.Errorf("%s made %d bytes of %d", p, len(out), len(in))
		}
	default:
		t.Errorf("%s: verdict %d", p, int32(verdict))
	}
}
