package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// relay is three nodes and what one Service's backends are on each of them. What a node
// sends to another is carried there by hand.
type relay struct {
	a, b, c *node
	outer6  bool
	client  netip.AddrPort
	at      netip.AddrPort // of the Service
}

const relayed SetID = 40

func newRelay(t testing.TB, v6, outer6 bool) *relay {
	t.Helper()
	r := &relay{a: newNode(t, 1), b: newNode(t, 2), c: newNode(t, 3), outer6: outer6}
	r.client, r.at = netip.MustParseAddrPort("203.0.113.9:40000"), netip.MustParseAddrPort("198.51.100.1:80")
	if v6 {
		r.client, r.at = netip.MustParseAddrPort("[2001:db8:9::9]:40000"), netip.MustParseAddrPort("[2001:db8:1::1]:80")
	}
	for _, n := range r.nodes() {
		for s, a := range map[Stand]netip.Addr{
			{}: n.gw4, {IPv6: true}: n.gw6, {Nodes: true}: n.outer4, {Nodes: true, IPv6: true}: n.outer6,
			{Ports: true}: n.outer4, {Ports: true, IPv6: true}: n.outer6,
		} {
			must(t, n.Own().Set(s, a))
		}
		for _, o := range r.nodes() {
			if o == n {
				continue
			}
			n.knows(t, o, outer6)
			to4, to6 := n.outer4, netip.Addr{}
			if outer6 {
				to4, to6 = to6, n.outer6
			}
			must(t, n.Nodes().Set(o.outer4, to4))
			must(t, n.Nodes().Set(o.outer6, to6))
		}
	}
	return r
}

func (r *relay) nodes() []*node { return []*node{r.a, r.b, r.c} }

// pod is a pod of a node, of the Service's family.
func (r *relay) pod(n *node) netip.Addr {
	if r.at.Addr().Is6() {
		return n.pod6
	}
	return n.pod4
}

// knows makes a node know the Service with these backends, and no others.
func (r *relay) knows(t testing.TB, n *node, backends ...netip.Addr) {
	t.Helper()
	alive := n.Services().Alive
	rows, err := alive.Dump()
	must(t, err)
	for k := range rows {
		must(t, alive.Delete(k))
	}
	at := r.at
	if at.Addr() == r.a.outer4 { // a node port
		at = netip.AddrPortFrom(n.outer4, at.Port())
	} else if at.Addr() == r.a.outer6 {
		at = netip.AddrPortFrom(n.outer6, at.Port())
	}
	n.servePassing(t, relayed, at, backends...)
}

// outerOf reads the tunnel's header in a frame; ok: there is one.
func outerOf(frame []byte) (to netip.Addr, vni uint32, inner []byte, ok bool) {
	at, size := 14+16, 4
	if binary.BigEndian.Uint16(frame[12:]) == ethIPv6 {
		at, size = 14+24, 16
	}
	off := at + size
	if len(frame) < off+16+14 || binary.BigEndian.Uint16(frame[off+2:]) != 8872 {
		return to, 0, nil, false
	}
	to, _ = netip.AddrFromSlice(frame[at:off])
	return to, binary.BigEndian.Uint32(frame[off+12:]) >> 8, frame[off+16:], true
}

// carry gives a packet of the client to a node, and what that sends to other nodes to them.
// It returns the nodes that had it, and what became of it at the last one: nil if it did not
// go on from there.
func (r *relay) carry(t testing.TB, n *node, packet []byte) (way string, out []byte) {
	t.Helper()
	frame := ethernet(noMAC, mac{2}, ethType(packet), packet)
	for range 5 {
		way += string(rune('a' + n.outer4.AsSlice()[3] - 1))
		verdict, got := n.run(t, FromUplink, frame, 0)
		if verdict != tcxRedirect {
			return way, nil
		}
		to, vni, inner, ok := outerOf(got)
		if !ok {
			return way, got[14:]
		}
		if vni == 87 {
			return way + ">", inner[14:]
		}
		if vni != 88 {
			t.Fatalf("VNI %d", vni)
		}
		for _, o := range r.nodes() {
			if to == o.outer4 || to == o.outer6 {
				n = o
			}
		}
		frame = cat(noMAC[:], []byte{2, 0, 0, 0, 0, 0}, got[12:])
	}
	t.Fatalf("no end: %s", way)
	return way, nil
}

func (r *relay) text(way string, out []byte) string {
	if out == nil {
		return way + " nothing"
	}
	src, dst := tupleOf(out)
	return fmt.Sprintf("%s %s → %s", way, src, dst)
}

// want sends a segment of the client to a node and wants it to take this way.
func (r *relay) want(t testing.TB, what string, n *node, flags byte, way string, src netip.AddrPort, backend netip.Addr) {
	t.Helper()
	gotWay, out := r.carry(t, n, datagram(TCP, r.client, r.at, 64, flags, nil))
	got, want := r.text(gotWay, out), fmt.Sprintf("%s %s → %s", way, src, netip.AddrPortFrom(backend, servePort))
	if got != want {
		t.Errorf("%s: %s, want %s; counters %v %v %v", what, got, want, r.a.counts(t), r.b.counts(t), r.c.counts(t))
	}
}

