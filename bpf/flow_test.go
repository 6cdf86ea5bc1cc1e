package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// TCP flags.
const (
	fin, syn, rst, ack = 1, 2, 4, 16
)

// segment is a TCP segment or UDP datagram with its checksum; SCTP has none yet.
func segment(proto Protocol, src, dst netip.AddrPort, flags byte, payload []byte) []byte {
	ports := cat(be16(int(src.Port())), be16(int(dst.Port())))
	var b []byte
	at := 6
	switch proto {
	case TCP:
		b, at = cat(ports, be32(1000), be32(2000), []byte{0x50, flags, 0x10, 0, 0, 0, 0, 0}, payload), 16
	case UDP:
		b = cat(ports, be16(8+len(payload)), be16(0), payload)
	default:
		return cat(ports, payload)
	}
	s := sum(src.Addr().AsSlice(), dst.Addr().AsSlice(), be32(len(b)), be32(int(proto)), b)
	if proto == UDP && s[0]|s[1] == 0 {
		s = be16(0xffff)
	}
	return edit(b, at, s...)
}

// datagram is an IP packet around a segment.
func datagram(proto Protocol, src, dst netip.AddrPort, ttl, flags byte, payload []byte) []byte {
	h := header{src: src.Addr(), dst: dst.Addr(), proto: byte(proto), ttl: ttl}
	return h.packet(segment(proto, src, dst, flags, payload))
}

// tupleOf reads addresses and ports of an IP packet.
func tupleOf(p []byte) (src, dst netip.AddrPort) {
	at, n, l4 := 12, 4, 20
	if p[0]>>4 == 6 {
		at, n, l4 = 8, 16, 40
	}
	a, _ := netip.AddrFromSlice(p[at : at+n])
	b, _ := netip.AddrFromSlice(p[at+n : at+2*n])
	port := func(at int) uint16 { return binary.BigEndian.Uint16(p[at:]) }
	return netip.AddrPortFrom(a, port(l4)), netip.AddrPortFrom(b, port(l4+2))
}

// lane is a node with a Service whose backend is a pod of another node, or of its own.
type lane struct {
	*node
	other                 *node
	client, vip, backend  netip.AddrPort
	clientMAC, backendMAC mac
	far                   bool
}

// newLane: the client is the pod, the backend a sibling here or there.
func newLane(t testing.TB, v6, far bool) *lane { return newLaneWith(t, v6, far, Options{}) }

func newLaneWith(t testing.TB, v6, far bool, o Options) *lane {
	t.Helper()
	return laneOf(t, newNodeWith(t, 1, o), v6, far)
}

func laneOf(t testing.TB, n *node, v6, far bool) *lane {
	t.Helper()
	p := &lane{node: n, other: newNode(t, 2), far: far}
	p.knows(t, p.other, false)
	p.clientMAC, p.backendMAC = p.podMAC, p.sibMAC
	client, backend, vip := p.pod4, p.sib4, addr("10.96.0.1")
	if far {
		backend = p.other.sib4
	}
	if v6 {
		client, backend, vip = p.pod6, p.sib6, addr("fd00:96::1")
		if far {
			backend = p.other.sib6
		}
	}
	if !far {
		must(t, p.Endpoints().Set(backend, Endpoint{IfIndex: loopback, MAC: p.sibMAC, HostMAC: p.sibHost}))
	}
	for s, a := range map[Stand]netip.Addr{{}: p.gw4, {IPv6: true}: p.gw6, {Nodes: true}: p.outer4, {Nodes: true, IPv6: true}: p.outer6} {
		must(t, p.Own().Set(s, a))
	}
	p.client = netip.AddrPortFrom(client, 40000)
	p.vip = netip.AddrPortFrom(vip, 80)
	p.backend = netip.AddrPortFrom(backend, servePort)
	must(t, p.Services().Frontends.Set(Place{Addr: vip}, Frontend{}))
	p.serve(t, 7, p.vip, backend)
	return p
}

// send gives a packet of the client to from_pod and returns what leaves, without outer
// headers; nil if nothing is redirected.
func (p *lane) send(t testing.TB, packet []byte) (uint32, []byte) {
	t.Helper()
	return p.from(t, p.clientMAC, packet, p.far)
}

func (p *lane) from(t testing.TB, m mac, packet []byte, encapsulated bool) (uint32, []byte) {
	t.Helper()
	verdict, out := p.run(t, FromPod, ethernet(noMAC, m, ethType(packet), packet), 0)
	if verdict != tcxRedirect {
		return verdict, nil
	}
	if encapsulated {
		return verdict, out[14+50:]
	}
	return verdict, out[14:]
}

// answer gives a packet from the backend's side to the node and returns what the client
// gets.
func (p *lane) answer(t testing.TB, packet []byte) (uint32, []byte) {
	t.Helper()
	if !p.far {
		return p.from(t, p.backendMAC, packet, false)
	}
	frame := ethernet(mac{}, mac{10}, ethType(packet), packet)
	outer := header{src: p.other.outer4, dst: p.outer4, proto: protoUDP}
	verdict, out := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethIPv4, outer.packet(udp(50000, 8872, vxlan(8, 87, frame)))), 0)
	if verdict != tcxRedirect {
		return verdict, nil
	}
	return verdict, out[14:]
}

func ethType(packet []byte) int {
	if packet[0]>>4 == 6 {
		return ethIPv6
	}
	return ethIPv4
}
