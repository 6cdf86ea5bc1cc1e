package bpf

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	setIn  RuleSet = 1001
	setOut RuleSet = 1002
)

var ported = []Protocol{TCP, UDP, SCTP}

// What a pod that is isolated in a direction begins, or is begun with, passes by rules
// only, and the answer to it always; the other direction is as free as before.
func TestIsolatedPods(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for _, proto := range ported {
			for _, c := range []struct {
				name            string
				ingress, egress RuleSet
				rule            Rule
				there, back     bool // whether a flow that begins so passes
			}{
				{"egress, no rule", 0, setOut, Rule{}, false, true},
				{"egress, its port", 0, setOut, allowPort(proto, servePort), true, true},
				{"egress, another port", 0, setOut, allowPort(proto, servePort+1), false, true},
				{"ingress, no rule", setIn, 0, Rule{}, true, false},
				{"ingress, its port", setIn, 0, allowPort(proto, 40000), true, true},
				{"ingress, another port", setIn, 0, allowPort(proto, 40001), true, false},
				{"both, no rule", setIn, setOut, Rule{}, false, false},
				{"both, all", setIn, setOut, allowAll, true, true},
				{"both, all denied", setIn, setOut, denyAll, false, false},
			} {
				p.rules(t, setIn, 0, c.rule)
				p.rules(t, setOut, 0, c.rule)
				p.isolate(t, p.client.Addr(), c.ingress, c.egress)
				for _, outwards := range []bool{true, false} {
					p.forgetAllowed(t)
					begin, answer, passes, reason := p.there, p.back, c.there, "policy-egress"
					if !outwards {
						begin, answer, passes, reason = p.back, p.there, c.back, "policy-ingress"
					}
					steps := []step{{"the first", passes, func() uint32 { return begin(t, proto, syn) }}}
					if passes {
						steps = append(steps,
							step{"the answer", true, func() uint32 { return answer(t, proto, syn|ack) }},
							step{"the next", true, func() uint32 { return begin(t, proto, ack) }},
							step{"the next answer", true, func() uint32 { return answer(t, proto, ack) }})
					}
					t.Run(fmt.Sprintf("%s %s outwards=%v", proto, c.name, outwards), func(t *testing.T) {
						p.walkThrough(t, reason, steps)
					})
				}
			}
		}
	})
}

// forgetAllowed removes all rows of allowed flows.
func (d *Datapath) forgetAllowed(t testing.TB) {
	t.Helper()
	_, err := forget(d, weftMapAllowed, func(*weftTuple, *weftAllowed) bool { return true })
	must(t, err)
	d.changeAllowedNew(t, func(set *weftAllowedSet) { *set = weftAllowedSet{} })
}

// A pod whose policies are not known is closed to all but its node.
func TestClosedPods(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		p.class(t, 7, p.backend.Addr())
		p.rules(t, RuleSetClosed, 7, allowAll) // nobody writes such a row; it says nothing
		p.isolate(t, p.client.Addr(), RuleSetClosed, RuleSetClosed)
		node := netip.AddrPortFrom(p.gw4, 9)
		if p.client.Addr().Is6() {
			node = netip.AddrPortFrom(p.gw6, 9)
		}
		for _, proto := range ported {
			p.walkThrough(t, "policy-unknown", []step{
				{"out", false, func() uint32 { return p.there(t, proto, syn) }},
				{"in", false, func() uint32 { return p.back(t, proto, syn) }},
				{"from the stack", false, func() uint32 {
					return p.deliver(t, uplink, datagram(proto, p.backend, p.client, 64, syn, load))
				}},
				{"from the node", true, func() uint32 { return p.deliver(t, 0, datagram(proto, node, p.client, 64, syn, load)) }},
			})
		}
	})
}

// Both pods of a flow are judged by their own sets, wherever the other one is.
func TestBothEndsAreJudged(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		p.class(t, 3, p.client.Addr())
		for i, c := range []struct{ out, in, passes bool }{{true, true, true}, {true, false, false}, {false, true, false}} {
			out, in := RuleSet(2000+i), RuleSet(3000+i)
			if c.out {
				p.rules(t, out, 0, allowPort(TCP, servePort))
			}
			if c.in {
				p.rules(t, in, 3, allowPort(TCP, servePort))
			}
			p.isolate(t, p.client.Addr(), 0, out)
			p.isolate(t, p.backend.Addr(), in, 0)
			if got := p.there(t, TCP, syn) == tcxRedirect; got != c.passes {
				t.Errorf("v6=%v, sender allows %v, receiver allows %v: passed %v", v6, c.out, c.in, got)
			}
		}
	}
}

