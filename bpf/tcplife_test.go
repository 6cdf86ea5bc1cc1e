package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// where says in which map a client's flow is, both of its rows; "ended" if it is in live
// and has.
func (p *lane) where(t testing.TB, client netip.AddrPort) string {
	t.Helper()
	out := ""
	for _, name := range []string{weftMapBrief, weftMapLive} {
		n, closed := 0, 0
		for k, f := range p.flows(t, name) {
			there := addrFrom(k.Src) == client.Addr() && k.Sport == client.Port()
			back := addrFrom(f.Dst) == client.Addr() && f.Dport == client.Port()
			if there || back {
				n++
				closed += int(f.Flags & flowClosed / flowClosed)
			}
		}
		if n == 2 && closed == 2 && name == weftMapLive {
			out += "ended"
		} else if n == 2 {
			out += name
		} else if n != 0 {
			out += fmt.Sprintf("%d rows in %s", n, name)
		}
	}
	return out
}

// A TCP flow is brief until both ends know of each other, and live until both have ended
// it.
func TestTCPLife(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v far=%v", v6, far), func(t *testing.T) {
				p := newLane(t, v6, far)
				type step struct {
					back  bool
					flags byte
					want  string
				}
				port := 20000
				for name, steps := range map[string][]step{
					"client closes":     {{false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}, {true, ack, "live"}, {false, fin | ack, "live"}, {true, ack, "live"}, {true, fin | ack, "ended"}, {false, ack, "ended"}},
					"backend closes":    {{false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}, {true, fin | ack, "live"}, {false, ack, "live"}, {false, fin | ack, "ended"}, {true, ack, "ended"}},
					"client resets":     {{false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}, {false, rst, "ended"}, {true, ack, "ended"}},
					"backend resets":    {{false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}, {true, rst, "ended"}},
					"refused":           {{false, syn, "brief"}, {true, rst | ack, "brief"}},
					"asked again":       {{false, syn, "brief"}, {false, syn, "brief"}, {true, syn | ack, "brief"}, {true, syn | ack, "brief"}, {false, syn, "brief"}, {false, ack, "live"}},
					"refused, then not": {{false, syn, "brief"}, {true, rst | ack, "brief"}, {false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}},
					"begins anew":       {{false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}, {false, rst, "ended"}, {false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}},
				} {
					port++
					client := p.clientAt(port)
					for i, s := range steps {
						if s.back {
							if src, dst := p.reply(t, p.backend, client, s.flags); src != p.vip || dst != client {
								t.Errorf("%s, step %d: client gets %s → %s", name, i, src, dst)
							}
						} else if src, dst := p.tcp(t, client, s.flags); src != client || dst != p.backend {
							t.Errorf("%s, step %d: backend gets %s → %s", name, i, src, dst)
						}
						if got := p.where(t, client); got != s.want {
							t.Fatalf("%s, step %d: flow in %q, want %q", name, i, got, s.want)
						}
					}
				}
			})
		}
	}
}

// A closed flow's tuple begins anew: with a backend of the day. What a direct connection
// to the former backend answers, from the same port, is not translated.
func TestClosedTupleBeginsAnew(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.establish(t, p.client)
	p.tcp(t, p.client, rst)
	next := netip.AddrPortFrom(p.other.pod4, servePort)
	p.serve(t, 7, p.vip, next.Addr())

	// The client talks to the former backend itself: from_pod sees no Service in that.
	if src, dst := p.reply(t, p.backend, p.client, syn|ack); src != p.backend || dst != p.client {
		t.Errorf("the direct answer became %s → %s", src, dst)
	}
	if _, dst := p.tcp(t, p.client, syn); dst != next {
		t.Errorf("a new connection went to %s, want %s", dst, next)
	}
	if src, _ := p.reply(t, next, p.client, syn|ack); src != p.vip {
		t.Errorf("its answer came from %s, want %s", src, p.vip)
	}
	p.tcp(t, p.client, ack)
	if _, dst := p.tcp(t, p.client, ack); dst != next {
		t.Errorf("it went on to %s, want %s", dst, next)
	}
}

