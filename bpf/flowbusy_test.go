package bpf

import (
	"net/netip"
	"testing"
)

// A flow one of whose sets is busy when its SYN-ACK comes lives all the same.
func TestAnswerWhileItsSetIsBusy(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	source, backend := p.tcp(t, p.client, syn)
	_, back := p.tuples(TCP, p.client)
	p.busy(t, back, 1)
	_, out := p.answer(t, datagram(TCP, backend, source, 64, syn|ack, nil))
	p.busy(t, back, 0)
	if out == nil { // it comes again
		p.reply(t, backend, source, syn|ack)
	}
	p.tcp(t, p.client, ack)
	if from, _ := p.reply(t, backend, source, ack); from != p.vip {
		t.Errorf("the next answer comes from %s, want %s", from, p.vip)
	}
	if got := p.where(t, p.client); got != weftMapLive {
		t.Errorf("the flow is %q, want live", got)
	}
}

// A flow one of whose sets is busy when it ends has ended, once what ends it has passed.
func TestEndWhileItsSetIsBusy(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	port := 40000
	for where := range 4 {
		for _, flags := range []byte{rst, fin | ack} {
			for busy := range 2 {
				port++
				client := p.clientAt(port)
				p.establish(t, client)
				there, back := p.tuples(TCP, client)
				if flags != rst {
					p.reply(t, p.backend, client, fin|ack)
				}
				rows := []weftTuple{there, back}
				for i, k := range rows {
					if where&(1<<i) != 0 {
						p.moveOn(t, k)
					}
				}
				p.busy(t, rows[busy], 1)
				_, out := p.send(t, datagram(TCP, client, p.vip, 64, flags, nil))
				p.busy(t, rows[busy], 0)
				if out == nil {
					p.tcp(t, client, flags)
				}
				if got := p.where(t, client); got != "ended" {
					t.Errorf("flags %#x, where=%d, busy=%d: the flow is %q, want ended", flags, where, busy, got)
				}
			}
		}
	}
}

// A backend's SYN-ACK on a tuple that has ended answers a connection to it itself, also if the set
// was busy when it came.
func TestDirectAnswerWhileItsSetIsBusy(t *testing.T) {
	t.Parallel()
	for _, lived := range []bool{false, true} {
		p := newLane(t, false, true)
		if lived {
			p.establish(t, p.client)
			p.tcp(t, p.client, rst)
		} else {
			p.tcp(t, p.client, syn)
			p.reply(t, p.backend, p.client, rst|ack)
		}
		_, back := p.tuples(TCP, p.client)
		p.busy(t, back, 1)
		_, out := p.answer(t, datagram(TCP, p.backend, p.client, 64, syn|ack, nil))
		p.busy(t, back, 0)
		if out == nil { // it comes again
			p.reply(t, p.backend, p.client, syn|ack)
		}
		for range 3 {
			if src, _ := p.reply(t, p.backend, p.client, ack); src != p.backend {
				t.Errorf("lived=%t: the client has it from %s, want %s", lived, src, p.backend)
			}
		}
	}
}

// A backend that speaks first and ends has ended, also if the client's ACK before that was lost.
func TestBackendEndsBeforeTheFlowLives(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.tcp(t, p.client, syn)
	p.reply(t, p.backend, p.client, syn|ack)
	p.reply(t, p.backend, p.client, fin|ack)
	p.tcp(t, p.client, ack)
	if got := p.where(t, p.client); got != weftMapLive {
		t.Errorf("half closed, the flow is %q, want live", got)
	}
	p.tcp(t, p.client, fin|ack)
	p.reply(t, p.backend, p.client, ack)
	if got := p.where(t, p.client); got != "ended" {
		t.Errorf("the flow is %q, want ended", got)
	}
}

// The FIN of a try before, which the backend ended before the flow lived, is not of the next one.
func TestFINOfATryBefore(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.tcp(t, p.client, syn)
	p.reply(t, p.backend, p.client, syn|ack)
	p.reply(t, p.backend, p.client, fin|ack)
	p.tcp(t, p.client, syn)
	p.reply(t, p.backend, p.client, syn|ack)
	p.tcp(t, p.client, ack)
	p.tcp(t, p.client, fin|ack)
	p.reply(t, p.backend, p.client, ack)
	if got := p.where(t, p.client); got != weftMapLive {
		t.Errorf("half closed, the flow is %q, want live", got)
	}
}

// Where the tuple of a new connection is that of another flow's answers, it has it: who sends it
// is not that flow's backend any more.
func TestConnectionOnATupleOfAnswers(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, false)
	other := netip.MustParseAddrPort("10.96.0.3:80")
	must(t, p.Services().Frontends.Set(Place{Addr: other.Addr()}, Frontend{}))
	p.serve(t, 9, other, p.client.Addr())
	a, b := p.clientAt(servePort), p.backend
	p.establish(t, a)
	for _, flags := range []byte{syn, ack} { // from the backend's port to the client's, through a Service
		if _, out := p.from(t, p.backendMAC, datagram(TCP, b, other, 64, flags, nil), false); out != nil && flags == syn {
			source, _ := tupleOf(out)
			p.from(t, p.clientMAC, datagram(TCP, a, source, 64, syn|ack, nil), false)
		}
	}
	if verdict, out := p.from(t, p.backendMAC, datagram(TCP, b, a, 64, syn, nil), false); out == nil {
		t.Errorf("it does not pass: verdict %d, counters %v", int32(verdict), p.counts(t))
	}
}

// What comes late of a connection that has ended does not reach its backend as a part of the next
// one, through another Service, from the same port.
func TestLatePacketsOfAFormerFlow(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		p := newLane(t, false, true)
		second := p.secondService(t)
		p.live(t, moved)
		p.tcp(t, p.client, rst)
		seen, _ := p.ask(t, TCP, p.client, second, syn, nil)
		p.answers(t, TCP, seen, p.client, second, syn|ack, nil)
		p.ask(t, TCP, p.client, second, ack, nil)
		p.answers(t, TCP, seen, p.client, second, ack, nil)
		if src, _ := p.tcp(t, p.client, ack); src == seen {
			t.Errorf("moved=%t: it comes from %s, as what is of the other connection", moved, src)
		}
	}
}

// A living flow is not pushed out, though the note of what it is was lost: who looks at a row and
// who makes it live may write that at once.
func TestLivingFlowTakenForNew(t *testing.T) {
	t.Parallel()
	for use := range uint8(2) {
		p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
		p.establish(t, p.client)
		there, back := p.tuples(TCP, p.client)
		p.changeBrief(t, func(set *weftBriefSet) {
			for i, s := range set.Slot {
				if s.T == there || s.T == back {
					set.Use[i] = use
				}
			}
		})
		for i := range 2 * briefWays {
			p.tcp(t, p.clientAt(50000+i), syn)
		}
		if got := p.where(t, p.client); got != weftMapLive {
			t.Errorf("use %d: the flow is %q, want live", use, got)
		}
	}
}

// Of a flow that has lost its row of replies a SYN makes another.
func TestHalfFlowsBeginAnew(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		p := newLane(t, false, true)
		p.establish(t, p.client)
		there, back := p.tuples(TCP, p.client)
		if moved {
			p.moveOn(t, there)
		}
		p.pushOut(t, back)
		p.establish(t, p.client)
		if src, _ := p.reply(t, p.backend, p.client, ack); src != p.vip {
			t.Errorf("moved=%t: the client has it from %s, want %s", moved, src, p.vip)
		}
	}
}
