package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shares is a lane whose client may ask its backend, which is in no pod, and nobody may ask
// the client. It has a connection through the Service, and one from the same port to second.
type shares struct {
	*lane
	proto  Protocol
	begin  []byte // behind the ports of what begins a connection, and of what goes on
	goOn   []byte
	second netip.AddrPort
	seen   netip.AddrPort // what the backend sees of it
}

// sharing runs a test with each protocol, both of IP, the second connection being one to the
// backend itself or through another Service, with and without kube-proxy beside Weft.
func sharing(t *testing.T, f func(t *testing.T, s *shares)) {
	for _, v6 := range []bool{false, true} {
		for _, o := range []Options{{}, besideNetfilter} {
			p := awayWith(t, v6, o)
			for _, proto := range ported {
				if o.Config.Netfilter && proto != TCP { // netfilter's
					continue
				}
				for _, direct := range []bool{false, true} {
					name := fmt.Sprintf("v6=%v beside=%v direct=%v %s", v6, o.Config.Netfilter, direct, proto)
					t.Run(name, func(t *testing.T) { f(t, p.shares(t, proto, direct)) })
				}
			}
		}
	}
}

func (p *lane) shares(t *testing.T, proto Protocol, direct bool) *shares {
	t.Helper()
	own := *p
	s := &shares{lane: &own, proto: proto, begin: load, goOn: load, second: p.backend}
	if proto == SCTP {
		s.begin, s.goOn = sctpInit, sctpData
	}
	if !direct {
		s.client = p.clientAt(int(p.client.Port()) + 1)
		s.second = netip.AddrPortFrom(p.vip.Addr(), 81)
		p.serve(t, 8, s.second, p.backend.Addr())
	}
	s.class(t, 3, s.backend.Addr())
	s.rules(t, setOut, 3, allowPort(0, servePort))
	s.isolate(t, s.client.Addr(), setIn, setOut)
	if seen := s.leave(t, s.vip, syn, s.begin); seen != s.client {
		t.Fatalf("the first connection is seen as %s, want %s", seen, s.client)
	}
	s.comes(t, s.client, s.vip, syn|ack)
	s.leave(t, s.vip, ack, s.goOn)
	s.seen = s.leave(t, s.second, syn, s.begin)
	// One socket has sent both datagrams: see direct_flow.
	if one := proto == UDP && direct; (s.seen == s.client) != one || s.seen.Addr() != s.client.Addr() {
		t.Fatalf("the second connection is seen as %s, the first as %s", s.seen, s.client)
	}
	return s
}

// leave sends a packet of the client to the backend by the stack, and returns its source then.
func (s *shares) leave(t *testing.T, to netip.AddrPort, flags byte, payload []byte) netip.AddrPort {
	t.Helper()
	packet := datagram(s.proto, s.client, to, 64, flags, payload)
	verdict, out := s.run(t, FromPod, ethernet(noMAC, s.clientMAC, ethType(packet), packet), 0)
	src, dst := tupleOf(out[14:])
	if verdict != tcxNext || dst != s.backend {
		t.Fatalf("flags %#x to %s: verdict %d, %s → %s, counters %v", flags, to, int32(verdict), src, dst, s.counts(t))
	}
	return src
}

// byStack gives a packet that came in by another device to to_pod.
func (s *shares) byStack(t *testing.T, packet []byte) (uint32, []byte) {
	t.Helper()
	verdict, out := s.runFrom(t, ToPod, uplink, ethernet(mac{2}, mac{4}, ethType(packet), packet))
	return verdict, out[14:]
}

// comes wants what the backend says to an address to come to the client from who was asked.
func (s *shares) comes(t *testing.T, seen, asked netip.AddrPort, flags byte) {
	t.Helper()
	verdict, out := s.byStack(t, datagram(s.proto, s.backend, seen, 64, flags, s.goOn))
	if src, dst := tupleOf(out); verdict != tcxNext || src != asked || dst != s.client {
		t.Errorf("flags %#x to %s: verdict %d, %s → %s, want %s → %s, counters %v",
			flags, seen, int32(verdict), src, dst, asked, s.client, s.counts(t))
	}
}

