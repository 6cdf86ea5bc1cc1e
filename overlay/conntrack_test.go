package overlay

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/testnet"
)

// What netfilter translates is told with both ends and by how far it is; what it does not
// translate, or what has ended, is not.
func TestTranslationsAreTold(t *testing.T) {
	newNetns(t)
	sh(t, `
		ip addr add 10.1.0.1/32 dev lo
		ip addr add 10.1.0.2/32 dev lo
		ip addr add fd01::1/128 dev lo nodad
		ip addr add fd01::2/128 dev lo nodad`)
	awaitLocal(t, "fd01::1", "fd01::2")
	sh(t, `
		ip route add 10.96.0.0/16 dev lo src 10.1.0.2
		ip -6 route add fd96::/64 dev lo src fd01::2`)
	rules := filepath.Join(t.TempDir(), "rules")
	must(t, os.WriteFile(rules, []byte(`
		table ip a {
			chain out { type nat hook output priority -100; ip daddr 10.96.0.1 meta l4proto { tcp, udp } dnat to 10.1.0.1:8080; }
			chain post { type nat hook postrouting priority 100; ip daddr 10.1.0.1 udp dport 8080 snat to 10.1.0.1:7777; }
			chain zone { type filter hook output priority -300; tcp dport 81 ct original zone set 7; }
			chain zoned { type nat hook output priority -99; tcp dport 81 dnat to 10.1.0.1:8080; }
		}
		table ip6 a {
			chain out { type nat hook output priority -100; ip6 daddr fd96::1 meta l4proto { tcp, udp } dnat to [fd01::1]:8080; }
		}`), 0o600))
	if out, err := exec.Command("nft", "-f", rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	var want []Translation
	for _, f := range []struct{ place, backend, udpSource string }{{"10.96.0.1:80", "10.1.0.1:8080", "10.1.0.1:7777"}, {"[fd96::1]:80", "[fd01::1]:8080", ""}} {
		to, backend := netip.MustParseAddrPort(f.place), netip.MustParseAddrPort(f.backend)
		l, err := net.Listen("tcp", f.backend)
		must(t, err)
		defer l.Close()
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(backend))
		must(t, err)
		defer u.Close()
		direct, err := net.Dial("tcp", f.backend)
		must(t, err)
		defer direct.Close()
		open := func(network string) (net.Conn, Translation) {
			c, err := net.Dial(network, f.place)
			must(t, err)
			from := netip.MustParseAddrPort(c.LocalAddr().String())
			return c, Translation{Protocol: 6, Client: from, To: to, Source: from, Backend: backend, Answered: true}
		}
		over, _ := open("tcp")
		must(t, over.(*net.TCPConn).SetLinger(0))
		must(t, over.Close())
		tcp, row := open("tcp")
		defer tcp.Close()
		want = append(want, row)
		if backend.Addr().Is4() { // somebody's own, in a zone of one direction
			zoned, err := net.Dial("tcp", "10.96.0.1:81")
			must(t, err)
			defer zoned.Close()
		}
		half, row := open("tcp")
		defer half.Close()
		must(t, half.(*net.TCPConn).CloseWrite())
		row.ClientDone = true
		want = append(want, row)
		udp, row := open("udp")
		defer udp.Close()
		_, err = udp.Write([]byte("?"))
		must(t, err)
		row.Protocol, row.Answered = 17, false
		if f.udpSource != "" {
			row.Source = netip.MustParseAddrPort(f.udpSource)
		} else { // and one that is answered
			_, from, err := u.ReadFromUDPAddrPort(make([]byte, 9))
			must(t, err)
			_, err = u.WriteToUDPAddrPort([]byte("!"), from)
			must(t, err)
			row.Answered = true
		}
		want = append(want, row)
	}
	wantTranslations(t, want)
	for len(want) > 0 { // one of each family at a time
		over := []Translation{want[0], want[len(want)/2]}
		must(t, ForgetTranslations(over...))
		want = slices.DeleteFunc(want, func(tr Translation) bool { return slices.Contains(over, tr) })
		wantTranslations(t, want)
	}
}