// What is passed on comes out of the tunnel as it went in, but for what translation and one
// hop change, whatever the protocol and the families.
func TestPassedOnIsTranslatedOnce(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			r := newRelay(t, v6, outer6)
			for i, at := range []netip.AddrPort{r.at, netip.AddrPortFrom(map[bool]netip.Addr{false: r.a.outer4, true: r.a.outer6}[v6], 30080)} {
				r.at = at
				backend := netip.AddrPortFrom(r.pod(r.b), servePort)
				for _, n := range r.nodes() {
					r.knows(t, n, backend.Addr())
				}
				for _, proto := range []Protocol{TCP, UDP, SCTP} {
					for _, size := range []int{0, 1, 1000} {
						client := netip.AddrPortFrom(r.client.Addr(), uint16(40000+2000*i+size))
						packet := func(src, dst netip.AddrPort, ttl byte) []byte {
							if proto == SCTP {
								h := header{src: src.Addr(), dst: dst.Addr(), proto: byte(SCTP), ttl: ttl}
								return h.packet(sctp(src.Port(), dst.Port(), 16+size, true))
							}
							return datagram(proto, src, dst, ttl, syn, make([]byte, size))
						}
						way, got := r.carry(t, r.a, packet(client, at, 64))
						if diff := cmp.Diff(got, packet(client, backend, 63)); diff != "" || way != "ab" {
							t.Errorf("outer6=%v %s %s %d bytes: way %s, counters %v %v (-got +want):\n%s", outer6, at, proto, size, way, r.a.counts(t), r.b.counts(t), diff)
						}
					}
				}
			}
		}
	}
}

// The frame in the tunnel says what the first node chose; the packet itself is untouched.
func TestPassedOnFrame(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	r.knows(t, r.a, r.b.pod4)
	packet := datagram(TCP, r.client, r.at, 1, syn, nil) // the last hop is the backend's node
	verdict, out := r.a.run(t, FromUplink, ethernet(noMAC, mac{2}, ethIPv4, packet), 0)
	if verdict != tcxRedirect {
		t.Fatalf("verdict %d, counters %v", int32(verdict), r.a.counts(t))
	}
	out = out[14:]
	hint := cat([]byte{2}, be16(servePort), []byte{0, 0, 0xff}, []byte{2, 0xff}, r.b.pod4.AsSlice(), be16(ethIPv4))
	want := header{src: r.a.outer4, dst: r.b.outer4, proto: protoUDP, df: true}.packet(
		udp(0, 8872, vxlan(8, 88, cat(hint, packet))))
	copy(out[20:22], []byte{0, 0}) // the source port is a hash
	if diff := cmp.Diff(out, want); diff != "" {
		t.Errorf("frame (-got +want):\n%s", diff)
	}
}

// Nodes that do not know the same of a Service still serve it: the first one's choice
// counts while it lives at the second; if not, the second chooses, and passes on what is a
// third one's; that one serves it whoever has the backend.
func TestNodesThatKnowDifferently(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		r := newRelay(t, v6, false)
		a, b, c := r.pod(r.a), r.pod(r.b), r.pod(r.c)
		sib := r.b.sib4
		gateway := r.c.gw4
		if v6 {
			sib, gateway = r.b.sib6, r.c.gw6
		}
		port := func() { r.client = netip.AddrPortFrom(r.client.Addr(), r.client.Port()+1) }
		for _, flags := range []byte{syn, ack} {
			r.knows(t, r.a, b)
			r.knows(t, r.b, b)
			r.want(t, "both know", r.a, flags, "ab", r.client, b)

			port()
			r.knows(t, r.b, sib)
			must(t, r.b.Services().Alive.Set(Place{b, servePort, TCP}, 1))
			r.want(t, "the second would choose another, too", r.a, flags, "ab", r.client, b)

			port()
			r.knows(t, r.b, sib)
			r.want(t, "the second has another", r.a, flags, "ab", r.client, sib)

			port()
			r.knows(t, r.b, c)
			r.knows(t, r.c, c)
			r.want(t, "the third has it", r.a, flags, "abc", r.client, c)
			r.want(t, "the third has it, again", r.a, ack, "abc", r.client, c)

			port()
			r.knows(t, r.c, a)
			_, out := r.carry(t, r.a, datagram(TCP, r.client, r.at, 64, flags, nil))
			if out == nil {
				t.Fatalf("lost, counters %v %v %v", r.a.counts(t), r.b.counts(t), r.c.counts(t))
			}
			src, _ := tupleOf(out)
			r.want(t, "the third has it not", r.a, flags, "abc>", netip.AddrPortFrom(gateway, src.Port()), a)

			port()
			r.knows(t, r.a, a)
			r.want(t, "the first has it itself", r.a, flags, "a", r.client, a)
			port()
		}
	}
}

