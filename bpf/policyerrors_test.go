package bpf

import (
	"net/netip"
	"testing"
)

// ICMP errors pass that are about a flow that may, from whoever they come; others are judged
// as what they are.
func TestErrorsAboutAllowedFlows(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		kind := byte(3)
		if p.client.Addr().Is6() {
			kind = 1
		}
		router, stranger, another := p.other.gw4, addr("198.51.100.7"), p.other.pod4
		if p.client.Addr().Is6() {
			router, stranger, another = p.other.gw6, addr("2001:db8:7::7"), p.other.pod6
		}
		if !p.far {
			router = p.backend.Addr()
		}
		for i, proto := range ported {
			open := RuleSet(600 + i)
			p.rules(t, open, 0, allowPort(proto, servePort))
			p.isolate(t, p.client.Addr(), setIn, open)
			about := func(src, dst netip.AddrPort) []byte { return datagram(proto, src, dst, 60, syn, load) }
			in := func(quoted []byte) func() uint32 {
				return func() uint32 {
					verdict, _ := p.answer(t, icmpError(router, p.client.Addr(), 64, kind, 1, 0, quoted))
					return verdict
				}
			}
			p.walkThrough(t, "policy-ingress", []step{
				{"about nothing", false, in(about(p.client, p.backend))},
				{"", true, func() uint32 { return p.there(t, proto, syn) }},
				{"about what the pod sent", true, in(about(p.client, p.backend))},
				{"about another flow", false, in(about(p.clientAt(40009), p.backend))},
				{"about what another sent", false, in(about(p.backend, p.client))},
				{"by the stack", true, func() uint32 {
					return p.deliver(t, uplink, icmpError(router, p.client.Addr(), 64, kind, 1, 0, about(p.client, p.backend)))
				}},
			})
			served := p.clientAt(40010)
			p.walkThrough(t, "policy-ingress", []step{
				{"", true, func() uint32 {
					verdict, _ := p.send(t, datagram(proto, served, p.vip, 64, syn, load))
					return verdict
				}},
				{"about what went through a Service", true, in(about(served, p.backend))},
				{"by the stack, turned", true, func() uint32 {
					return p.deliver(t, uplink, icmpError(router, p.client.Addr(), 64, kind, 1, 0, about(served, p.vip)))
				}},
			})
			p.isolate(t, p.client.Addr(), setIn, setOut)
			p.walkThrough(t, "policy-ingress", []step{{"about what is denied now", false, in(about(p.client, p.backend))}})
			// What the pod says of what it has been sent.
			p.rules(t, open+50, 0, allowPort(proto, p.client.Port()))
			p.isolate(t, p.client.Addr(), open+50, setOut)
			outTo := func(to netip.Addr, quoted []byte) func() uint32 {
				return func() uint32 {
					packet := icmpError(p.client.Addr(), to, 64, kind, 3, 0, quoted)
					verdict, _ := p.run(t, FromPod, ethernet(noMAC, p.clientMAC, ethType(packet), packet), 0)
					return verdict
				}
			}
			out := func(quoted []byte) func() uint32 { return outTo(p.backend.Addr(), quoted) }
			p.forgetAllowed(t)
			p.walkThrough(t, "policy-egress", []step{
				{"about nothing", false, out(about(p.backend, p.client))},
				{"", true, func() uint32 { return p.back(t, proto, syn) }},
				{"about what it was sent", true, out(about(p.backend, p.client))},
				{"to somebody else", false, outTo(stranger, about(p.backend, p.client))},
				{"to another pod", false, outTo(another, about(p.backend, p.client))},
			})
			p.isolate(t, p.client.Addr(), setIn, open)
			p.walkThrough(t, "policy-egress", []step{
				{"", true, func() uint32 {
					verdict, _ := p.send(t, datagram(proto, served, p.vip, 64, syn, load))
					return verdict
				}},
				{"about what a Service sent", true, outTo(p.vip.Addr(), about(p.vip, served))},
			})
		}
		p.rules(t, setOut+1, 0, allowPort(Protocol(1), 0), allowPort(Protocol(58), 0))
		p.isolate(t, p.client.Addr(), setIn, setOut+1)
		p.walkThrough(t, "policy-ingress", []step{
			{"ping", true, func() uint32 { v, _ := p.send(t, ping(p.client.Addr(), p.backend.Addr(), true)); return v }},
			{"an error about it", true, func() uint32 {
				v, _ := p.answer(t, icmpError(router, p.client.Addr(), 64, kind, 1, 0, ping(p.client.Addr(), p.backend.Addr(), true)))
				return v
			}},
		})
	})
}
