package bpf

import (
	"net"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/internal/testnet"
)

func TestConnectionsAreListedWithWhoOpenedThem(t *testing.T) {
	t.Parallel()
	testnet.Require(t)
	ns := testnet.New(t, "pod")
	if err := ns.IP("link", "set", "lo", "up"); err != nil {
		t.Fatal(err)
	}
	if list, err := Connections(ns.Path()); err != nil || len(list) != 0 {
		t.Fatalf("in an empty namespace there are %v, %v", list, err)
	}
	want := map[Connection]bool{}
	both := func(p Protocol, opener, other net.Addr) {
		a, b := netip.MustParseAddrPort(opener.String()), netip.MustParseAddrPort(other.String())
		want[Connection{p, a, b, true}] = true
		if p == TCP {
			want[Connection{p, b, a, false}] = true
		}
	}
	if err := ns.Do(func() error {
		for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", host)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			both(TCP, c.LocalAddr(), c.RemoteAddr())
			u, err := net.ListenPacket("udp", host)
			if err != nil {
				return err
			}
			t.Cleanup(func() { u.Close() })
			d, err := net.Dial("udp", u.LocalAddr().String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { d.Close() })
			both(UDP, d.LocalAddr(), d.RemoteAddr())
		}
		// A socket of IPv6 that speaks IPv4.
		l, err := net.Listen("tcp", "[::]:0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		both(TCP, c.LocalAddr(), c.RemoteAddr())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	list, err := Connections(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if !want[c] {
			t.Errorf("unexpected: %+v", c)
		}
		delete(want, c)
	}
	for c := range want {
		t.Errorf("missing: %+v", c)
	}
	if list, err := Connections(ns.Path() + "-that-is-not"); err != nil || len(list) != 0 {
		t.Errorf("of a namespace that is gone: %v, %v", list, err)
	}
}
