package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// sctpInit begins an association, behind the ports: verification tag, checksum, chunk.
var sctpInit = cat(make([]byte, 8), []byte{1, 0, 0, 20}, make([]byte, 16))

// sctpData is anything else of one.
var sctpData = edit(sctpInit, 8, 0)

// ask sends a packet of the client and returns the tuple that it leaves with.
func (p *lane) ask(t testing.TB, proto Protocol, client, to netip.AddrPort, flags byte, payload []byte) (src, dst netip.AddrPort) {
	t.Helper()
	verdict, out := p.send(t, datagram(proto, client, to, 64, flags, payload))
	if out == nil {
		t.Fatalf("%s from %s to %s: verdict %d, counters %v", proto, client, to, int32(verdict), p.counts(t))
	}
	return tupleOf(out)
}

// answers wants what the backend answers to an address to come to the client as from who
// was asked.
func (p *lane) answers(t testing.TB, proto Protocol, seen, client, asked netip.AddrPort, flags byte, payload []byte) {
	t.Helper()
	verdict, out := p.answer(t, datagram(proto, p.backend, seen, 64, flags, payload))
	if out == nil {
		t.Fatalf("%s to %s: verdict %d, counters %v", proto, seen, int32(verdict), p.counts(t))
	}
	if src, dst := tupleOf(out); src != asked || dst != client {
		t.Errorf("%s of the backend to %s came as %s → %s, want %s → %s", proto, seen, src, dst, asked, client)
	}
}

// Whatever a client sent to one backend before, through which Service or none, from one
// port: an answer comes from whom its latest datagram went to, be its flows new or live.
func TestAnswersComeFromWhomWasAskedLast(t *testing.T) {
	families(t, func(t *testing.T, p *lane) {
		second := netip.AddrPortFrom(p.vip.Addr(), 81)
		p.serve(t, 8, second, p.backend.Addr())
		places := []netip.AddrPort{p.backend, p.vip, second}
		port := 20000
		for _, first := range places {
			for _, then := range places {
				for _, last := range places {
					for _, rounds := range []int{1, 3} {
						port++
						client := p.clientAt(port)
						for i, to := range []netip.AddrPort{first, then, last, then, first} {
							for range rounds {
								seen, dst := p.ask(t, UDP, client, to, 0, load)
								if dst != p.backend || seen.Addr() != client.Addr() || to == p.backend && seen != client {
									t.Fatalf("question %d came as %s → %s", i, seen, dst)
								}
								p.answers(t, UDP, seen, client, to, 0, load)
								p.answers(t, UDP, seen, client, to, 0, load)
							}
						}
						if t.Failed() {
							t.Fatalf("port %d: asked %v, %v and %v, %d times each", port, first, then, last, rounds)
						}
					}
				}
			}
		}
	})
}

// A client that goes back to a Service whose place it used for something else meanwhile
// stays with its backend.
func TestFlowOutlivesDirectDatagrams(t *testing.T) {
	p := newLane(t, false, true)
	p.serve(t, 7, p.vip, p.other.sib4, p.other.pod4)
	for port := range 20 {
		client := p.clientAt(20000 + port)
		_, backend := p.ask(t, UDP, client, p.vip, 0, load)
		p.backend = backend
		for range 4 {
			p.answers(t, UDP, client, client, p.vip, 0, load)
			p.ask(t, UDP, client, p.vip, 0, load)
			if got := p.where(t, client); got != "live" {
				t.Errorf("the flow is in %q, want live", got)
			}
			p.ask(t, UDP, client, backend, 0, load)
			p.answers(t, UDP, client, client, backend, 0, load)
			if _, now := p.ask(t, UDP, client, p.vip, 0, load); now != backend {
				t.Fatalf("the backend of %s is %s now, was %s", client, now, backend)
			}
		}
	}
}

