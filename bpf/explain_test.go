package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const protoICMP4 Protocol = 1

// guess is random rows, and packets that meet them.
type guess struct {
	*lane
	*rand.Rand
	records *Records
	port    int // of the sender, another one for each flow
	// Senders and receivers.
	itself, empty, quiet, ranged, outsider, there, gateway netip.AddrPort
}

func newGuess(t *testing.T, v6, far bool, seed uint64) *guess {
	t.Helper()
	p := laneOf(t, newUncheckedNode(t, 1, Options{RecordRate: 1 << 20, MaxAllowedNew: 1024}), v6, far)
	r, err := p.Records()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	at := func(port int) netip.AddrPort { return netip.AddrPortFrom(p.vip.Addr(), uint16(port)) }
	g := &guess{lane: p, Rand: rand.New(rand.NewPCG(seed, 1)), records: r, itself: at(81), empty: at(82), quiet: at(83), ranged: at(84)}
	other, gw, outsider := p.other.pod4, p.gw4, addr("198.51.100.7")
	if v6 {
		other, gw, outsider = p.other.pod6, p.gw6, addr("2001:db8:9::7")
	}
	g.there, g.gateway = netip.AddrPortFrom(other, 443), netip.AddrPortFrom(gw, 53)
	g.outsider = netip.AddrPortFrom(outsider, 7000)
	p.serve(t, 81, g.itself, p.client.Addr())
	p.serve(t, 82, g.empty)
	p.serve(t, 83, g.quiet)
	must(t, p.Services().Sets.Set(83, Set{Flags: SetDrop}))
	p.serve(t, 84, g.ranged, p.backend.Addr())
	for _, proto := range ported {
		must(t, p.Services().Frontends.Set(Place{g.ranged.Addr(), g.ranged.Port(), proto}, Frontend{Inside: 84, Outside: 84, Ranges: 9}))
	}
	return g
}

// rule is one of few that packets may meet.
func (g *guess) rule() Rule {
	ports := []uint16{0, 53, 80, 443, servePort, 65535}
	r := Rule{
		First: ports[g.IntN(len(ports))], Last: ports[g.IntN(len(ports))], Index: uint16(g.IntN(1000)),
		Protocol: []Protocol{0, TCP, UDP, SCTP, protoICMP4, protoICMPv6}[g.IntN(6)], Verdict: Allow,
	}
	if r.First > r.Last {
		r.First, r.Last = r.Last, r.First
	}
	if g.IntN(2) == 0 {
		r.Verdict = Deny
	}
	return r
}

// deal writes other rows; sets are made of what they are, so each round has its own.
func (g *guess) deal(t *testing.T, round int) {
	t.Helper()
	addrs := []netip.Addr{g.client.Addr(), g.backend.Addr(), g.gateway.Addr(), g.there.Addr(), g.outsider.Addr(), g.vip.Addr()}
	for _, a := range addrs {
		must(t, g.Classes().Set(netip.PrefixFrom(a, g.IntN(a.BitLen())+1).Masked(), Class(g.IntN(4))))
	}
	sets := []RuleSet{0, 0, RuleSetClosed}
	for i := range 3 {
		set := RuleSet(round*10 + 1000 + i)
		sets = append(sets, set, set)
		for class := range Class(4) {
			if g.IntN(4) == 0 {
				continue
			}
			rules := make([]Rule, g.IntN(20))
			for i := range rules {
				rules[i] = g.rule()
			}
			g.rules(t, set, class, rules...)
		}
	}
	pick := func() RuleSet { return sets[g.IntN(len(sets))] }
	g.isolate(t, g.client.Addr(), pick(), pick())
	if !g.far {
		g.isolate(t, g.backend.Addr(), pick(), pick())
	}
}

// way is a packet's sender and receiver, and the program that it meets.
type way struct {
	name     string
	from, to netip.AddrPort
	send     func(t *testing.T, packet []byte)
}

