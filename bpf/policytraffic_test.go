package bpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Real pods on two nodes, all of them isolated both ways: what is allowed passes, directly,
// through a Service and through the stack, with errors and refusals; nothing else does.
func TestTrafficOfIsolatedPods(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		for _, stack := range []bool{false, true} {
			t.Run(fmt.Sprintf("outer6=%v stack=%v", outer6, stack), func(t *testing.T) {
				w := newTown(t, outer6)
				for _, p := range []*pod{w.near, w.other, w.far} {
					backendEcho(t, p.ns, p.v4)
					backendEcho(t, p.ns, p.v6)
				}
				limit(t, stack, w.a, w.b)
				const near, others RuleSet = 21, 22
				for _, h := range []*host{w.a, w.b} {
					h.class(t, 31, w.near.v4, w.near.v6)
					h.class(t, 32, w.other.v4, w.other.v6, w.far.v4, w.far.v6)
					h.rules(t, near, 32, allowPort(0, servePort)) // out of it
					h.rules(t, others, 31, allowPort(0, servePort))
				}
				w.a.isolatePod(t, w.near, RuleSetClosed, near)
				w.a.isolatePod(t, w.other, others, RuleSetClosed)
				w.b.isolatePod(t, w.far, others, RuleSetClosed)
				for i, f := range []struct{ vip, near, other, far, gw, thereGW netip.Addr }{
					{addr("10.96.0.10"), w.near.v4, w.other.v4, w.far.v4, w.a.gw4, w.b.gw4},
					{addr("fd00:96::10"), w.near.v6, w.other.v6, w.far.v6, w.a.gw6, w.b.gw6},
				} {
					must(t, w.a.Services().Frontends.Set(Place{Addr: f.vip}, Frontend{}))
					w.a.serve(t, SetID(100+i), netip.AddrPortFrom(f.vip, 80), f.other)
					w.a.serve(t, SetID(200+i), netip.AddrPortFrom(f.vip, 81), f.far)
					w.a.serve(t, SetID(300+i), netip.AddrPortFrom(f.vip, 82))
					for _, c := range []struct {
						name string
						from netns.NsHandle
						to   netip.AddrPort
					}{
						{"to a pod of its node", w.near.ns, netip.AddrPortFrom(f.other, servePort)},
						{"to a pod of another node", w.near.ns, netip.AddrPortFrom(f.far, servePort)},
						{"to a Service here", w.near.ns, netip.AddrPortFrom(f.vip, 80)},
						{"to a Service there", w.near.ns, netip.AddrPortFrom(f.vip, 81)},
						{"from the node", w.a.ns, netip.AddrPortFrom(f.near, servePort)},
						{"from the node to one that has policies", w.a.ns, netip.AddrPortFrom(f.other, servePort)},
					} {
						for _, network := range []string{"tcp", "udp"} {
							if _, err := askService(t, c.from, network, c.to, 5000); err != nil {
								t.Errorf("%s, %s %s: %v, counters %v %v", c.name, network, c.to, err, w.a.counts(t), w.b.counts(t))
							}
						}
					}
					for _, network := range []string{"tcp", "udp"} {
						if _, err := askService(t, w.near.ns, network, netip.AddrPortFrom(f.vip, 82), 1); !errors.Is(err, syscall.ECONNREFUSED) {
							t.Errorf("%s to a Service without backends: %v, want it refused", network, err)
						}
					}
					echo(t, w.near.ns, f.vip)
					for hops, want := range map[int]netip.Addr{1: f.gw, 2: f.thereGW} {
						if from := traced(t, w.near.ns, f.far, hops); from != want {
							t.Errorf("%d hops to %s: error from %s, want %s", hops, f.far, from, want)
						}
					}
					cutAndGoOn(t, w, f.far)
				}
				denied := w.a.counts(t)
				for _, to := range []netip.AddrPort{
					netip.AddrPortFrom(w.near.v4, servePort), netip.AddrPortFrom(w.far.v6, servePort), netip.AddrPortFrom(w.a.gw4, servePort),
				} {
					if _, err := askService(t, w.other.ns, "udp", to, 1); !isTimeout(err) {
						t.Errorf("what may send nothing to %s: %v, want no answer", to, err)
					}
				}
				if n := w.a.counts(t)["drop policy-unknown"] - denied["drop policy-unknown"]; n != 3 {
					t.Errorf("%d drops of 3", n)
				}
			})
		}
	}
}

// limit sends all that pods send and get through the stack.
func limit(t testing.TB, limit bool, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		rows, err := h.Endpoints().Dump()
		must(t, err)
		for a, row := range rows {
			if limit && row.IfIndex > 0 {
				row.Flags |= EndpointStack
				must(t, h.Endpoints().Set(a, row))
			}
		}
	}
}

// limitPod sends what one pod sends and gets through the stack.
func (h *host) limitPod(t testing.TB, p *pod) {
	t.Helper()
	for _, a := range []netip.Addr{p.v4, p.v6} {
		row, _, err := endpoints{h.Datapath}.Get(a)
		must(t, err)
		row.Flags |= EndpointStack
		must(t, h.Endpoints().Set(a, row))
	}
}

func (h *host) isolatePod(t testing.TB, p *pod, ingress, egress RuleSet) {
	t.Helper()
	h.isolate(t, p.v4, ingress, egress)
	h.isolate(t, p.v6, ingress, egress)
}

// traced sends a datagram that has so few hops, and returns who says that it had.
func traced(t testing.TB, from netns.NsHandle, dst netip.Addr, hops int) netip.Addr {
	t.Helper()
	var c *net.UDPConn
	var err error
	in(t, from, func() { c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, servePort))) })
	must(t, err)
	defer c.Close()
	level, recverr, ttl := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if dst.Is6() {
		level, recverr, ttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
	}
	control(t, c, func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, level, recverr, 1), unix.SetsockoptInt(fd, level, ttl, hops))
	})
	_, err = c.Write([]byte("x"))
	must(t, err)
	who, _ := offender(t, c)
	return who
}

// cutAndGoOn lets the policies of an open connection's far end deny it, and allow it again.
func cutAndGoOn(t *testing.T, w town, server netip.Addr) {
	t.Helper()
	var c net.Conn
	var err error
	in(t, w.near.ns, func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(server, servePort).String(), 3*time.Second) })
	must(t, err)
	defer c.Close()
	ask := func(within time.Duration) error {
		must(t, c.SetDeadline(time.Now().Add(within)))
		_, err := io.WriteString(c, "x")
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err
	}
	must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
	if _, err := io.ReadFull(c, make([]byte, len(c.LocalAddr().String())+1)); err != nil {
		t.Fatal(err)
	}
	if err := ask(3 * time.Second); err != nil {
		t.Errorf("open connection to %s: %v", server, err)
	}
	row, _, err := endpoints{w.b.Datapath}.Get(server)
	must(t, err)
	w.b.isolate(t, server, RuleSetClosed, RuleSetClosed)
	if err := ask(200 * time.Millisecond); !isTimeout(err) {
		t.Errorf("after it was denied: %v, want no answer", err)
	}
	w.b.isolate(t, server, row.Ingress, row.Egress)
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("allowed again: %v", err)
	}
}