// says is a packet of the backend to an address of the client.
func (s *shares) says(t *testing.T, to netip.AddrPort, flags byte, payload []byte) func() uint32 {
	return func() uint32 {
		verdict, _ := s.byStack(t, datagram(s.proto, s.backend, to, 64, flags, payload))
		return verdict
	}
}

// Both connections of an isolated pod get their answers, and nothing else comes in, until
// the pod may not ask any more.
func TestAnswersToAnIsolatedPodByTheStack(t *testing.T) {
	t.Parallel()
	sharing(t, func(t *testing.T, s *shares) {
		s.comes(t, s.seen, s.second, syn|ack)
		for range 2 {
			s.leave(t, s.second, ack, s.goOn)
			s.comes(t, s.seen, s.second, ack)
			s.leave(t, s.vip, ack, s.goOn)
			s.comes(t, s.client, s.vip, ack)
		}
		if s.proto == TCP {
			s.leave(t, s.second, fin|ack, nil)
			s.comes(t, s.seen, s.second, fin|ack)
			s.comes(t, s.client, s.vip, ack)
		}
		stranger := netip.AddrPortFrom(s.backend.Addr(), servePort+1)
		s.walkThrough(t, "policy-ingress", []step{
			{"to another port", false, s.says(t, s.clientAt(50001), ack, s.goOn)},
			{"to another port, anew", false, s.says(t, s.clientAt(50001), syn, s.begin)},
			{"from another port", false, func() uint32 {
				verdict, _ := s.byStack(t, datagram(s.proto, stranger, s.seen, 64, ack, s.goOn))
				return verdict
			}},
		})
		s.isolate(t, s.client.Addr(), setIn, setOut+1)
		s.walkThrough(t, "policy-egress", []step{
			{"it may not ask any more", false, s.says(t, s.seen, ack, s.goOn)},
			{"nor by the first", false, s.says(t, s.client, ack, s.goOn)},
		})
	})
}

// Of an answer that is denied people are told how policies saw it.
func TestAnswersByTheStackThatAreDenied(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, direct := range []bool{false, true} {
			s := awayOf(t, newUncheckedNode(t, 1, Options{}), v6).shares(t, TCP, direct)
			r, err := s.Records()
			must(t, err)
			defer r.Close()
			s.isolate(t, s.client.Addr(), setIn, setOut+1)
			s.says(t, s.seen, syn|ack, nil)()
			got := recordsNow(t, r)
			if len(got) != 1 {
				t.Fatalf("%d records of one drop, counters %v", len(got), s.counts(t))
			}
			want := got[0]
			want.Reason, want.Set, want.Rule, want.Ingress = "policy-egress", setOut+1, RuleNone, false
			want.Local, want.Remote, want.Protocol = s.client, s.backend, TCP
			want.Packet.Src, want.Packet.Dst = s.second, s.client
			if diff := cmp.Diff(got[0], want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("record (-got +want):\n%s", diff)
			}
		}
	}
}

