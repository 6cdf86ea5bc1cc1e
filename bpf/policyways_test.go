package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// What the kernel's VXLAN device decapsulated is judged as what we do.
func TestOverlayDeviceJudges(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1), newNode(t, 2)
	b.knows(t, a, false)
	b.class(t, 3, a.pod4, a.pod6)
	for i, proto := range ported {
		set := RuleSet(50 + i)
		b.rules(t, set, 3, allowPort(proto, 80))
		for _, to := range [][2]netip.Addr{{a.pod4, b.sib4}, {a.pod6, b.sib6}} {
			b.isolate(t, to[1], set, 0)
			send := func(port uint16) func() uint32 {
				return func() uint32 {
					packet := datagram(proto, netip.AddrPortFrom(to[0], 999), netip.AddrPortFrom(to[1], port), 64, syn, load)
					verdict, err := received(t, b.Datapath, 87, a.outer4, b.outer4).Run(&ebpf.RunOptions{
						Data: ethernet(noMAC, mac{10}, ethType(packet), packet), DataOut: make([]byte, 256),
					})
					must(t, err)
					return verdict
				}
			}
			b.walkThrough(t, "policy-ingress", []step{{"its port", true, send(80)}, {"another", false, send(81)}})
		}
	}
}

// The stack delivers what the pod's policies let pass, and all that the node itself sends,
// whose answers pass. What the node answers opens no way for a pod that may not ask.
func TestStackDelivers(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		node := netip.AddrPortFrom(p.outer4, 7000)
		if p.client.Addr().Is6() {
			node = netip.AddrPortFrom(p.outer6, 7000)
		}
		p.class(t, 3, p.backend.Addr())
		p.rules(t, setIn, 3, allowPort(0, p.client.Port()))
		for _, proto := range ported {
			p.isolate(t, p.client.Addr(), setIn, setOut)
			deliver := func(device uint32, from, to netip.AddrPort, flags byte) func() uint32 {
				return func() uint32 { return p.deliver(t, device, datagram(proto, from, to, 64, flags, load)) }
			}
			leave := func(from netip.AddrPort, flags byte) func() uint32 {
				return func() uint32 {
					verdict, _ := p.send(t, datagram(proto, from, node, 64, flags, load))
					return verdict
				}
			}
			other := p.clientAt(50001)
			p.walkThrough(t, "policy-ingress", []step{
				{"what is allowed", true, deliver(uplink, p.backend, p.client, syn)},
				{"what is not", false, deliver(uplink, p.backend, other, syn)},
				{"what comes in from a node's address", false, deliver(uplink, node, other, syn)},
				{"what the node sends", true, deliver(0, node, other, syn)},
			})
			p.walkThrough(t, "policy-egress", []step{
				{"the answer", true, leave(other, syn|ack)},
				{"to the node", false, leave(p.clientAt(50002), syn)},
			})
			p.isolate(t, p.client.Addr(), setIn, setOut)
			p.walkThrough(t, "policy-egress", []step{{"the answer after a change", true, leave(other, ack)}})
			p.rules(t, setOut+50, 0, allowAll)
			p.isolate(t, p.client.Addr(), setIn, setOut+50)
			asks := p.clientAt(50003)
			p.walkThrough(t, "policy-egress", []step{{"it asks the node", true, leave(asks, syn)}, {"which answers", true, deliver(0, node, asks, syn|ack)}})
			p.isolate(t, p.client.Addr(), setIn, setOut)
			p.walkThrough(t, "policy-egress", []step{
				{"it may not any more", false, leave(asks, ack)},
				{"the node still answers", true, deliver(0, node, asks, ack)},
				{"it may not ask for that", false, leave(asks, ack)},
			})
		}
	})
}

