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
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		second := netip.AddrPortFrom(p.vip.Addr(), 81)
		p.serve(t, 8, second, p.backend.Addr())
		places := []netip.AddrPort{p.backend, p.vip, second}
		port := clientPorts
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
	t.Parallel()
	p := newLane(t, false, true)
	p.serve(t, 7, p.vip, p.other.sib4, p.other.pod4)
	for port := range 20 {
		client := p.clientAt(clientPorts + port)
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

// What a datagram to the backend itself leaves of a flow, new or live, is one row, as of a new flow:
// it goes when others need its place.
func TestPartedFlowMakesRoom(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for questions := 1; questions <= 2; questions++ {
			p := newLaneWith(t, v6, true, Options{MaxBriefFlows: briefWays})
			for range questions {
				p.ask(t, UDP, p.client, p.vip, 0, load)
				p.answers(t, UDP, p.client, p.client, p.vip, 0, load)
			}
			if got, want := p.where(t, p.client), []string{weftMapBrief, weftMapLive}[questions-1]; got != want {
				t.Errorf("v6 %t, %d questions: the flow is in %q, want %q", v6, questions, got, want)
			}
			p.ask(t, UDP, p.client, p.backend, 0, load)
			there, _ := p.tuples(UDP, p.client)
			rows := p.flows(t, weftMapBrief)
			if row, ok := rows[there]; !ok || row.Flags != 0 || p.where(t, p.client) != "1 rows in brief" {
				t.Errorf("v6 %t, %d questions: left is %+v, in %q", v6, questions, rows, p.where(t, p.client))
			}
			for i := range briefWays {
				p.tcp(t, p.clientAt(41000+i), syn)
			}
			if got := p.where(t, p.client); got != "" {
				t.Errorf("v6 %t, %d questions: after a flood, %s", v6, questions, got)
			}
			if rows := p.flows(t, weftMapLive); len(rows) != 0 {
				t.Errorf("v6 %t, %d questions: live %+v", v6, questions, rows)
			}
		}
	}
}

// A datagram to the backend itself waits while its flow's place in `brief` is busy: its answer would
// come from the Service.
func TestDirectDatagramsWhoseSetIsBusy(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	served := weftTuple{Src: toAddr(p.client.Addr()), Dst: toAddr(p.vip.Addr()), Sport: p.client.Port(), Dport: p.vip.Port(), Proto: uint8(UDP)}
	p.ask(t, UDP, p.client, p.vip, 0, load)
	p.answers(t, UDP, p.client, p.client, p.vip, 0, load)
	p.ask(t, UDP, p.client, p.vip, 0, load)
	before := p.flows(t, weftMapLive)
	p.busy(t, served, 1)
	if verdict, out := p.send(t, datagram(UDP, p.client, p.backend, 64, 0, load)); out != nil {
		src, dst := tupleOf(out)
		t.Errorf("verdict %d, %s → %s passed", int32(verdict), src, dst)
	}
	if after := p.flows(t, weftMapLive); len(before) != 2 || len(after) != 2 {
		t.Errorf("live %v, before %v", after, before)
	}
	p.busy(t, served, 0)
	p.ask(t, UDP, p.client, p.backend, 0, load)
	p.answers(t, UDP, p.client, p.client, p.backend, 0, load)
	if _, now := p.ask(t, UDP, p.client, p.vip, 0, load); now != p.backend {
		t.Errorf("the backend is %s now, was %s", now, p.backend)
	}
}

// clientPorts is where ports of clients begin that programs never choose (src/claim.h: below 30000).
const clientPorts = 41000

// dialogues are what both ends of a connection send, from its beginning to its end.
var dialogues = map[Protocol][]struct {
	back    bool
	flags   byte
	payload []byte
}{
	TCP: {
		{false, syn, nil}, {false, syn, nil}, {true, syn | ack, nil}, {false, ack, nil}, {false, ack, load}, {true, ack, load},
		{true, ack, load}, {false, fin | ack, nil}, {true, fin | ack, nil}, {false, ack, nil},
	},
	SCTP: {{false, 0, sctpInit}, {true, 0, sctpData}, {false, 0, sctpData}, {true, 0, sctpData}, {false, 0, sctpData}},
}