// A flow stays where it is while its backend lives, whatever its nodes would choose now, and
// also if it comes in by another node; when the backend is gone at the first node, that
// chooses anew, and who has it then may know the flow.
func TestPassedFlowStays(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	b, c := r.b.pod4, r.c.pod4
	for _, n := range r.nodes() {
		r.knows(t, n, b)
	}
	r.want(t, "begin", r.a, syn, "ab", r.client, b)
	r.want(t, "go on", r.a, ack, "ab", r.client, b)
	for _, n := range r.nodes() {
		r.knows(t, n, c)
		must(t, n.Services().Alive.Set(Place{b, servePort, TCP}, 1))
	}
	r.want(t, "another would be chosen", r.a, ack, "ab", r.client, b)
	other := r.client
	r.client = netip.AddrPortFrom(r.client.Addr(), 41000)
	r.want(t, "a new flow", r.a, syn, "ac", r.client, c)
	r.client = other

	r.knows(t, r.c, b)
	r.want(t, "by another node", r.c, ack, "cb", r.client, b)
	r.want(t, "by the backend's node", r.b, ack, "b", r.client, b)

	// Its end, and the same tuple once more.
	r.want(t, "end", r.a, fin|ack, "ab", r.client, b)
	r.knows(t, r.c, c)
	r.want(t, "after its end", r.a, syn, "ac", r.client, c)
	r.knows(t, r.a, b)
	r.want(t, "gone at the first node only", r.a, ack, "ab", r.client, b)
}

// A flow that a node translates itself goes on so when the Service's traffic is to be passed
// on from now on, and one that is passed on when it no longer is.
func TestChangeOfForwardingMovesNoFlow(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	b := r.b.pod4
	r.knows(t, r.b, b)
	r.a.serve(t, relayed, r.at, b)
	_, out := r.carry(t, r.a, datagram(TCP, r.client, r.at, 64, syn, nil))
	source, _ := tupleOf(out)
	if source.Addr() != r.a.gw4 {
		t.Fatalf("the backend sees %s, want %s", source, r.a.gw4)
	}
	r.knows(t, r.a, b)
	r.want(t, "was translated by the first node", r.a, ack, "a>", source, b)
	r.client = netip.AddrPortFrom(r.client.Addr(), 41000)
	r.want(t, "passed on", r.a, syn, "ab", r.client, b)
	r.a.serve(t, relayed, r.at, b)
	r.want(t, "was passed on", r.a, ack, "ab", r.client, b)
}

// A client with affinity stays with the backend that the first node remembers, and the
// second remembers it, too.
func TestAffinityOfPassedFlows(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	b, sib := r.b.pod4, r.b.sib4
	serve := func(n *node, backends ...netip.Addr) {
		t.Helper()
		r.knows(t, n, backends...)
		must(t, n.Services().Frontends.Set(Place{r.at.Addr(), r.at.Port(), TCP}, // knows has no affinity
			Frontend{Inside: relayed, Outside: relayed, Affinity: 3600, Flags: FrontendPass}))
	}
	most := append(slices.Repeat([]netip.Addr{sib}, 99), b) // who does not stay gets sib
	serve(r.a, b)
	serve(r.b, most...)
	r.want(t, "first", r.a, syn, "ab", r.client, b)
	serve(r.a, most...)
	r.client = netip.AddrPortFrom(r.client.Addr(), 41000)
	r.want(t, "second, by the first node", r.a, syn, "ab", r.client, b)
	r.client = netip.AddrPortFrom(r.client.Addr(), 42000)
	r.want(t, "third, by the second node", r.b, syn, "b", r.client, b)
}

// An ICMP error about an answer reaches the pod that sent it, whatever node it comes to, and
// whether that node knows the flow or not.
func TestErrorAboutPassedFlow(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		r := newRelay(t, v6, false)
		backend := netip.AddrPortFrom(r.pod(r.b), servePort)
		for _, n := range r.nodes() {
			r.knows(t, n, backend.Addr())
		}
		r.want(t, "begin", r.a, syn, "ab", r.client, backend.Addr())
		for _, k := range errorKinds(v6) {
			kind, code, info := byte(k[0]), byte(k[1]), k[2]
			sent := datagram(TCP, r.at, r.client, 60, ack, nil)
			answer := datagram(TCP, backend, r.client, 60, ack, nil)
			for n, want := range map[*node]string{r.a: "ab", r.c: "cb", r.b: "b"} {
				for _, src := range []netip.Addr{r.client.Addr(), map[bool]netip.Addr{false: addr("203.0.113.1"), true: addr("2001:db8:9::1")}[v6]} {
					way, got := r.carry(t, n, icmpError(src, r.at.Addr(), 64, kind, code, info, sent))
					if diff := cmp.Diff(got, icmpError(src, backend.Addr(), 63, kind, code, info, answer)); diff != "" || way != want {
						t.Errorf("v6=%v %v from %s: way %s, want %s, counters %v %v (-got +want):\n%s", v6, k, src, way, want, n.counts(t), r.b.counts(t), diff)
					}
				}
			}
		}
	}
}