// A pod reaches itself, also through a Service, with the gateway as its other end.
func TestPodsReachThemselves(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, proto := range ported {
			p := newLane(t, v6, false)
			gateway := p.gw4
			if v6 {
				gateway = p.gw6
			}
			p.serve(t, 7, p.vip, p.client.Addr())
			self := netip.AddrPortFrom(p.client.Addr(), servePort)
			p.isolate(t, p.client.Addr(), setIn, setOut)
			var source netip.AddrPort
			p.walkThrough(t, "policy-egress", []step{
				{"it asks", true, func() uint32 {
					verdict, out := p.send(t, datagram(proto, p.client, p.vip, 64, syn, load))
					if out != nil {
						source, _ = tupleOf(out)
					}
					return verdict
				}},
				{"it answers", true, func() uint32 {
					verdict, out := p.send(t, datagram(proto, self, source, 64, syn|ack, load))
					if out == nil {
						return tcxDrop
					}
					if src, dst := tupleOf(out); src != p.vip || dst != p.client {
						t.Errorf("the answer becomes %s → %s", src, dst)
					}
					return verdict
				}},
				{"it goes on", true, func() uint32 {
					verdict, _ := p.send(t, datagram(proto, p.client, p.vip, 64, ack, load))
					return verdict
				}},
				{"others", false, func() uint32 { return p.there(t, proto, syn) }},
			})
			if source.Addr() != gateway {
				t.Errorf("its other end is %s, want one of %s", source, gateway)
			}
			// By the stack (kube-proxy), it comes back through the pod's own device.
			p.walkThrough(t, "policy-egress", []step{{"through the stack", true, func() uint32 {
				return p.deliver(t, loopback, datagram(proto, netip.AddrPortFrom(gateway, 6000), self, 64, syn, load))
			}}, {"its answer", true, func() uint32 {
				verdict, _ := p.send(t, datagram(proto, self, netip.AddrPortFrom(gateway, 6000), 64, syn|ack, load))
				return verdict
			}}})
		}
	}
}

// Neighbours are asked and told on the pod's link, whatever its policies; nothing else is.
func TestNeighboursOfIsolatedPods(t *testing.T) {
	t.Parallel()
	p := newLane(t, true, true)
	p.isolate(t, p.client.Addr(), RuleSetClosed, RuleSetClosed)
	out := func(dst mac, packet []byte) func() uint32 {
		return func() uint32 {
			verdict, _ := p.run(t, FromPod, ethernet(dst, p.clientMAC, ethType(packet), packet), 0)
			return verdict
		}
	}
	group := addr("ff02::2")
	pod, all := p.client.Addr(), mac{0x33, 0x33, 0, 0, 0, 2}
	h := header{src: pod, dst: group, proto: protoICMP6, ttl: 255}
	icmp := func(h header, kind byte) []byte {
		return h.packet(icmp6(h.src, h.dst, cat([]byte{kind, 0, 0, 0}, make([]byte, 20))))
	}
	with := func(change func(*header)) header { h := h; change(&h); return h }
	p.walkThrough(t, "policy-unknown", []step{
		{"a router solicitation", true, out(all, icmp(h, 133))},
		{"an advertisement to the node", true, out(noMAC, icmp(with(func(h *header) { h.dst = p.gw6 }), 136))},
		{"an advertisement to a pod", false, out(noMAC, icmp(with(func(h *header) { h.dst = p.backend.Addr() }), 136))},
		{"one that was forwarded", false, out(all, icmp(with(func(h *header) { h.ttl = 64 }), 133))},
		{"a ping to all", false, out(all, icmp(h, 128))},
		{"a report of groups", true, out(all, header{src: pod, dst: addr("ff02::16"), proto: 0, ttl: 1}.packet(
			cat([]byte{58, 0, 5, 2, 0, 0, 1, 0}, icmp6(pod, addr("ff02::16"), make([]byte, 8)))))},
		{"a datagram behind options", false, out(all, header{src: pod, dst: group, proto: 0, ttl: 1}.packet(
			cat([]byte{17, 0, 5, 2, 0, 0, 1, 0}, udp(1, 2, nil))))},
		{"a datagram to all", false, out(all, header{src: pod, dst: group, proto: protoUDP}.packet(udp(1, 2, nil)))},
		{"a datagram to its node by a broadcast", false, out(broadcast, header{src: pod, dst: p.gw6, proto: protoUDP}.packet(udp(1, 2, nil)))},
		{"the node's solicitation", true, func() uint32 { return p.deliver(t, 0, nd(p.gw6, pod, 135, 0, pod)) }},
	})
	if verdict := out(noMAC, nd(pod, p.gw6, 135, 0, p.gw6, 1, 1, 2, 0, 0, 1, 0, 5))(); verdict != tcxRedirect {
		t.Errorf("a solicitation for the gateway is not answered: verdict %d", int32(verdict))
	}
}

