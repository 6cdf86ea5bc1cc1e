package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// hostClient is a client of a Service whose backend is in the node's own network, and how its
// packets come and go.
type hostClient struct {
	name        string
	client, via netip.AddrPort
	mac         mac
	there, out  Program
}

func hostClients(t testing.TB, v6 bool) (p *lane, backend netip.AddrPort, clients []hostClient) {
	t.Helper()
	p = newLane(t, v6, false)
	host, outsider := p.outer4, addr("203.0.113.7")
	if v6 {
		host, outsider = p.outer6, addr("2001:db8:7::7")
	}
	node := netip.AddrPortFrom(host, 30080)
	p.serve(t, 7, p.vip, host)
	p.serve(t, 8, node, host)
	return p, netip.AddrPortFrom(host, servePort), []hostClient{
		{"pod", p.client, p.vip, p.clientMAC, FromPod, ToPod},
		{"outside", netip.AddrPortFrom(outsider, 41000), node, mac{2}, FromUplink, ToUplink},
	}
}

// passes gives a packet to a program in a namespace and returns the tuple that it leaves to the
// stack with.
func (p *lane) passes(t testing.TB, ns netns.NsHandle, by Program, from mac, packet []byte) (src, dst netip.AddrPort) {
	t.Helper()
	in(t, ns, func() {
		verdict, out := p.run(t, by, ethernet(noMAC, from, ethType(packet), packet), 0)
		if verdict != tcxNext {
			t.Fatalf("%s: verdict %d, counters %v", by, int32(verdict), p.counts(t))
		}
		src, dst = tupleOf(out[14:])
	})
	return src, dst
}

// connection is one to a listener, both ends in one namespace.
func connection(t testing.TB, ns netns.NsHandle, l net.Listener, from netip.AddrPort) (client, server net.Conn) {
	t.Helper()
	client, err := dialFromPort(t, ns, from, netip.MustParseAddrPort(l.Addr().String()), 5*time.Second)
	must(t, err)
	server, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// States of sockets, as in /proc/net/tcp.
const (
	stateSynRecv  = 3
	stateTimeWait = 6
)

// awaitState waits until a socket of the namespace, to that port, is in a state.
func awaitState(t testing.TB, ns netns.NsHandle, v6 bool, to uint16, state int) {
	t.Helper()
	name := "/proc/thread-self/net/tcp"
	if v6 {
		name += "6"
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		var sockets []byte
		var err error
		in(t, ns, func() { sockets, err = os.ReadFile(name) })
		must(t, err)
		if strings.Contains(string(sockets), fmt.Sprintf(":%04X %02X ", to, state)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no socket to port %d in state %d: %s", to, state, sockets)
		}
	}
}

// deferAccept has a listener's connections half open until their clients have sent something, or
// that many seconds have passed.
func deferAccept(t testing.TB, l net.Listener, seconds int) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	must(t, err)
	var set error
	must(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, seconds) }))
	must(t, set)
}