// A connection to the backend itself from the port of one through a Service to it, whatever
// has become of that: neither gets what is the other's, and the backend can tell the two
// apart as long as there are two. It lives as long as it likes, also without the Service.
func TestConnectionsShareNoTuple(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		port := clientPorts
		for proto, dialogue := range dialogues {
			for served := range dialogue {
				port++
				client := p.clientAt(port)
				first := dialogue[:served+1]
				for _, s := range first {
					if s.back {
						p.answers(t, proto, client, client, p.vip, s.flags, s.payload)
					} else if seen, _ := p.ask(t, proto, client, p.vip, s.flags, s.payload); seen != client {
						t.Fatalf("%s through the Service has the source %s, want %s", proto, seen, client)
					}
				}
				p.ask(t, proto, client, p.backend, ack, sctpData) // a stray one changes nothing
				ended := p.where(t, client) == "ended"
				var own netip.AddrPort
				for i, s := range dialogue {
					if s.back {
						p.answers(t, proto, own, client, p.backend, s.flags, s.payload)
					} else {
						seen, dst := p.ask(t, proto, client, p.backend, s.flags, s.payload)
						if dst != p.backend || seen.Addr() != client.Addr() || (seen == client) != ended || i > 0 && seen != own {
							t.Fatalf("%s %d after %d through the Service came as %s → %s, it was %s", proto, i, served, seen, dst, own)
						}
						own = seen
					}
					if i == 2 { // of what is direct, nobody says when it ends
						must(t, p.Services().Alive.Delete(Place{p.backend.Addr(), servePort, proto}))
					}
				}
				must(t, p.Services().Alive.Set(Place{p.backend.Addr(), servePort, proto}, 1))
				if !ended {
					for range 2 {
						p.answers(t, proto, client, client, p.vip, ack|first[len(first)-1].flags&syn, sctpData)
						p.ask(t, proto, client, p.vip, ack, sctpData)
					}
				}
				if t.Failed() {
					t.Fatalf("%s, after %d of the flow", proto, served)
				}
			}
		}
		flows, err := p.BackendFlows()
		must(t, err)
		for at, n := range flows {
			if n > len(dialogues[at.Protocol]) {
				t.Errorf("%d flows to %v, want those through the Service only", n, at)
			}
		}
	})
}

// The other way round: what the backend of a direct connection says to a SYN that came
// through a Service, with the tuple of the connection, goes to that connection.
func TestAnswerOfAConnectionThatWasThereBefore(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for _, says := range []struct {
			flags   byte
			payload []byte
		}{{ack, nil}, {ack, load}, {fin | ack, nil}} {
			p.ask(t, TCP, p.client, p.backend, ack, load)
			p.ask(t, TCP, p.client, p.vip, syn, nil)
			p.answers(t, TCP, p.client, p.client, p.backend, says.flags, says.payload)
			p.ask(t, TCP, p.client, p.vip, syn, nil) // it comes again, until it is answered
			p.answers(t, TCP, p.client, p.client, p.vip, syn|ack, nil)
			p.ask(t, TCP, p.client, p.vip, ack, nil)
			p.answers(t, TCP, p.client, p.client, p.vip, ack, load)
			p.ask(t, TCP, p.client, p.vip, rst, nil)
		}
	})
}

// A flow that lost its row of replies, as others pushed it out, is known to have had an
// answer by what its client sends.
func TestAnswersOfARowThatWasPushedOut(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.ask(t, TCP, p.client, p.vip, syn, nil)
	p.answers(t, TCP, p.client, p.client, p.vip, syn|ack, nil)
	k := weftTuple{Src: toAddr(p.backend.Addr()), Dst: toAddr(p.client.Addr()), Sport: p.backend.Port(), Dport: p.client.Port(), Proto: uint8(TCP)}
	p.pushOut(t, k)
	p.ask(t, TCP, p.client, p.vip, ack, load)
	p.answers(t, TCP, p.client, p.client, p.vip, ack, nil)
}

// What the backend of another flow says by an error about a direct packet comes to who sent
// that, as it was sent.
func TestErrorsAboutDirectPackets(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for _, proto := range []Protocol{UDP, TCP} {
			p.ask(t, proto, p.client, p.vip, syn, load)
			p.answers(t, proto, p.client, p.client, p.vip, syn|ack, load)
			seen, _ := p.ask(t, proto, p.client, p.backend, syn, load)
			was, quoted := datagram(proto, seen, p.backend, 60, syn, load), datagram(proto, p.client, p.backend, 60, syn, load)
			kind := errorKinds(p.client.Addr().Is6())[0]
			sent := icmpError(p.backend.Addr(), p.client.Addr(), 64, byte(kind[0]), byte(kind[1]), kind[2], was)
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
	t.Parallel()
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
						seen, dst := tupleOf(got[14:])
						if verdict != tcxNext || seen.Addr() != c.client.Addr() || dst != backend || seen != c.client && proto == UDP {
							t.Fatalf("%s, %s, packet %d: verdict %d, %s → %s", c.name, proto, i, int32(verdict), seen, dst)
						}
						packet = datagram(proto, backend, seen, 64, syn|ack, load)
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