func (g *guess) ways() []way {
	out := func(t *testing.T, packet []byte) { g.from(t, g.clientMAC, packet, false) }
	in := func(t *testing.T, packet []byte) {
		g.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
	}
	stack := func(device uint32) func(*testing.T, []byte) {
		return func(t *testing.T, packet []byte) { g.deliver(t, device, packet) }
	}
	pod := netip.AddrPortFrom(g.client.Addr(), servePort)
	ways := []way{
		{"pod to pod", g.client, g.backend, out},
		{"pod to Service", g.client, g.vip, out},
		{"pod to itself", g.client, pod, out},
		{"pod to itself by a Service", g.client, g.itself, out},
		{"pod to no port of a Service", g.client, netip.AddrPortFrom(g.vip.Addr(), 99), out},
		{"pod to a Service without backends", g.client, g.empty, out},
		{"pod to a Service without local backends", g.client, g.quiet, out},
		{"pod to a Service for others", g.client, g.ranged, out},
		{"pod to its node", g.client, g.gateway, out},
		{"pod to the outside", g.client, g.outsider, out},
		{"pod to another node", g.client, g.there, out},
		{"outside to Service", g.outsider, g.vip, in},
		{"outside to a Service for others", g.outsider, g.ranged, in},
		{"the stack, from another node", g.there, pod, stack(uplink)},
		{"the stack, from the outside", g.outsider, pod, stack(uplink)},
		{"the node", g.gateway, pod, stack(0)},
	}
	if !g.far {
		ways = append(ways, way{"pod back to pod", g.backend, pod, func(t *testing.T, packet []byte) { g.from(t, g.backendMAC, packet, false) }})
	}
	return ways
}

// happened sends a packet and returns why it was dropped, and by what set and rule.
func (g *guess) happened(t *testing.T, w way, proto Protocol) (reason string, set RuleSet, rule uint16, ingress bool) {
	t.Helper()
	g.port++
	from := netip.AddrPortFrom(w.from.Addr(), uint16(20000+g.port%40000))
	packet := ping(w.from.Addr(), w.to.Addr(), true)
	if proto != protoICMP4 && proto != protoICMPv6 {
		packet = datagram(proto, from, w.to, 64, syn, load)
	}
	g.forgetAllowed(t)
	w.send(t, packet)
	records := recordsNow(t, g.records)
	if len(records) == 0 {
		return "", 0, 0, false
	}
	if len(records) > 1 || g.records.Lost() > 0 {
		t.Fatalf("%s: %d records and %d lost of one packet", w.name, len(records), g.records.Lost())
	}
	r := records[0]
	return r.Reason, r.Set, r.Rule, r.Ingress
}

// What Explain says is what happens to such a packet, with the same set and rule.
func TestExplainSaysWhatHappens(t *testing.T) {
	t.Parallel()
	const rounds = 25
	for i, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v far=%v", v6, far), func(t *testing.T) {
				g := newGuess(t, v6, far, uint64(i))
				seen := map[string]int{}
				for round := range rounds {
					g.deal(t, round)
					for _, w := range g.ways() {
						for _, proto := range []Protocol{TCP, UDP, SCTP, []Protocol{protoICMP4, protoICMPv6}[i]} {
							if w.from == g.outsider && w.to.Addr() == g.vip.Addr() && proto == []Protocol{protoICMP4, protoICMPv6}[i] {
								continue // from_uplink leaves it to the stack, which has no such address
							}
							q := Question{From: w.from.Addr(), To: w.to, Protocol: proto}
							a, err := g.Explain(q)
							must(t, err)
							reason, set, rule, ingress := g.happened(t, w, proto)
							seen[reason]++
							if a.Reason != reason {
								t.Fatalf("round %d, %s %s: got %+v, want reason %q (set %d, rule %d)", round, w.name, proto, a, reason, set, rule)
							}
							end := a.Egress
							if ingress {
								end = a.Ingress
							}
							if set != 0 && (end.Set != set || end.Rule != rule || end.Verdict != Deny) {
								t.Errorf("round %d, %s %s: got %+v, want set %d and rule %d to deny", round, w.name, proto, a, set, rule)
							}
							if reason == "" && (a.Egress.Verdict == Deny || a.Ingress.Verdict == Deny) {
								t.Errorf("round %d, %s %s: it passes; got %+v", round, w.name, proto, a)
							}
						}
					}
				}
				for _, reason := range []string{"", "policy-egress", "policy-ingress", "policy-unknown", "no-backend", "no-port", "no-local-backend", "source-range"} {
					if seen[reason] == 0 {
						t.Errorf("no packet met reason %q: %v", reason, seen)
					}
				}
			})
		}
	}
}