// A backend in the node's own network has one socket for one tuple: a flow through a Service gets
// another port than a connection that its client has to the backend itself, if that was there
// first, and be it in TIME_WAIT; but one below 1024 stays then, and the other one when that is in
// TIME_WAIT. Who listens takes no port, nor does what is half open.
func TestHostConnectionsThatWereThereBefore(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			p, backend, clients := hostClients(t, v6)
			ns := newNS(t)
			for _, a := range []netip.Addr{backend.Addr(), clients[0].client.Addr(), clients[1].client.Addr()} {
				if v6 {
					addAddr6(t, ns, netip.PrefixFrom(a, a.BitLen()), "lo")
				} else {
					ip(t, ns, "addr add %s/32 dev lo", a)
				}
			}
			var l net.Listener
			var err error
			in(t, ns, func() { l, err = net.Listen("tcp", backend.String()) })
			must(t, err)
			t.Cleanup(func() { l.Close() })
			for _, c := range clients {
				ask := func(from, to netip.AddrPort, flags byte) netip.AddrPort {
					t.Helper()
					src, dst := p.passes(t, ns, c.there, c.mac, datagram(TCP, from, to, 64, flags, nil))
					if dst != backend || src.Addr() != c.client.Addr() {
						t.Fatalf("%s: %s → %s came as %s → %s", c.name, from, to, src, dst)
					}
					return src
				}
				answers := func(seen, from, asked netip.AddrPort, flags byte) {
					t.Helper()
					src, dst := p.passes(t, ns, c.out, noMAC, datagram(TCP, backend, seen, 64, flags, nil))
					if src != asked || dst != from {
						t.Errorf("%s: the answer to %s came as %s → %s, want %s → %s", c.name, seen, src, dst, asked, from)
					}
				}
				port := func(n uint16) netip.AddrPort { return netip.AddrPortFrom(c.client.Addr(), c.client.Port()+n) }

				if seen := ask(port(0), c.via, syn); seen != port(0) {
					t.Errorf("%s: with a listener only, the source is %s, want %s", c.name, seen, port(0))
				}

				connection(t, ns, l, port(1))
				seen := ask(port(1), c.via, syn)
				if seen == port(1) {
					t.Errorf("%s: the source is %s, as that of another connection", c.name, seen)
				}
				if again := ask(port(1), c.via, syn); again != seen {
					t.Errorf("%s: the source was %s, and is %s when the SYN comes again", c.name, seen, again)
				}
				answers(seen, port(1), c.via, syn|ack)
				for range 2 {
					if src := ask(port(1), c.via, ack); src != seen {
						t.Errorf("%s: the source was %s, and is %s", c.name, seen, src)
					}
					answers(seen, port(1), c.via, ack)
					if src := ask(port(1), backend, ack); src != port(1) {
						t.Errorf("%s: the connection itself has the source %s, want %s", c.name, src, port(1))
					}
					answers(port(1), port(1), backend, ack)
				}

				connection(t, ns, l, port(2))
				if src := ask(port(2), c.via, ack); src != port(2) {
					t.Errorf("%s: what goes on has the source %s, want %s", c.name, src, port(2))
				}

				low := netip.AddrPortFrom(c.client.Addr(), c.client.Port()/100)
				ended := func(from netip.AddrPort) {
					t.Helper()
					client, server := connection(t, ns, l, from)
					server.Close()
					_, _ = client.Read(make([]byte, 1))
					client.Close()
					awaitState(t, ns, v6, from.Port(), stateTimeWait)
				}
				for _, from := range []netip.AddrPort{port(3), low} {
					ended(from)
					if seen := ask(from, c.via, syn); (seen == from) != (from == low) {
						t.Errorf("%s: after a connection from %s that has ended, the source is %s", c.name, from, seen)
					}
				}
				seen = ask(port(3), c.via, rst)
				ended(seen)
				if again := ask(port(3), c.via, syn); again != seen {
					t.Errorf("%s: the source was %s, and is %s after that connection has ended", c.name, seen, again)
				}

				deferAccept(t, l, 30)
				_, err = dialFromPort(t, ns, port(4), backend, 5*time.Second)
				must(t, err)
				awaitState(t, ns, v6, port(4).Port(), stateSynRecv)
				if seen := ask(port(4), c.via, syn); seen != port(4) {
					t.Errorf("%s: beside a connection that is half open, the source is %s, want %s", c.name, seen, port(4))
				}
				deferAccept(t, l, 0)
			}
		})
	}
}

// The same with sockets: who has a connection to a backend in the node's network is served from
// the same port.
func TestServedBesideAConnectionToTheHost(t *testing.T) {
	t.Parallel()
	w := newTown(t, false)
	for i, f := range []struct{ vip, node, near, outside netip.Addr }{
		{addr("10.96.0.10"), w.a.outer4, w.near.v4, w.outside.outer4},
		{addr("fd00:96::10"), w.a.outer6, w.near.v6, w.outside.outer6},
	} {
		backendEcho(t, w.a.ns, f.node)
		must(t, w.a.Services().Frontends.Set(Place{Addr: f.vip}, Frontend{}))
		backend := netip.AddrPortFrom(f.node, servePort)
		for j, c := range []struct {
			name         string
			ns           netns.NsHandle
			client, asks netip.Addr
		}{
			{"pod", w.near.ns, f.near, f.vip},
			{"pod, node port", w.near.ns, f.near, f.node},
			{"outside", w.outside.ns, f.outside, f.node},
		} {
			via, from := netip.AddrPortFrom(c.asks, uint16(1080+j)), netip.AddrPortFrom(c.client, uint16(41000+j))
			w.a.serve(t, SetID(100+10*i+j), via, f.node)
			direct, err := dialFromPort(t, c.ns, from, backend, 5*time.Second)
			must(t, err)
			echoes(t, c.name+", direct", direct)
			served, err := dialFromPort(t, c.ns, from, via, 5*time.Second)
			if err != nil {
				t.Errorf("%s, %s: %v", c.name, via, err)
				continue
			}
			echoes(t, c.name+", both", served, direct, served, direct)
			direct.Close()
			echoes(t, c.name+", alone", served)
		}
	}
}