// A connection or association that begins with the backend itself has its answers from the
// first on, also where a new flow through a Service has been left with the same tuple.
func TestDirectBeginningOnATakenTuple(t *testing.T) {
	families(t, func(t *testing.T, p *lane) {
		for i, c := range []struct {
			proto         Protocol
			begin, accept byte
			first, other  []byte
		}{
			{TCP, syn, syn | ack, nil, nil},
			{SCTP, 0, 0, sctpInit, sctpData},
		} {
			client := p.clientAt(20000 + i)
			p.ask(t, c.proto, client, p.vip, c.begin, c.first)
			p.answers(t, c.proto, client, client, p.vip, c.accept, c.other)

			// A stray of a former connection changes nothing.
			p.ask(t, c.proto, client, p.backend, ack, c.other)
			p.answers(t, c.proto, client, client, p.vip, c.accept, c.other)

			p.ask(t, c.proto, client, p.backend, c.begin, c.first)
			for range 3 {
				p.answers(t, c.proto, client, client, p.backend, c.accept, c.other)
				p.ask(t, c.proto, client, p.backend, ack, c.other)
			}
			// And the other way round: its own latest beginning counts.
			p.ask(t, c.proto, client, p.vip, c.begin, c.first)
			p.answers(t, c.proto, client, client, p.vip, c.accept, c.other)
		}
	})
}

// What a former flow's backend says by an error about a direct packet is not turned.
func TestErrorsAboutDirectPackets(t *testing.T) {
	families(t, func(t *testing.T, p *lane) {
		for _, proto := range []Protocol{UDP, TCP} {
			p.ask(t, proto, p.client, p.vip, syn, load)
			p.answers(t, proto, p.client, p.client, p.vip, syn|ack, load)
			p.ask(t, proto, p.client, p.backend, syn, load)
			quoted := datagram(proto, p.client, p.backend, 60, syn, load)
			kind := errorKinds(p.client.Addr().Is6())[0]
			sent := icmpError(p.backend.Addr(), p.client.Addr(), 64, byte(kind[0]), byte(kind[1]), kind[2], quoted)
			_, got := p.answer(t, sent)
			want := icmpError(p.backend.Addr(), p.client.Addr(), 63, byte(kind[0]), byte(kind[1]), kind[2], quoted)
			if !slices.Equal(got, want) {
				t.Errorf("%s: the error came as %x, want %x", proto, got, want)
			}
		}
	})
}

// The same for backends in the node's own network, which pods reach by its address and
// those outside by its ports: what they answer leaves by the stack.
func TestHostAnswersComeFromWhomWasAskedLast(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			p := newLane(t, v6, false)
			host, outsider := p.outer4, netip.MustParseAddrPort("203.0.113.7:20000")
			if v6 {
				host, outsider = p.outer6, netip.MustParseAddrPort("[2001:db8:7::7]:20000")
			}
			node := netip.AddrPortFrom(host, 30080)
			p.serve(t, 7, p.vip, host)
			p.serve(t, 8, node, host)
			backend := netip.AddrPortFrom(host, servePort)
			for n, c := range []struct {
				name       string
				client     netip.AddrPort
				via        netip.AddrPort
				mac        mac
				there, out Program
			}{
				{"pod", p.client, p.vip, p.clientMAC, FromPod, ToPod},
				{"pod, node port", p.client, node, p.clientMAC, FromPod, ToPod},
				{"outside", outsider, node, mac{2}, FromUplink, ToUplink},
			} {
				c.client = netip.AddrPortFrom(c.client.Addr(), uint16(20000+n))
				for _, proto := range []Protocol{UDP, TCP} {
					for i, to := range []netip.AddrPort{c.via, backend, c.via, backend, backend, c.via} {
						packet := datagram(proto, c.client, to, 64, syn, load)
						verdict, got := p.run(t, c.there, ethernet(noMAC, c.mac, ethType(packet), packet), 0)
						if src, dst := tupleOf(got[14:]); verdict != tcxNext || src != c.client || dst != backend {
							t.Fatalf("%s, %s, packet %d: verdict %d, %s → %s", c.name, proto, i, int32(verdict), src, dst)
						}
						packet = datagram(proto, backend, c.client, 64, syn|ack, load)
						verdict, got = p.run(t, c.out, ethernet(noMAC, c.mac, ethType(packet), packet), 0)
						if src, dst := tupleOf(got[14:]); verdict != tcxNext || src != to || dst != c.client {
							t.Errorf("%s, %s, answer %d: verdict %d, %s → %s, want it from %s", c.name, proto, i, int32(verdict), src, dst, to)
						}
					}
				}
			}
		})
	}
}
