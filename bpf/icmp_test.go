package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// icmpError is an ICMP error of either family with its checksums.
func icmpError(src, dst netip.Addr, ttl, kind, code byte, info int, quoted []byte) []byte {
	h := header{src: src, dst: dst, proto: 1, ttl: ttl}
	body := cat([]byte{kind, code, 0, 0}, be32(info), quoted)
	if src.Is4() {
		return h.packet(edit(body, 2, sum(body)...))
	}
	h.proto = protoICMP6
	return h.packet(icmp6(src, dst, body))
}

// errorKinds are type, code and the word behind the checksum.
func errorKinds(v6 bool) [][3]int {
	if v6 {
		return [][3]int{{1, 4, 0}, {2, 0, 1300}, {3, 0, 0}, {4, 1, 40}}
	}
	return [][3]int{{3, 3, 0}, {3, 4, 1300}, {11, 0, 0}, {12, 0, 20 << 24}}
}

// An error about a translated packet, or about a reply, comes to who sent that, and
// quotes what was sent; with every checksum right, however little is quoted.
func TestErrorsAreTurned(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			for _, proto := range []Protocol{TCP, UDP, SCTP} {
				t.Run(fmt.Sprintf("v6=%v far=%v %s", v6, far, proto), func(t *testing.T) {
					p := newLane(t, v6, far)
					payload := []byte("some odd bytes of data")
					if verdict, out := p.send(t, datagram(proto, p.client, p.vip, 64, syn, payload)); out == nil {
						t.Fatalf("verdict %d, counters %v", int32(verdict), p.counts(t))
					}
					for _, k := range errorKinds(v6) {
						kind, code, info := byte(k[0]), byte(k[1]), k[2]
						there := datagram(proto, p.client, p.backend, 60, syn, payload)
						sent := datagram(proto, p.client, p.vip, 60, syn, payload)
						reply := datagram(proto, p.vip, p.client, 60, ack, payload)
						replied := datagram(proto, p.backend, p.client, 60, ack, payload)
						head := len(there) - len(segment(proto, p.client, p.vip, 0, payload))
						router := p.other.gw4
						if v6 {
							router = p.other.gw6
						}
						if !far {
							router = p.backend.Addr()
						}
						for _, n := range []int{head + 8, head + 16, head + 18, len(there)} {
							for _, c := range []struct{ src, seen netip.Addr }{{p.backend.Addr(), p.vip.Addr()}, {router, router}} {
								if c.src == p.backend.Addr() {
									c.seen = p.vip.Addr()
								}
								verdict, got := p.answer(t, icmpError(c.src, p.client.Addr(), 64, kind, code, info, there[:n]))
								want := icmpError(c.seen, p.client.Addr(), 63, kind, code, info, sent[:n])
								if diff := cmp.Diff(got, want); diff != "" {
									t.Errorf("%v from %s, %d bytes quoted: verdict %d, counters %v (-got +want):\n%s", k, c.src, n, int32(verdict), p.counts(t), diff)
								}
							}
							verdict, got := p.send(t, icmpError(p.client.Addr(), p.vip.Addr(), 64, kind, code, info, reply[:n]))
							want := icmpError(p.client.Addr(), p.backend.Addr(), 63, kind, code, info, replied[:n])
							if diff := cmp.Diff(got, want); diff != "" {
								t.Errorf("%v about a reply, %d bytes quoted: verdict %d, counters %v (-got +want):\n%s", k, n, int32(verdict), p.counts(t), diff)
							}
						}
					}
				})
			}
		}
	}
}