// All fragments of a datagram are judged by its ports; of what has none, by the protocol. A
// later one whose first was not seen does not pass. IPv4 options hide no port.
func TestFragmentsAreJudged(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		p.rules(t, setOut, 0, allowPort(UDP, 80), allowPort(1, 0), allowPort(58, 0))
		p.isolate(t, p.client.Addr(), 0, setOut)
		src, dst := p.client.Addr(), p.backend.Addr()
		fragment := func(proto byte, id, at int, more bool, payload []byte) []byte {
			offset := at
			if more {
				offset |= 1
			}
			if v6 {
				return header{src: src, dst: dst, proto: 44}.packet(cat([]byte{proto, 0}, be16(offset), be32(id), payload))
			}
			flags := at / 8
			if more {
				flags |= 0x2000
			}
			return header{src: src, dst: dst, proto: proto, frag: flags, id: id}.packet(payload)
		}
		send := func(packet []byte) func() uint32 {
			return func() uint32 { verdict, _ := p.send(t, packet); return verdict }
		}
		rest := make([]byte, 16)
		icmp := ping(src, dst, true)
		icmp = icmp[len(icmp)-12:]
		proto := byte(1)
		if v6 {
			proto = 58
		}
		p.walkThrough(t, "policy-egress", []step{
			{"first", true, send(fragment(17, 1, 0, true, udp(1, 80, rest)))}, {"second", true, send(fragment(17, 1, 24, false, rest))},
			{"first, denied", false, send(fragment(17, 2, 0, true, udp(1, 81, rest)))}, {"second, denied", false, send(fragment(17, 2, 24, false, rest))},
			{"first of a ping", true, send(fragment(proto, 3, 0, true, cat(icmp, rest)))}, {"second of it", true, send(fragment(proto, 3, 24, false, rest))},
		})
		p.walkThrough(t, "service-fragment", []step{{"second without a first", false, send(fragment(17, 4, 24, false, rest))}})
		if v6 {
			continue
		}
		options := func(port int) []byte {
			return header{src: src, dst: dst, proto: 17, options: []byte{1, 1, 1, 1}}.packet(udp(1, port, rest))
		}
		p.walkThrough(t, "policy-egress", []step{{"options", true, send(options(80))}, {"options, denied", false, send(options(82))}})
	}
}

// Fragments through a Service are judged by the backend's port, and its answers by its own.
func TestFragmentsThroughServicesAreJudged(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, false)
	p.rules(t, setOut, 0, allowPort(UDP, servePort))
	p.isolate(t, p.client.Addr(), setIn, setOut)
	p.isolate(t, p.backend.Addr(), setOut, setIn)
	rest := make([]byte, 16)
	send := func(from, to netip.AddrPort, m mac, frag int) func() uint32 {
		return func() uint32 {
			payload := rest
			if frag == 0x2000 {
				payload = segment(UDP, from, to, 0, rest)
			}
			verdict, _ := p.from(t, m, header{src: from.Addr(), dst: to.Addr(), proto: protoUDP, frag: frag, id: 7}.packet(payload), false)
			return verdict
		}
	}
	p.walkThrough(t, "policy-ingress", []step{
		{"first", true, send(p.client, p.vip, p.clientMAC, 0x2000)}, {"second", true, send(p.client, p.vip, p.clientMAC, 3)},
		{"first of the answer", true, send(p.backend, p.client, p.backendMAC, 0x2000)}, {"second of it", true, send(p.backend, p.client, p.backendMAC, 3)},
	})
}

