package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// dialFromPort connects with TCP from a port that others of the namespace may use as well,
// towards other places. A process that another test starts holds a copy of each socket until its
// exec, of one that was closed meanwhile, too: the port is asked for again while it is taken.
func dialFromPort(t testing.TB, ns netns.NsHandle, from, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: timeout, LocalAddr: net.TCPAddrFromAddrPort(from), Control: testnet.SharePort}
	var c net.Conn
	var err error
	testnet.Until(t, 5*time.Second, func() error {
		in(t, ns, func() { c, err = d.Dial("tcp", to.String()) })
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
		return nil
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// echoes wants what is sent to come back.
func echoes(t *testing.T, what string, conns ...net.Conn) {
	t.Helper()
	for i, c := range conns {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatalf("%s, connection %d: %v", what, i, err)
		}
		for b := make([]byte, 1); b[0] != 'x'; {
			if _, err := c.Read(b); err != nil {
				t.Fatalf("%s, connection %d: %v", what, i, err)
			}
		}
	}
}

// The kernel gives one port to several connections of a pod, if they go to different places.
// That a Service's and its backend's are the same to the backend does no harm to the
// connection that was there before. Nor does it where they go through the stack, as an end has a
// bandwidth limit.
func TestConnectionsFromOnePort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                       string
		client, backends, isolated bool
	}{
		{"none limited", false, false, false},
		{"the client limited", true, false, false},
		{"the backends limited", false, true, false},
		{"all limited", true, true, false},
		{"all limited and isolated", true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTown(t, false)
			for h, pods := range map[*host][]*pod{w.a: {w.near, w.other}, w.b: {w.far}} {
				h.rules(t, setOut, 0, allowAll)
				for _, p := range pods {
					if c.isolated {
						h.isolatePod(t, p, setOut, setOut)
					}
					if p == w.near && c.client || p != w.near && c.backends {
						h.limitPod(t, p)
					}
				}
			}
			shareOnePort(t, w)
		})
	}
}

// shareOnePort connects from one port to Services and to their backends, in both orders.
func shareOnePort(t *testing.T, w town) {
	t.Helper()
	for _, f := range []struct{ vip, near, other, far netip.Addr }{
		{addr("10.96.0.10"), w.near.v4, w.other.v4, w.far.v4},
		{addr("fd00:96::10"), w.near.v6, w.other.v6, w.far.v6},
	} {
		must(t, w.a.Services().Frontends.Set(Place{Addr: f.vip}, Frontend{}))
		for i, to := range []netip.Addr{f.other, f.far} {
			ns := []netns.NsHandle{w.other.ns, w.far.ns}[i]
			backendEcho(t, ns, to)
			vip, backend := netip.AddrPortFrom(f.vip, uint16(80+i)), netip.AddrPortFrom(to, servePort)
			w.a.serve(t, SetID(100+i), vip, to)

			from := netip.AddrPortFrom(f.near, uint16(40000+i))
			served, err := dialFromPort(t, w.near.ns, from, vip, 5*time.Second)
			must(t, err)
			echoes(t, "served", served)
			direct, err := dialFromPort(t, w.near.ns, from, backend, 5*time.Second)
			must(t, err)
			echoes(t, "both, direct last", served, direct, served, direct)

			from = netip.AddrPortFrom(f.near, uint16(41000+i))
			direct, err = dialFromPort(t, w.near.ns, from, backend, 5*time.Second)
			must(t, err)
			echoes(t, "direct", direct)
			_, err = dialFromPort(t, w.near.ns, from, vip, 100*time.Millisecond)
			if !isTimeout(err) {
				t.Errorf("a connection with the tuple of another: %v, want no answer", err)
			}
			echoes(t, "direct, after another wanted its tuple", direct)
			direct.Close()
			served, err = dialFromPort(t, w.near.ns, from, vip, 10*time.Second)
			must(t, err)
			echoes(t, "served after that", served)
		}
	}
}