// Policies know a flow through a Service by its backend and that port, both ways, and the
// backend's policies by the client.
func TestPoliciesSeeBackends(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for i, proto := range ported {
			p.forgetAllowed(t)
			out, in := RuleSet(2000+i), RuleSet(3000+i)
			p.class(t, 3, p.client.Addr())
			p.class(t, 4, p.backend.Addr())
			p.class(t, 5, p.vip.Addr())
			client := p.clientAt(41000 + i)
			there := func(flags byte) func() uint32 {
				return func() uint32 {
					verdict, _ := p.send(t, datagram(proto, client, p.vip, 64, flags, load))
					return verdict
				}
			}
			back := func(flags byte) func() uint32 {
				return func() uint32 {
					verdict, _ := p.answer(t, datagram(proto, p.backend, client, 64, flags, load))
					return verdict
				}
			}
			p.rules(t, out, 5, allowAll) // the Service's address says nothing
			p.isolate(t, p.client.Addr(), 0, out)
			p.walkThrough(t, "policy-egress", []step{{"the Service is allowed", false, there(syn)}})
			p.rules(t, out+100, 4, allowPort(proto, p.vip.Port()))
			p.isolate(t, p.client.Addr(), 0, out+100)
			p.walkThrough(t, "policy-egress", []step{{"the Service's port is allowed", false, there(syn)}})
			p.rules(t, out+200, 4, allowPort(proto, servePort))
			p.isolate(t, p.client.Addr(), in+200, out+200)
			if !p.far {
				p.rules(t, in, 5, allowAll)
				p.isolate(t, p.backend.Addr(), in, 0)
				p.walkThrough(t, "policy-ingress", []step{{"the backend does not allow the client", false, there(syn)}})
				p.rules(t, in+100, 3, allowPort(proto, servePort))
				p.isolate(t, p.backend.Addr(), in+100, in+200)
			}
			p.walkThrough(t, "policy-egress", []step{
				{"the backend is allowed", true, there(syn)}, {"it answers", true, back(syn | ack)},
				{"the client goes on", true, there(ack)}, {"the backend, too", true, back(ack)},
			})
			if _, flags := p.allowedIn(t, proto, client, p.backend); flags&allowedLive == 0 {
				t.Errorf("%s: the client's row has flags %#x", proto, flags)
			}
		}
	})
}

// Who comes from outside is known by its own address at a backend of the node.
func TestOutsideClientsAreKnown(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		node, in, out := p.outer4, netip.MustParseAddrPort("198.51.100.7:5000"), netip.MustParseAddrPort("198.51.100.8:5000")
		if v6 {
			node, in, out = p.outer6, netip.MustParseAddrPort("[2001:db8:7::7]:5000"), netip.MustParseAddrPort("[2001:db8:7::8]:5000")
		}
		at := netip.AddrPortFrom(node, 30080)
		p.serve(t, 8, at, p.backend.Addr())
		p.class(t, 6, in.Addr())
		p.rules(t, setIn, 6, allowPort(TCP, servePort))
		p.isolate(t, p.backend.Addr(), setIn, setOut)
		enter := func(client netip.AddrPort) func() uint32 {
			return func() uint32 {
				packet := datagram(TCP, client, at, 64, syn, nil)
				verdict, _ := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
				return verdict
			}
		}
		p.walkThrough(t, "policy-ingress", []step{
			{"a client that is allowed", true, enter(in)}, {"its answer", true, func() uint32 {
				packet := datagram(TCP, p.backend, in, 64, syn|ack, nil)
				verdict, _ := p.run(t, FromPod, ethernet(noMAC, p.backendMAC, ethType(packet), packet), 0)
				if verdict == tcxDrop && p.counts(t)["drop no-route"] == 1 {
					return tcxNext // judged and translated; there is nobody to route it
				}
				return verdict
			}},
			{"one that is not", false, enter(out)},
		})
	}
}

// After a change of policies an open flow is judged again by its next packet, of either
// end; denied, nothing of it passes, and the other end's packets do not begin it anew.
func TestOpenFlowsAreJudgedAgain(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for i, proto := range ported {
			for _, outwards := range []bool{true, false} {
				p.forgetAllowed(t)
				begin, answer, reason := p.there, p.back, "policy-egress"
				if !outwards {
					begin, answer, reason = p.back, p.there, "policy-ingress"
				}
				set := func(r RuleSet) {
					if outwards {
						p.isolate(t, p.client.Addr(), 0, r)
					} else {
						p.isolate(t, p.client.Addr(), r, 0)
					}
				}
				open, shut := RuleSet(2000+i), RuleSet(3000+i)
				p.rules(t, open, 0, allowAll)
				set(open)
				one := func(f func(testing.TB, Protocol, byte) uint32, flags byte) func() uint32 {
					return func() uint32 { return f(t, proto, flags) }
				}
				p.walkThrough(t, reason, []step{{"begins", true, one(begin, syn)}, {"is answered", true, one(answer, syn|ack)}, {"goes on", true, one(begin, ack)}})
				set(open)
				p.walkThrough(t, reason, []step{{"answered after another change", true, one(answer, ack)}, {"goes on", true, one(begin, ack)}})
				set(shut)
				p.walkThrough(t, reason, []step{
					{"an answer after it was denied", false, one(answer, ack)}, {"its opener", false, one(begin, ack)},
					{"an answer again", false, one(answer, ack)}, {"its opener again", false, one(begin, ack)},
				})
				set(open)
				p.walkThrough(t, reason, []step{{"goes on when allowed again", true, one(begin, ack)}, {"and its answers", true, one(answer, ack)}})
			}
		}
	})
}