// The whole answer: which end is here, its set, the other's class, the rule that decided,
// and who is exempt.
func TestExplainTellsBothEnds(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		gw := p.gw4
		if v6 {
			gw = p.gw6
		}
		p.class(t, 3, p.client.Addr())
		p.class(t, 4, p.backend.Addr())
		p.rules(t, setOut, 4, denyAll, allowPort(TCP, servePort))
		p.rules(t, setOut+1, 4, allowPort(UDP, 1), allowPort(TCP, servePort))
		p.rules(t, setIn, 0, Rule{Last: 65535, Index: 9, Verdict: Allow})
		far := netip.AddrPortFrom(addr("192.0.2.200"), 1)
		if v6 {
			far = netip.AddrPortFrom(addr("2001:db8::200"), 1)
		}
		node := End{Here: true, Rule: RuleNone, Verdict: Allow, Exempt: ExemptNode}
		self := End{Here: true, Rule: RuleNone, Verdict: Allow, Exempt: ExemptSelf}
		with := func(e End, set RuleSet) End { e.Set = set; return e }
		for _, c := range []struct {
			name            string
			ingress, egress RuleSet // the backend's, the client's
			from            netip.Addr
			to              netip.AddrPort
			want            Answer
		}{
			{"free pods", 0, 0, p.client.Addr(), p.vip, Answer{Service: true, Backend: p.backend,
				Egress:  End{Here: true, Rule: RuleNone, Verdict: Allow},
				Ingress: End{Here: true, Rule: RuleNone, Verdict: Allow}}},
			{"denied there and here", setIn + 5, setOut, p.client.Addr(), p.vip, Answer{Service: true, Backend: p.backend, Reason: "policy-egress",
				Egress:  End{Here: true, Set: setOut, Class: 4, Rule: 77, Verdict: Deny},
				Ingress: End{Here: true, Set: setIn + 5, Class: 3, Rule: RuleNone, Verdict: Deny}}},
			{"allowed by rules", setIn, setOut + 1, p.client.Addr(), p.backend, Answer{
				Egress:  End{Here: true, Set: setOut + 1, Class: 4, Rule: 5, Verdict: Allow},
				Ingress: End{Here: true, Set: setIn, Class: 3, Rule: 9, Verdict: Allow}}},
			{"closed", RuleSetClosed, 0, p.client.Addr(), p.backend, Answer{Reason: "policy-unknown",
				Egress:  End{Here: true, Rule: RuleNone, Verdict: Allow},
				Ingress: End{Here: true, Set: RuleSetClosed, Rule: RuleNone, Verdict: Deny}}},
			{"the node to its pod", setIn + 5, 0, gw, p.backend, Answer{Egress: node, Ingress: with(node, setIn+5)}},
			{"a pod to its node", 0, setOut + 5, p.client.Addr(), netip.AddrPortFrom(gw, 53), Answer{Reason: "policy-egress",
				Egress: End{Here: true, Set: setOut + 5, Rule: RuleNone, Verdict: Deny}, Ingress: node}},
			{"a pod to itself", 0, RuleSetClosed, p.client.Addr(), netip.AddrPortFrom(p.client.Addr(), 1), Answer{
				Egress: with(self, RuleSetClosed), Ingress: self}},
			{"neither is here", setIn, setOut, far.Addr(), far, Answer{}},
		} {
			p.isolate(t, p.client.Addr(), 0, c.egress)
			p.isolate(t, p.backend.Addr(), c.ingress, 0)
			got, err := p.Explain(Question{c.from, c.to, TCP})
			if diff := cmp.Diff(got, c.want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || err != nil {
				t.Errorf("v6=%v, %s: %v, answer (-got +want):\n%s", v6, c.name, err, diff)
			}
		}
		got, err := p.Explain(Question{p.client.Addr(), netip.AddrPortFrom(p.vip.Addr(), 0), []Protocol{protoICMP4, protoICMPv6}[len(p.client.Addr().AsSlice())/16]})
		if err != nil || got.Egress.Exempt != ExemptEcho || !got.Service || got.Backend.IsValid() || got.Reason != "" {
			t.Errorf("v6=%v, echo of a Service: got %+v, %v", v6, got, err)
		}
		if _, err := p.Explain(Question{addr("10.0.0.1"), netip.MustParseAddrPort("[fd00::1]:1"), TCP}); err == nil {
			t.Error("two families: no error")
		}
	}
}

