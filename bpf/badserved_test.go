package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Packets to a Service whose ports cannot be read go nowhere, and are counted.
func TestMalformedPacketsToService(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		to := func(proto byte, options, body []byte) []byte {
			h := header{src: p.client.Addr(), dst: p.vip.Addr(), proto: proto, options: options}
			return ethernet(noMAC, p.clientMAC, h.ethType(), h.packet(body))
		}
		var cases []bad
		add := func(count string, verdict uint32, packet []byte, format string, args ...any) {
			name := fmt.Sprintf("v6=%v ", v6) + fmt.Sprintf(format, args...)
			cases = append(cases, bad{name, FromPod, packet, 0, verdict, count})
		}
		seg := segment(TCP, p.client, p.vip, syn, nil)
		for n := range 20 {
			add("drop truncated", tcxDrop, to(6, nil, seg[:n]), "TCP cut to %d", n)
		}
		for n := range 8 {
			add("drop truncated", tcxDrop, to(17, nil, seg[:n]), "UDP cut to %d", n)
			add("drop truncated", tcxDrop, to(132, nil, seg[:n]), "SCTP cut to %d", n)
		}
		add("drop service-protocol", tcxDrop, to(47, nil, seg), "GRE")
		kind, proto := byte(3), byte(1)
		if v6 {
			kind, proto = 1, protoICMP6
		}
		for _, n := range []int{0, 1, 7, 8, 20, 27} {
			add("drop service-protocol", tcxDrop, to(proto, nil, cat([]byte{kind}, make([]byte, 40))[:n]), "ICMP error cut to %d", n)
		}
		reply := datagram(UDP, p.vip, netip.AddrPortFrom(p.client.Addr(), 999), 9, 0, nil)
		add("drop service-protocol", tcxDrop, to(proto, nil, cat([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, reply)), "ICMP error about nothing known")
		body := segment(UDP, p.client, p.vip, 0, make([]byte, 16))
		fragment := func(offset int, more bool, body []byte) []byte {
			word := offset / 8
			if v6 {
				word = offset
			}
			if more && v6 {
				word |= 1
			} else if more {
				word |= 0x2000
			}
			if v6 {
				return to(44, nil, cat([]byte{17, 0}, be16(word), be32(5), body))
			}
			h := header{src: p.client.Addr(), dst: p.vip.Addr(), proto: 17, frag: word, id: 5}
			return ethernet(noMAC, p.clientMAC, ethIPv4, h.packet(body))
		}
		add("drop service-fragment", tcxDrop, fragment(16, false, body[16:]), "the last fragment first")
		add("", tcxRedirect, fragment(0, true, body[:16]), "the first fragment after it")
		add("", tcxRedirect, fragment(16, false, body[16:]), "the last fragment once more")
		add("drop truncated", tcxDrop, fragment(0, true, body[:4]), "a first fragment without its ports")
		if v6 {
			add("drop truncated", tcxDrop, to(44, nil, []byte{17, 0, 0}), "cut in the fragment header")
			add("drop service-protocol", tcxDrop, to(0, nil, cat([]byte{17, 0, 5, 2, 0, 0, 1, 0}, body)), "hop-by-hop options")
		} else {
			add("drop service-protocol", tcxDrop, to(17, []byte{0x94, 4, 0, 0}, body), "IP options")
		}
		check(t, p.node, cases)
	}
}

// FuzzServed gives any bytes to the programs of a node with Services and flows. Whatever
// they are: a verdict is one of three, what a pod sends goes on only from its own MAC, and
// what is dropped is counted.
func FuzzServed(f *testing.F) {
	var lanes []*lane
	for _, v6 := range []bool{false, true} {
		p := newLane(f, v6, true)
		p.establish(f, p.client)
		lanes = append(lanes, p)
		there, reply := datagram(TCP, p.client, p.backend, 60, syn, nil), datagram(TCP, p.vip, p.client, 60, ack, nil)
		kind := byte(3)
		if v6 {
			kind = 1
		}
		for _, packet := range [][]byte{
			datagram(TCP, p.client, p.vip, 64, syn, nil),
			datagram(UDP, p.client, p.vip, 64, 0, []byte("x")),
			icmpError(p.client.Addr(), p.vip.Addr(), 64, kind, 4, 0, reply),
			icmpError(p.client.Addr(), p.vip.Addr(), 64, kind, 4, 0, reply[:len(reply)-3]),
		} {
			f.Add(ethernet(noMAC, p.clientMAC, ethType(packet), packet))
		}
		for _, packet := range [][]byte{
			datagram(TCP, p.backend, p.client, 64, ack, nil),
			icmpError(p.backend.Addr(), p.client.Addr(), 64, kind, 4, 0, there),
		} {
			outer := header{src: p.other.outer4, dst: p.outer4, proto: protoUDP}
			frame := ethernet(mac{}, mac{10}, ethType(packet), packet)
			f.Add(ethernet(noMAC, mac{2}, ethIPv4, outer.packet(udp(50000, 8872, vxlan(8, 87, frame)))))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, p := range lanes {
			for _, program := range []Program{FromPod, FromUplink, ToPod, ToUplink} {
				before := dropped(t, p)
				o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
				verdict, err := p.programs[program].Run(&o)
				if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.E2BIG) {
					return // the kernel takes no such test packet
				}
				must(t, err)
				switch {
				case verdict == tcxNext:
				case verdict == tcxDrop:
					if dropped(t, p) == before {
						t.Errorf("%s dropped a packet and counted nothing: % x", program, in)
					}
				case verdict != tcxRedirect:
					t.Errorf("%s: verdict %d", program, int32(verdict))
				case program == FromPod && mac(in[6:12]) != p.clientMAC:
					t.Errorf("%s redirected the packet of a foreign MAC: % x", program, in)
				case program == ToPod || program == ToUplink:
					t.Errorf("%s redirected: % x", program, in)
				}
			}
		}
	})
}

// dropped is how many packets were dropped or rejected.
func dropped(t testing.TB, p *lane) (n uint64) {
	t.Helper()
	cs, err := p.Counters()
	must(t, err)
	for _, c := range cs {
		if c.Kind != "stack" {
			n += c.Count
		}
	}
	return n
}