// A UDP datagram without a checksum is quoted without one, and a first fragment's quote
// is turned too.
func TestErrorsQuoteWhatWasSent(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.send(t, datagram(UDP, p.client, p.vip, 64, 0, []byte("x")))
	bare := func(dst netip.AddrPort) []byte {
		return header{src: p.client.Addr(), dst: dst.Addr(), proto: protoUDP, frag: 0x2000, id: 9}.packet(udp(40000, int(dst.Port()), make([]byte, 8)))
	}
	_, got := p.answer(t, icmpError(p.backend.Addr(), p.client.Addr(), 64, 3, 3, 0, bare(p.backend)))
	if diff := cmp.Diff(got, icmpError(p.vip.Addr(), p.client.Addr(), 63, 3, 3, 0, bare(p.vip))); diff != "" {
		t.Errorf("v4 (-got +want):\n%s", diff)
	}
	p = newLane(t, true, true)
	p.send(t, datagram(UDP, p.client, p.vip, 64, 0, []byte("x")))
	first := func(dst netip.AddrPort) []byte {
		return header{src: p.client.Addr(), dst: dst.Addr(), proto: 44}.packet(
			cat([]byte{17, 0, 0, 1}, be32(77), segment(UDP, p.client, dst, 0, make([]byte, 16))))
	}
	_, got = p.answer(t, icmpError(p.backend.Addr(), p.client.Addr(), 64, 2, 0, 1280, first(p.backend)))
	if diff := cmp.Diff(got, icmpError(p.vip.Addr(), p.client.Addr(), 63, 2, 0, 1280, first(p.vip))); diff != "" {
		t.Errorf("v6 (-got +want):\n%s", diff)
	}
}

// Errors that are cut short, damaged, or about what is not translated pass as they are,
// or are dropped; none comes out half turned.
func TestErrorsThatAreNotTurned(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		p.send(t, datagram(UDP, p.client, p.vip, 64, 0, []byte("x")))
		kind := byte(3)
		head := 20
		if v6 {
			kind, head = 1, 40
		}
		quote := datagram(UDP, p.client, p.backend, 60, 0, []byte("payload"))
		stranger := datagram(UDP, netip.AddrPortFrom(p.client.Addr(), 41000), p.backend, 60, 0, []byte("payload"))
		made := func(kind byte, quote []byte) []byte {
			return icmpError(p.backend.Addr(), p.client.Addr(), 64, kind, 4, 0, quote)
		}
		cases := map[string][]byte{
			"no error":                 made(128, quote),
			"of another tuple":         made(kind, stranger),
			"quoted version wrong":     made(kind, edit(quote, 0, 0x15)),
			"not to who sent that":     made(kind, datagram(UDP, netip.AddrPortFrom(p.backend.Addr(), 40000), p.backend, 60, 0, nil)),
			"quotes what has no ports": made(kind, icmpError(p.client.Addr(), p.backend.Addr(), 60, kind, 0, 0, nil)),
		}
		if v6 {
			delete(cases, "quoted version wrong") // nobody looks at it
			cases["quotes a later fragment"] = made(kind, header{src: p.client.Addr(), dst: p.backend.Addr(), proto: 44}.packet(cat([]byte{17, 0, 0, 9}, be32(1), quote[40:])))
		} else {
			cases["quotes a later fragment"] = made(kind, header{src: p.client.Addr(), dst: p.backend.Addr(), proto: 17, frag: 9}.packet(quote[20:]))
			cases["quotes options"] = made(kind, header{src: p.client.Addr(), dst: p.backend.Addr(), proto: 17, options: []byte{1, 1, 1, 1}}.packet(quote[20:]))
		}
		for n := range head + 4 {
			cases[fmt.Sprintf("%d bytes quoted", n)] = made(kind, quote[:n])
		}
		before := p.counts(t)
		for name, packet := range cases {
			_, got := p.answer(t, packet)
			want := edit(packet, 7, 63)
			if !v6 {
				h := edit(packet[:20], 8, 63, 1, 0, 0)
				want = edit(packet, 0, edit(h, 10, sum(h)...)...)
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("v6=%v, %s: (-got +want)\n%s", v6, name, diff)
			}
		}
		if diff := cmp.Diff(p.counts(t), before); diff != "" {
			t.Errorf("counters (-got +want):\n%s", diff)
		}
	}
}