// Netfilter gives another port to a flow that goes to a place itself from a port from which another
// is sent there. It forgets that if it has ended, and says so if it has not.
func TestEndedFlowsAreForgotten(t *testing.T) {
	newNetns(t)
	sh(t, `
		ip addr add 10.1.0.1/32 dev lo
		ip addr add fd01::1/128 dev lo nodad`)
	awaitLocal(t, "fd01::1")
	rules := filepath.Join(t.TempDir(), "rules")
	must(t, os.WriteFile(rules, []byte(`
		table inet a {
			chain out {
				type nat hook output priority -100
				tcp dport 80 dnat ip to 10.1.0.1:8080
				tcp dport 80 dnat ip6 to [fd01::1]:8080
			}
		}`), 0o600))
	if out, err := exec.Command("nft", "-f", rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	for _, addr := range []string{"10.1.0.1", "fd01::1"} {
		backend := netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)
		l, err := net.Listen("tcp", backend.String())
		must(t, err)
		defer l.Close()
		client := netip.AddrPortFrom(backend.Addr(), 20000)
		sent := dialFrom(t, client, netip.AddrPortFrom(backend.Addr(), 80))
		defer sent.Close()
		itself := dialFrom(t, client, backend)
		var told []Translation
		must(t, Translations(func(tr Translation) {
			if tr.Client == client {
				told = append(told, tr)
			}
		}))
		if len(told) != 2 || !slices.ContainsFunc(told, func(tr Translation) bool { return tr.To == tr.Backend && tr.Source.Port() != client.Port() }) {
			t.Errorf("told were %+v, want both connections, one of them from another port", told)
		}
		for _, want := range []bool{true, false, false} { // it lives, it has ended, it is forgotten
			if alive, err := ForgetEnded(6, client, backend); err != nil || alive != want {
				t.Errorf("%s: alive %t, error %v; want %t", addr, alive, err, want)
			}
			_ = itself.(*net.TCPConn).SetLinger(0)
			itself.Close()
		}
		if alive, err := ForgetEnded(6, client, netip.AddrPortFrom(backend.Addr(), 80)); err != nil || !alive {
			t.Errorf("%s: the other connection: alive %t, error %v; want true", addr, alive, err)
		}
	}
}

// dialFrom connects from a port that others may have, too.
func dialFrom(t *testing.T, from, to netip.AddrPort) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: testnet.SharePort}
	conn, err := d.Dial("tcp", to.String())
	must(t, err)
	return conn
}

func wantTranslations(t *testing.T, want []Translation) {
	t.Helper()
	got := map[netip.AddrPort]map[uint8]Translation{}
	must(t, Translations(func(tr Translation) {
		if got[tr.Client] == nil {
			got[tr.Client] = map[uint8]Translation{}
		}
		got[tr.Client][tr.Protocol] = tr
	}))
	told := 0
	for _, w := range want {
		if diff := cmp.Diff(got[w.Client][w.Protocol], w, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
	}
	for _, m := range got {
		told += len(m)
	}
	if told != len(want) {
		t.Errorf("%d were told, want %d: %v", told, len(want), got)
	}
}

// Whatever the message: it is read, or is none.
func FuzzTranslation(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Add([]byte{2, 0, 0, 0, 0x34, 0, 1, 0x80, 0x14, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 2,
		0x1c, 0, 2, 0x80, 5, 0, 1, 0, 6, 0, 0, 0, 6, 0, 2, 0, 0x9c, 0x40, 0, 0, 6, 0, 3, 0, 0, 0x50, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, ok := parseTranslation(b)
		if ok && (!tr.Client.IsValid() || !tr.To.IsValid() || !tr.Source.IsValid() || !tr.Backend.IsValid() || tr.To == tr.Backend && tr.Client == tr.Source) {
			t.Errorf("% x gives %+v", b, tr)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
