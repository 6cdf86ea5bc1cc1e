package bpf

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// A Service without backends, another port of its address, and a flow whose backend has
// gone are refused at once; so that no client waits for a timeout.
func TestRefusedAtOnce(t *testing.T) {
	w := newTown(t, false)
	for _, vip := range []netip.Addr{addr("10.96.0.20"), addr("fd00:96::20")} {
		node := w.a.outer4
		if vip.Is6() {
			node = w.a.outer6
		}
		must(t, w.a.Services().Frontends.Set(Place{Addr: vip}, Frontend{}))
		w.a.serve(t, 20, netip.AddrPortFrom(vip, 80))
		w.a.serve(t, 21, netip.AddrPortFrom(node, 30080))
		for _, c := range []struct {
			name string
			from netns.NsHandle
			to   netip.AddrPort
		}{
			{"no backend", w.near.ns, netip.AddrPortFrom(vip, 80)},
			{"no such port", w.near.ns, netip.AddrPortFrom(vip, 81)},
			{"no backend of a node port", w.outside.ns, netip.AddrPortFrom(node, 30080)},
		} {
			for _, ask := range []struct {
				network string
				size    int
			}{{"tcp", 1}, {"udp", 1}, {"udp", 5000}} { // the last in fragments
				start := time.Now()
				_, err := askService(t, c.from, ask.network, c.to, ask.size)
				if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
					t.Errorf("%s, %v %s: %v after %v, want refused at once", c.name, ask, c.to, err, time.Since(start))
				}
			}
		}
		must(t, w.a.Services().Sets.Set(20, Set{Flags: SetDrop}))
		if _, err := askService(t, w.near.ns, "udp", netip.AddrPortFrom(vip, 80), 1); !errors.Is(err, syscall.ETIMEDOUT) && !isTimeout(err) {
			t.Errorf("no local backend of %s: %v, want no answer", vip, err)
		}
		echo(t, w.near.ns, vip)
	}
}

// echo sends an ICMP echo request and wants its reply.
func echo(t testing.TB, ns netns.NsHandle, to netip.Addr) {
	t.Helper()
	b := []byte("\x08\x00\x00\x00\x00\x57\x00\x01weft")
	copy(b[2:], sum(b))
	network := "ip4:icmp"
	if to.Is6() { // there the kernel makes the checksum
		network, b[0] = "ip6:ipv6-icmp", 128
	}
	var c net.Conn
	var err error
	in(t, ns, func() { c, err = net.Dial(network, to.String()) })
	must(t, err)
	defer c.Close()
	_, err = c.Write(b)
	must(t, err)
	_ = c.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil || !strings.HasSuffix(string(buf[:n]), "weft") {
		t.Errorf("echo to %s: got %q, %v", to, buf[:n], err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// What happens to flows when their backend goes: UDP has another one with the next
// datagram, from the same socket; TCP is reset. The address that comes back with another
// pod is another backend.
func TestBackendGoes(t *testing.T) {
	w := newTown(t, false)
	for _, c := range []struct {
		vip             netip.AddrPort
		near, other, to netip.Addr
	}{
		{netip.MustParseAddrPort("10.96.0.30:80"), w.near.v4, w.other.v4, w.far.v4},
		{netip.MustParseAddrPort("[fd00:96::30]:80"), w.near.v6, w.other.v6, w.far.v6},
	} {
		backendEcho(t, w.other.ns, c.other)
		backendEcho(t, w.far.ns, c.to)
		w.a.serve(t, 30, c.vip, c.to)
		s := w.a.Services()
		var u, tcp net.Conn
		in(t, w.near.ns, func() {
			var err error
			u, err = net.Dial("udp", c.vip.String())
			must(t, err)
			tcp, err = net.Dial("tcp", c.vip.String())
			must(t, err)
		})
		exchange := func(conn net.Conn) error {
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
			_, err := conn.Read(make([]byte, 100))
			return err
		}
		for range 3 {
			must(t, exchange(u))
			must(t, exchange(tcp))
		}
		// The far pod goes, the other one comes.
		must(t, s.Backends.Set(Slot{30, 0}, Backend{Addr: c.other, Port: servePort, Generation: 1}))
		for _, p := range []Protocol{TCP, UDP} {
			must(t, s.Alive.Set(Place{c.other, servePort, p}, 1))
			must(t, s.Alive.Set(Place{c.to, servePort, p}, 2))
		}
		for range 3 {
			if err := exchange(u); err != nil {
				t.Errorf("UDP to %s after its backend went: %v", c.vip, err)
			}
		}
		err := exchange(tcp)
		for i := 0; err == nil && i < 3; i++ { // first there is what had come before
			err = exchange(tcp)
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("TCP to %s after its backend went: %v, want a reset", c.vip, err)
		}
		u.Close()
		tcp.Close()
	}
}

// Datagrams bigger than the MTU go through a Service in fragments, both ways.
func TestServiceFragments(t *testing.T) {
	w := newTown(t, false)
	for _, c := range []struct {
		vip netip.AddrPort
		to  []netip.Addr
	}{
		{netip.MustParseAddrPort("10.96.0.40:80"), []netip.Addr{w.other.v4, w.far.v4}},
		{netip.MustParseAddrPort("[fd00:96::40]:80"), []netip.Addr{w.other.v6, w.far.v6}},
	} {
		for i, to := range c.to {
			backendEcho(t, []*pod{w.other, w.far}[i].ns, to)
			w.a.serve(t, 40, c.vip, to)
			for _, size := range []int{1400, 5000, 20000} {
				if _, err := askService(t, w.near.ns, "udp", c.vip, size); err != nil {
					t.Errorf("%d bytes to %s by %s: %v", size, to, c.vip, err)
				}
			}
		}
	}
}