// Errors about both connections come as they were sent, from the backend or from a router. Others
// are judged as of who sends them, not of a Service.
func TestErrorsToAnIsolatedPodByTheStack(t *testing.T) {
	t.Parallel()
	sharing(t, func(t *testing.T, s *shares) {
		router, echo := addr("198.51.100.7"), Protocol(1)
		if s.client.Addr().Is6() {
			router, echo = addr("2001:db8:7::7"), Protocol(58)
		}
		kind := errorKinds(s.client.Addr().Is6())[0]
		fails := func(from netip.Addr, seen, to netip.AddrPort) []byte {
			return icmpError(from, s.client.Addr(), 64, byte(kind[0]), byte(kind[1]), kind[2], datagram(s.proto, seen, to, 60, syn, s.begin))
		}
		comes := func(from netip.Addr, seen, asked netip.AddrPort) {
			t.Helper()
			shown := from
			if from == s.backend.Addr() {
				shown = asked.Addr()
			}
			verdict, got := s.byStack(t, fails(from, seen, s.backend))
			if want := fails(shown, s.client, asked); verdict != tcxNext || !slices.Equal(got, want) {
				t.Errorf("an error of %s about %s: verdict %d, counters %v\n%x, want\n%x", from, seen, int32(verdict), s.counts(t), got, want)
			}
		}
		for _, from := range []netip.Addr{s.backend.Addr(), router} {
			comes(from, s.seen, s.second)
			if s.seen != s.client {
				comes(from, s.client, s.vip)
			}
		}
		about := func(seen netip.AddrPort) func() uint32 {
			return func() uint32 {
				verdict, _ := s.byStack(t, fails(s.backend.Addr(), seen, s.backend))
				return verdict
			}
		}
		s.walkThrough(t, "policy-ingress", []step{{"about what was not sent", false, about(s.clientAt(50001))}})
		s.forgetAllowed(t)
		s.walkThrough(t, "policy-ingress", []step{{"about what is not allowed", false, about(s.seen)}})
		s.rules(t, setIn+1, 3, allowPort(echo, 0))
		s.isolate(t, s.client.Addr(), setIn+1, setOut)
		s.walkThrough(t, "policy-ingress", []step{{"of a backend that may send such", true, about(s.seen)}})
	})
}

// What a backend begins, with the tuple of an answer, is of the backend, and to the port that the
// pod gets it at.
func TestBackendsBeginAtAnIsolatedPodByTheStack(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, direct := range []bool{false, true} {
			s := away(t, v6).shares(t, SCTP, direct)
			s.rules(t, setIn+1, 3, allowPort(SCTP, s.client.Port()))
			s.rules(t, setIn+1, 0, denyAll)
			s.walkThrough(t, "policy-ingress", []step{{"it may not", false, s.says(t, s.seen, 0, sctpInit)}})
			s.isolate(t, s.client.Addr(), setIn+1, setOut)
			s.walkThrough(t, "policy-ingress", []step{
				{"the second", true, s.says(t, s.seen, 0, sctpInit)},
				{"the first", true, s.says(t, s.client, 0, sctpInit)},
			})
		}
	}
}

// An answer in fragments comes as one that is whole; a later one without its first does not.
func TestFragmentsToAnIsolatedPodByTheStack(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		s := away(t, v6).shares(t, UDP, false)
		whole := segment(UDP, s.backend, s.seen, 0, make([]byte, 32))
		fragment := func(id, at int, more bool, payload []byte) func() uint32 {
			h := header{src: s.backend.Addr(), dst: s.seen.Addr(), proto: protoUDP, id: id, frag: at / 8}
			if v6 {
				h.proto, h.frag = 44, 0
				payload = cat([]byte{protoUDP, 0}, be16(at), be32(id), payload)
			}
			if more && v6 {
				payload[3] |= 1
			} else if more {
				h.frag |= 0x2000
			}
			return func() uint32 {
				verdict, out := s.byStack(t, h.packet(payload))
				if verdict == tcxDrop {
					return verdict
				}
				if v6 {
					out = cat(out[:40], out[48:])
				}
				src, dst := tupleOf(out)
				if src.Addr() != s.second.Addr() || dst.Addr() != s.client.Addr() || at == 0 && (src != s.second || dst != s.client) {
					t.Errorf("the fragment at %d is %s → %s, want %s → %s", at, src, dst, s.second, s.client)
				}
				return verdict
			}
		}
		s.walkThrough(t, "service-fragment", []step{
			{"without a first", false, fragment(1, 24, false, whole[24:])},
			{"the first", true, fragment(2, 0, true, whole[:24])},
			{"the second", true, fragment(2, 24, false, whole[24:])},
		})
	}
}