// A connection or ping that begins against a flow is no answer to it.
func TestWhatBeginsIsNoAnswer(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		p.rules(t, setOut, 0, allowAll)
		p.isolate(t, p.client.Addr(), setIn, setOut)
		there := func(flags byte) func() uint32 { return func() uint32 { return p.there(t, TCP, flags) } }
		back := func(flags byte) func() uint32 { return func() uint32 { return p.back(t, TCP, flags) } }
		p.walkThrough(t, "policy-ingress", []step{
			{"out", true, there(syn)}, {"a connection to its port", false, back(syn)}, {"the answer", true, back(syn | ack)},
			{"on", true, there(ack)}, {"a connection to its port, later", false, back(syn)}, {"on", true, back(ack)},
		})
		init := func(from, to netip.AddrPort, chunk byte) []byte {
			return header{src: from.Addr(), dst: to.Addr(), proto: byte(SCTP)}.packet(
				cat(be16(int(from.Port())), be16(int(to.Port())), make([]byte, 8), []byte{chunk, 0, 0, 4}))
		}
		answer := func(packet []byte) func() uint32 {
			return func() uint32 { verdict, _ := p.answer(t, packet); return verdict }
		}
		p.walkThrough(t, "policy-ingress", []step{
			{"SCTP out", true, func() uint32 { v, _ := p.send(t, init(p.client, p.backend, 1)); return v }},
			{"its answer", true, answer(init(p.backend, p.client, 2))},
			{"an association to its port", false, answer(init(p.backend, p.client, 1))},
		})
		p.walkThrough(t, "policy-ingress", []step{
			{"ping", true, func() uint32 { v, _ := p.send(t, ping(p.client.Addr(), p.backend.Addr(), true)); return v }},
			{"its reply", true, answer(ping(p.backend.Addr(), p.client.Addr(), false))},
			{"a ping back", false, answer(ping(p.backend.Addr(), p.client.Addr(), true))},
			{"another reply", true, answer(ping(p.backend.Addr(), p.client.Addr(), false))},
		})
		p.rules(t, setIn, 0, allowAll)
		p.isolate(t, p.client.Addr(), setIn, 0)
		p.walkThrough(t, "policy-ingress", []step{{"a connection that is allowed", true, back(syn)}, {"its answer", true, there(syn | ack)}})
	})
}

// ping is an ICMP echo request or reply.
func ping(src, dst netip.Addr, request bool) []byte {
	h := header{src: src, dst: dst, proto: 1}
	kind := byte(0)
	if request {
		kind = 8
	}
	if src.Is6() {
		h.proto, kind = protoICMP6, 129
		if request {
			kind = 128
		}
	}
	body := []byte{kind, 0, 0, 0, 0, 1, 0, 1, 'w', 'e', 'f', 't'}
	if src.Is6() {
		return h.packet(icmp6(src, dst, body))
	}
	return h.packet(edit(body, 2, sum(body)...))
}

// After a silence, what comes the other way is no answer; connections may be silent.
func TestAnswersComeInTime(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		p.rules(t, setOut, 0, allowAll)
		p.isolate(t, p.client.Addr(), setIn, setOut)
		for _, c := range []struct {
			proto    Protocol
			answered bool
			after    time.Duration
			passes   bool
		}{
			{UDP, false, 25 * time.Second, true}, {UDP, false, 40 * time.Second, false},
			{UDP, true, 110 * time.Second, true}, {UDP, true, 130 * time.Second, false},
			{TCP, false, 40 * time.Second, true}, {TCP, true, time.Hour, true}, {SCTP, true, time.Hour, true}, {SCTP, false, 40 * time.Second, false},
			{TCP, true, 120 * time.Minute, true}, {TCP, true, 126 * time.Minute, false}, {SCTP, true, 126 * time.Minute, false},
		} {
			p.forgetAllowed(t)
			p.there(t, c.proto, syn)
			if c.answered {
				p.back(t, c.proto, syn|ack)
				p.there(t, c.proto, ack)
			}
			p.age(t, c.after)
			p.walkThrough(t, "policy-ingress", []step{
				{fmt.Sprintf("%s answered=%v after %s", c.proto, c.answered, c.after), c.passes, func() uint32 { return p.back(t, c.proto, ack) }},
				{"its opener", true, func() uint32 { return p.there(t, c.proto, ack) }},
			})
		}
	})
}

// Pods without policy leave no trace.
func TestFreePodsHaveNoRows(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		for _, proto := range ported {
			p.there(t, proto, syn)
			p.back(t, proto, syn|ack)
			p.send(t, datagram(proto, p.client, p.vip, 64, syn, load))
		}
		row := func(k *weftTuple, _ *weftAllowed) { t.Errorf("there is a row of %+v", k) }
		must(t, scan(p.Datapath, weftMapAllowed, row))
		must(t, p.scanAllowedNew(row))
		if diff := cmp.Diff(p.counts(t), map[string]uint64{}); diff != "" {
			t.Errorf("counters (-got +want):\n%s", diff)
		}
	})
}