// Asking leaves no trace: no flow, no affinity, no count, no record. It tells each of the
// backends that there are, and of a client that stays with one, that one.
func TestExplainChangesNothing(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, false, Options{MaxAllowedNew: allowedWays})
	at := netip.MustParseAddrPort("10.96.0.77:80")
	backends := []netip.Addr{p.backend.Addr(), p.other.sib4, addr("10.244.2.99")}
	p.serve(t, 77, at, backends...)
	must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), TCP}, Frontend{Inside: 77, Outside: 77, Affinity: 600}))
	p.isolate(t, p.client.Addr(), setIn, setOut)
	p.rules(t, setOut, 0, allowPort(TCP, 1))
	state := func() string {
		all := map[string]contents{}
		for _, name := range []string{weftMapLive, weftMapBrief, weftMapAllowed, weftMapAllowedNew, weftMapAffinity, weftMapClients, weftMapFragments} {
			var err error
			all[name], err = contentsOf(p.maps[name])
			must(t, err)
		}
		return fmt.Sprintf("% x %v", all, p.counts(t))
	}
	before := state()
	told := map[netip.Addr]bool{}
	for range 200 {
		a, err := p.Explain(Question{p.client.Addr(), at, TCP})
		must(t, err)
		told[a.Backend.Addr()] = true
		if a.Reason != "policy-egress" || a.Egress.Verdict != Deny {
			t.Fatalf("got %+v, want egress to be denied", a)
		}
	}
	if len(told) != len(backends) {
		t.Errorf("backends told: %v, want all of %v", told, backends)
	}
	if diff := cmp.Diff(state(), before); diff != "" {
		t.Errorf("Explain has changed (-after +before):\n%s", diff)
	}
	p.isolate(t, p.client.Addr(), 0, 0)
	p.run(t, FromPod, ethernet(noMAC, p.clientMAC, ethIPv4, datagram(TCP, p.client, at, 64, syn, nil)), 0)
	a, err := p.Explain(Question{p.client.Addr(), at, TCP})
	must(t, err)
	for range 50 {
		again, err := p.Explain(Question{p.client.Addr(), at, TCP})
		must(t, err)
		if again.Backend != a.Backend {
			t.Fatalf("a client that stays with %s is told %s", a.Backend, again.Backend)
		}
	}
}

// At some places the node itself is served by a set of its own.
func TestExplainAsTheNodeIsServed(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		s, own := p.Services(), netip.AddrPortFrom(p.other.pod4, 30080)
		if v6 {
			own = netip.AddrPortFrom(p.other.pod6, 30080)
		}
		f := Frontend{Inside: 77, Outside: 77, Host: 78}
		place := Place{p.vip.Addr(), 777, TCP}
		p.serve(t, 77, netip.AddrPortFrom(place.Addr, place.Port), p.backend.Addr())
		must(t, s.Backends.Set(Slot{78, 0}, Backend{own.Addr(), own.Port(), 9}))
		must(t, s.Sets.Set(78, Set{Count: 1}))
		must(t, s.Frontends.Set(place, f))
		gateway := p.gw4
		if v6 {
			gateway = p.gw6
		}
		for from, want := range map[netip.Addr]netip.AddrPort{
			gateway: own, p.client.Addr(): p.backend,
		} {
			got, err := p.Explain(Question{from, netip.AddrPortFrom(place.Addr, place.Port), TCP})
			if err != nil || got.Backend != want {
				t.Errorf("from %s: got %+v, error %v; want the backend %s", from, got, err, want)
			}
		}
	}
}

// Beside kube-proxy, it says what is left to that.
func TestExplainLeavesServicesToNetfilter(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, false, besideNetfilter)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	a, err := p.Explain(Question{p.client.Addr(), p.vip, UDP})
	if err != nil || !a.Netfilter || !a.Service || a.Egress.Verdict != 0 || a.Reason != "" {
		t.Errorf("UDP: got %+v, %v, want it left to netfilter and nothing judged", a, err)
	}
	p.leave(t)
	for _, proto := range ported {
		a, err := p.Explain(Question{p.client.Addr(), p.vip, proto})
		if err != nil || !a.Netfilter || !a.Service || a.Egress.Verdict != 0 || a.Reason != "" {
			t.Errorf("%s for good: got %+v, %v, want it left to netfilter and nothing judged", proto, a, err)
		}
	}
}
