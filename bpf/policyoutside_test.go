package bpf

import (
	"fmt"
	"net/netip"
	"testing"
)

// Who is outside and gives a pod's own address as the source is not that pod, which may
// always reach itself through a Service: neither as one that begins a flow nor in the place
// of the pod in one.
func TestOutsideIsNotThePodItself(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, proto := range ported {
			t.Run(fmt.Sprintf("v6=%v %s", v6, proto), func(t *testing.T) {
				p := newLane(t, v6, false)
				host := p.outer4
				if v6 {
					host = p.outer6
				}
				node := netip.AddrPortFrom(host, 30080)
				p.serve(t, 8, node, p.client.Addr())
				enter := func(from netip.AddrPort, flags byte) func() uint32 {
					return func() uint32 {
						packet := datagram(proto, from, node, 64, flags, load)
						verdict, _ := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
						return verdict
					}
				}
				open := p.clientAt(40001)
				p.walkThrough(t, "spoofed-address", []step{
					{"without policies", false, enter(p.client, syn)},
				})
				p.isolate(t, p.client.Addr(), RuleSetClosed, RuleSetClosed)
				p.walkThrough(t, "spoofed-address", []step{
					{"into a closed pod", false, enter(p.client, syn)},
					{"again", false, enter(p.client, ack)},
				})
				p.walkThrough(t, "policy-unknown", []step{
					{"the pod itself", true, func() uint32 {
						verdict, _ := p.send(t, datagram(proto, open, node, 64, syn, load))
						return verdict
					}},
					{"another pod's address", false, enter(p.backend, syn)},
				})
				p.forgetAllowed(t)
				p.walkThrough(t, "policy-unknown", []step{{"in a flow of the pod's own", false, enter(open, ack)}})
				self := netip.AddrPortFrom(p.client.Addr(), servePort)
				routed := func(device uint32, flags byte) func() uint32 { // not through a Service
					return func() uint32 { return p.deliver(t, device, datagram(proto, p.client, self, 64, flags, load)) }
				}
				p.walkThrough(t, "spoofed-address", []step{
					{"by the stack", false, routed(uplink, syn)},
					{"the pod itself, by the stack", true, routed(loopback, syn)},
					{"by the stack, in that flow", false, routed(uplink, ack)},
				})
			})
		}
	}
}