// A pod that the stack serves gets answers of Services by their address: they are of the
// backend's flow.
func TestAnswersOfServicesThroughTheStack(t *testing.T) {
	t.Parallel()
	families(t, func(t *testing.T, p *lane) {
		p.rules(t, setOut, 0, allowAll)
		e, _, err := endpoints{p.Datapath}.Get(p.client.Addr())
		must(t, err)
		e.Flags |= EndpointStack
		must(t, p.Endpoints().Set(p.client.Addr(), e))
		p.isolate(t, p.client.Addr(), setIn, setOut)
		for _, proto := range ported {
			deliver := func(from netip.AddrPort, flags byte) func() uint32 {
				return func() uint32 { return p.deliver(t, uplink, datagram(proto, from, p.client, 64, flags, load)) }
			}
			p.walkThrough(t, "policy-ingress", []step{
				{"nobody has asked", false, deliver(p.vip, ack)},
				{"it asks", true, func() uint32 {
					verdict, _ := p.send(t, datagram(proto, p.client, p.vip, 64, syn, load))
					return verdict
				}},
				{"the answer", true, deliver(p.vip, syn|ack)},
				{"of another Service", false, deliver(netip.AddrPortFrom(p.vip.Addr(), 81), ack)},
			})
		}
		p.walkThrough(t, "policy-ingress", []step{{"a connection of the Service's address", false, func() uint32 {
			return p.deliver(t, uplink, datagram(TCP, p.vip, p.client, 64, syn, load))
		}}})
	})
}

// leave has netfilter serve the Service at the lane's address for good.
func (p *lane) leave(t *testing.T) {
	t.Helper()
	must(t, p.Services().Frontends.Delete(Place{Addr: p.vip.Addr()}))
	for _, proto := range ported {
		must(t, p.Services().Frontends.Set(Place{p.vip.Addr(), p.vip.Port(), proto}, Frontend{}))
	}
}

// Where netfilter serves Services, what is to one is judged where its backend is known:
// while they are taken over, and where they are left to it.
func TestPoliciesBesideNetfilter(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		v6, far, left := i&1 > 0, i&2 > 0, i&4 > 0
		t.Run(fmt.Sprintf("v6=%v far=%v left=%v", v6, far, left), func(t *testing.T) {
			p := newLaneWith(t, v6, far, besideNetfilter)
			if left {
				p.leave(t)
			}
			node := netip.AddrPortFrom(p.outer4, 30080)
			if v6 {
				node = netip.AddrPortFrom(p.outer6, 30080)
			}
			p.serve(t, 9, node, p.backend.Addr())
			p.class(t, 4, p.backend.Addr())
			p.rules(t, setOut, 4, allowPort(UDP, servePort))
			p.isolate(t, p.client.Addr(), setIn, setOut)
			from := func(to netip.AddrPort) func() uint32 {
				return func() uint32 {
					verdict, _ := p.send(t, datagram(UDP, p.client, to, 64, 0, load))
					return verdict
				}
			}
			onward := func(port uint16) func() uint32 {
				return func() uint32 {
					packet := datagram(UDP, p.client, netip.AddrPortFrom(p.backend.Addr(), port), 63, 0, load)
					program := ToPod
					if far {
						program = ToOverlay
					}
					verdict, _ := p.runFrom(t, program, loopback+1, ethernet(mac{2}, mac{4}, ethType(packet), packet))
					return verdict
				}
			}
			p.walkThrough(t, "policy-egress", []step{
				{"to a Service", true, from(p.vip)},
				{"to a node port, which would hide its sender", false, from(node)},
				{"onward to the backend", true, onward(servePort)},
				{"onward to another port", false, onward(servePort + 1)},
			})
			p.walkThrough(t, "policy-ingress", []step{
				{"the answer, before it is turned", true, func() uint32 { return p.back(t, UDP, 0) }},
				{"the answer, as the Service's", true, func() uint32 {
					return p.deliver(t, uplink, datagram(UDP, p.vip, p.client, 63, 0, load))
				}},
				{"not the Service's", false, func() uint32 {
					return p.deliver(t, uplink, datagram(UDP, netip.AddrPortFrom(p.vip.Addr(), 81), p.client, 63, 0, load))
				}},
			})
		})
	}
}