// A connection that goes to the backend itself, on the tuple of a flow that has ended or
// was refused, is not translated from its first answer on.
func TestDirectConnectionOnAnEndedTuple(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			p := newLane(t, v6, far)
			refused := p.clientAt(20000)
			src, dst := p.tcp(t, refused, syn)
			p.reply(t, dst, src, rst|ack)
			p.establish(t, p.client)
			p.tcp(t, p.client, rst)
			for _, client := range []netip.AddrPort{p.client, refused} {
				for i, flags := range []byte{syn | ack, ack, ack, fin | ack, ack} {
					if src, dst := p.reply(t, p.backend, client, flags); src != p.backend || dst != client {
						t.Errorf("v6=%v far=%v: packet %d of the backend to %s became %s → %s", v6, far, i, client, src, dst)
					}
				}
				if got := p.where(t, client); got != "" {
					t.Errorf("v6=%v far=%v: rows of the former flow are in %q", v6, far, got)
				}
			}
			p.establish(t, p.client) // and it begins anew
		}
	}
}

// Whatever comes in whatever order: what a packet becomes, its answer undoes. Not so what
// cannot be one: a SYN after the end, and anything else before a SYN is answered.
func TestTranslationIsInverted(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			p := newLane(t, v6, true)
			second, sibling := p.other.pod4, p.other.gw4
			if v6 {
				second, sibling = p.other.pod6, p.other.gw6
			}
			backends := []netip.Addr{p.backend.Addr(), second, sibling}
			p.serve(t, 7, p.vip, backends...)
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 1))
			all := []byte{syn, ack, ack, ack, fin | ack, rst, rst | ack, syn | ack}
			asks := map[netip.AddrPort]bool{}
			for i := range 5000 {
				proto := []Protocol{TCP, UDP}[r.IntN(2)]
				client := p.clientAt(20000 + r.IntN(20))
				flags := all[r.IntN(7)]
				_, out := p.send(t, datagram(proto, client, p.vip, 64, flags, []byte("x")))
				if out == nil {
					t.Fatalf("seed %d, packet %d: none came out, counters %v", seed, i, p.counts(t))
				}
				src, dst := tupleOf(out)
				if src != client {
					t.Fatalf("seed %d, packet %d: the source became %s", seed, i, src)
				}
				if proto == TCP && flags == syn {
					asks[client] = true
				}
				if r.IntN(3) == 0 {
					continue // no answer
				}
				flags = all[1+r.IntN(7)]
				_, out = p.answer(t, datagram(proto, dst, src, 64, flags, []byte("y")))
				if out == nil {
					t.Fatalf("seed %d, answer %d: none came out, counters %v", seed, i, p.counts(t))
				}
				from, to := tupleOf(out)
				direct := proto == TCP && from == dst && to == src && (flags&syn != 0 || asks[client] && flags&rst == 0)
				if proto == TCP && flags&(syn|rst) != 0 {
					delete(asks, client)
				}
				if !direct && (from != p.vip || to != client) {
					t.Fatalf("seed %d, answer %d, flags %#x from %s to %s came out as %s → %s", seed, i, flags, dst, src, from, to)
				}
			}
		})
	}
}

// Towards a backend of another node each port of a client has a port of its own, the same
// one each time; that of a connection that has ended goes to no other client's port, which
// the backend, in TIME_WAIT, would take for the former.
func TestPortsAreNotMixed(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	owner := map[netip.AddrPort]netip.AddrPort{}
	for round := range 2 {
		for port := 32768; port < 32768+28232; port += 97 {
			client := p.clientAt(port)
			src, _ := p.tcp(t, client, syn)
			p.reply(t, p.backend, src, syn|ack)
			p.tcp(t, client, ack)
			p.tcp(t, client, rst)
			if who, taken := owner[src]; taken && who != client {
				t.Fatalf("round %d: %s has %s, which %s had", round, client, src, who)
			}
			if round == 1 && owner[src] != client {
				t.Fatalf("%s has %s now, another than before", client, src)
			}
			owner[src] = client
		}
	}
}
