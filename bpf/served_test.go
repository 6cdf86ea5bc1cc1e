package bpf

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// servePort is where the test's backends listen, at places of Services on 80 by
// default.
const servePort = 8080

// backendEcho answers on TCP and UDP in a namespace, with the address that it sees.
func backendEcho(t testing.TB, ns netns.NsHandle, at netip.Addr) {
	t.Helper()
	var l net.Listener
	var u *net.UDPConn
	in(t, ns, func() {
		var err error
		l, err = net.Listen("tcp", netip.AddrPortFrom(at, servePort).String())
		must(t, err)
		u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, servePort)))
		must(t, err)
	})
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			out := append([]byte(from.String()+"\n"), buf[:n]...)
			_, _ = u.WriteToUDPAddrPort(out, from)
		}
	}()
}

// askService sends a few bytes and returns the address that the backend saw; empty with the
// error if there is no answer.
func askService(t testing.TB, ns netns.NsHandle, network string, to netip.AddrPort, size int) (string, error) {
	t.Helper()
	var c net.Conn
	var err error
	in(t, ns, func() { c, err = net.DialTimeout(network, to.String(), 2*time.Second) })
	if err != nil {
		return "", err
	}
	defer c.Close()
	patience := 2 * time.Second
	if size > 1<<16 { // a busy machine needs its time
		patience *= 10
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	sent := strings.Repeat("x", size)
	if _, err := io.WriteString(c, sent); err != nil {
		return "", err
	}
	var got []byte
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		seen, rest, ok := strings.Cut(string(got), "\n")
		if ok && len(rest) >= size {
			if rest != sent {
				return "", fmt.Errorf("%d bytes came back damaged", size)
			}
			return netip.MustParseAddrPort(seen).Addr().Unmap().String(), nil
		}
		if err != nil {
			return "", fmt.Errorf("after %d bytes: %w", len(got), err)
		}
	}
}

// serve programs a Service with one set of backends, for inside and outside.
func (d *Datapath) serve(t testing.TB, id SetID, at netip.AddrPort, backends ...netip.Addr) {
	t.Helper()
	s := d.Services()
	for i, b := range backends {
		must(t, s.Backends.Set(Slot{id, uint32(i)}, Backend{Addr: b, Port: servePort, Generation: 1}))
		for _, p := range []Protocol{TCP, UDP, SCTP} {
			must(t, s.Alive.Set(Place{b, servePort, p}, 1))
		}
	}
	must(t, s.Sets.Set(id, Set{Count: uint32(len(backends))}))
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		must(t, s.Frontends.Set(Place{at.Addr(), at.Port(), p}, Frontend{Inside: id, Outside: id}))
	}
}

// town is two nodes with pods, and a client outside.
type town struct {
	a, b             *host
	near, other, far *pod // on a, a and b
	outside          *host
}

func newTown(t *testing.T, outer6 bool) town {
	t.Helper()
	return newTownWith(t, outer6, Options{})
}

func newTownWith(t *testing.T, outer6 bool, o Options) town {
	t.Helper()
	segment := newSegment(t)
	w := town{a: newHostWith(t, 1, segment, o), b: newHostWith(t, 2, segment, o), outside: bare(t, 9, segment)}
	w.a.knows(w.b, outer6, false)
	w.b.knows(w.a, outer6, false)
	for _, h := range []*host{w.a, w.b} {
		in(t, h.ns, func() { must(t, h.Links().Set(Hook{ToUplink, h.uplink.Attrs().Index}, struct{}{})) })
		for s, a := range map[Stand]netip.Addr{{}: h.gw4, {IPv6: true}: h.gw6, {Nodes: true}: h.outer4, {Nodes: true, IPv6: true}: h.outer6} {
			must(t, h.Own().Set(s, a))
		}
	}
	w.near, w.other, w.far = w.a.addPod(), w.a.addPod(), w.b.addPod()
	for h, pods := range map[*host][]*pod{w.a: {w.near, w.other}, w.b: {w.far}} {
		for _, p := range pods {
			in(t, h.ns, func() { must(t, h.Links().Set(Hook{ToPod, p.hostVeth.Attrs().Index}, struct{}{})) })
		}
	}
	return w
}

// Who reaches a Service from where, and which address the backend sees.
func TestServicePerPacket(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("outer6=%v", outer6), func(t *testing.T) {
			w := newTown(t, outer6)
			for _, p := range []*pod{w.near, w.other, w.far} {
				backendEcho(t, p.ns, p.v4)
				backendEcho(t, p.ns, p.v6)
			}
			backendEcho(t, w.a.ns, w.a.outer4)
			backendEcho(t, w.a.ns, w.a.outer6)
			type family struct {
				vip                                    netip.Addr
				near, other, far, nodeA, gwA, outsider netip.Addr
			}
			for _, f := range []family{
				{addr("10.96.0.10"), w.near.v4, w.other.v4, w.far.v4, w.a.outer4, w.a.gw4, w.outside.outer4},
				{addr("fd00:96::10"), w.near.v6, w.other.v6, w.far.v6, w.a.outer6, w.a.gw6, w.outside.outer6},
			} {
				for i, c := range []struct {
					name    string
					from    netns.NsHandle
					at      netip.Addr
					backend netip.Addr
					seen    netip.Addr
				}{
					{"pod to pod of its node", w.near.ns, f.vip, f.other, f.near},
					{"pod to pod of another node", w.near.ns, f.vip, f.far, f.near},
					{"pod to itself", w.near.ns, f.vip, f.near, f.gwA},
					{"pod to its node's network", w.near.ns, f.vip, f.nodeA, f.near},
					{"pod to a node port of its node", w.near.ns, f.nodeA, f.far, f.near},
					{"outside to a pod of the node", w.outside.ns, f.nodeA, f.near, f.outsider},
					{"outside to a pod of another node", w.outside.ns, f.nodeA, f.far, f.gwA},
					{"outside to the node's network", w.outside.ns, f.nodeA, f.nodeA, f.outsider},
				} {
					at := netip.AddrPortFrom(c.at, uint16(1000+i))
					w.a.serve(t, SetID(100+i), at, c.backend)
					for _, network := range []string{"tcp", "udp"} {
						for _, size := range []int{1, 1000} {
							seen, err := askService(t, c.from, network, at, size)
							if err != nil || seen != c.seen.String() {
								t.Errorf("%s, %s %s, %d bytes: backend saw %q, %v, want %s", c.name, network, at, size, seen, err, c.seen)
							}
						}
					}
					if seen, err := askService(t, c.from, "tcp", at, 1<<20); err != nil || seen != c.seen.String() {
						t.Errorf("%s, stream to %s: backend saw %q, %v, want %s", c.name, at, seen, err, c.seen)
					}
				}
			}
			for _, h := range []*host{w.a, w.b} {
				for reason, n := range h.counts(t) {
					if reason != "drop link-local" {
						t.Errorf("node %d: %s %d", h.n, reason, n)
					}
				}
			}
		})
	}
}
