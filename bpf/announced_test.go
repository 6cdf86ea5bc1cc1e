package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	lb4, lb6 = addr("198.51.100.7"), addr("2001:db8:1::7")
	lbMAC    = mac{2, 7, 7, 7, 7, 7}
	asker    = mac{2, 9, 9, 9, 9, 9}
)

// announces makes n announce the addresses lb4 and lb6 on the link of test packets, its
// daemon alive.
func announces(t testing.TB, n *node, on bool) {
	t.Helper()
	for _, a := range []netip.Addr{lb4, lb6} {
		must(t, n.Announced().Set(a, Announced{IfIndex: loopback, MAC: lbMAC, On: on}))
	}
	must(t, n.Beat())
}

// silent makes n's daemon one that was last heard of so long ago.
func silent(t testing.TB, n *node, since time.Duration) {
	t.Helper()
	now, err := bootTime()
	must(t, err)
	must(t, n.beatAt(now-since))
}

func TestQuestionsForAnnouncedAddressesAreAnswered(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	announces(t, n, true)
	client4, client6 := addr("198.51.100.9"), addr("2001:db8:1::9")
	none4, none6 := addr("0.0.0.0"), addr("::")
	group, all := addr("ff02::1:ff00:7"), addr("ff02::1")
	groupMAC, allMAC := mac{0x33, 0x33, 0xff, 0, 0, 7}, mac{0x33, 0x33, 0, 0, 0, 1}
	sll, tll := cat([]byte{1, 1}, asker[:]), cat([]byte{2, 1}, lbMAC[:])
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	for _, c := range []struct {
		name      string
		ask, want []byte
	}{
		{"arp",
			ethernet(broadcast, asker, ethARP, arp(1, asker, client4, mac{}, lb4)),
			ethernet(asker, lbMAC, ethARP, arp(2, lbMAC, lb4, asker, client4))},
		{"arp by unicast",
			ethernet(noMAC, asker, ethARP, arp(1, asker, client4, lbMAC, lb4)),
			ethernet(asker, lbMAC, ethARP, arp(2, lbMAC, lb4, asker, client4))},
		{"arp by who wants the address",
			ethernet(broadcast, asker, ethARP, arp(1, asker, none4, mac{}, lb4)),
			ethernet(asker, lbMAC, ethARP, arp(2, lbMAC, lb4, asker, none4))},
		{"solicitation",
			ethernet(groupMAC, asker, ethIPv6, nd(client6, group, 135, 0, lb6, sll...)),
			ethernet(asker, lbMAC, ethIPv6, nd(lb6, client6, 136, 0x60000000, lb6, tll...))},
		{"solicitation by unicast, without an option",
			ethernet(noMAC, asker, ethIPv6, nd(client6, lb6, 135, 0, lb6)),
			ethernet(asker, lbMAC, ethIPv6, nd(lb6, client6, 136, 0x60000000, lb6, tll...))},
		{"solicitation by who wants the address",
			ethernet(groupMAC, asker, ethIPv6, nd(none6, group, 135, 0, lb6)),
			ethernet(allMAC, lbMAC, ethIPv6, nd(lb6, all, 136, 0x20000000, lb6, tll...))},
		{"the same with a nonce",
			ethernet(groupMAC, asker, ethIPv6, nd(none6, group, 135, 0, lb6, nonce...)),
			ethernet(allMAC, lbMAC, ethIPv6, nd(lb6, all, 136, 0x20000000, lb6, tll...))},
	} {
		t.Run(c.name, func(t *testing.T) {
			verdict, got := n.run(t, FromUplink, c.ask, 0)
			if diff := cmp.Diff(got, c.want); verdict != tcxRedirect || diff != "" {
				t.Errorf("verdict %d, answer (-got +want):\n%s", int32(verdict), diff)
			}
		})
	}
}

// questions are one of each family.
func questions() map[string][]byte {
	group := addr("ff02::1:ff00:7")
	sll := cat([]byte{1, 1}, asker[:])
	return map[string][]byte{
		"arp":          ethernet(broadcast, asker, ethARP, arp(1, asker, addr("198.51.100.9"), mac{}, lb4)),
		"solicitation": ethernet(broadcast, asker, ethIPv6, nd(addr("2001:db8:1::9"), group, 135, 0, lb6, sll...)),
	}
}

func TestNoAnswerForOthers(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*node){
		"no rows":            func(n *node) { must(t, n.Beat()) },
		"not announced":      func(n *node) { announces(t, n, false) },
		"never a daemon":     func(n *node) { announces(t, n, true); must(t, n.beatAt(0)) },
		"a daemon long dead": func(n *node) { announces(t, n, true); silent(t, n, SilenceLimit+time.Millisecond) },
		"another link": func(n *node) {
			announces(t, n, true)
			for _, a := range []netip.Addr{lb4, lb6} {
				must(t, n.Announced().Set(a, Announced{IfIndex: 77, MAC: lbMAC, On: true}))
			}
		},
		"its own question": func(n *node) {
			announces(t, n, true)
			for _, a := range []netip.Addr{lb4, lb6} {
				must(t, n.Announced().Set(a, Announced{IfIndex: loopback, MAC: asker, On: true}))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			prepare(n)
			for what, ask := range questions() {
				if verdict, got := n.run(t, FromUplink, ask, 0); verdict != tcxNext || !cmp.Equal(got, ask) {
					t.Errorf("%s: verdict %d, packet % x", what, int32(verdict), got)
				}
			}
		})
	}
}

// What the daemon said goes on counting for a while after its last sign of life.
func TestAnswersGoOnForAWhileWithoutADaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	announces(t, n, true)
	silent(t, n, SilenceLimit-5*time.Second)
	for what, ask := range questions() {
		if verdict, _ := n.run(t, FromUplink, ask, 0); verdict != tcxRedirect {
			t.Errorf("%s: verdict %d", what, int32(verdict))
		}
	}
}

func TestClaimsOfOthersAreNoted(t *testing.T) {
	t.Parallel()
	all := addr("ff02::1")
	tll := cat([]byte{2, 1}, asker[:])
	own := cat([]byte{2, 1}, lbMAC[:])
	for _, c := range []struct {
		name  string
		frame []byte
		of    netip.Addr // invalid: no claim
	}{
		{"gratuitous arp", ethernet(broadcast, asker, ethARP, arp(1, asker, lb4, mac{}, lb4)), lb4},
		{"arp reply", ethernet(noMAC, asker, ethARP, arp(2, asker, lb4, mac{}, addr("198.51.100.9"))), lb4},
		{"arp question as it", ethernet(broadcast, asker, ethARP, arp(1, asker, lb4, mac{}, addr("198.51.100.1"))), lb4},
		{"advertisement", ethernet(broadcast, asker, ethIPv6, nd(lb6, all, 136, 0x20000000, lb6, tll...)), lb6},
		{"our own arp", ethernet(broadcast, lbMAC, ethARP, arp(1, lbMAC, lb4, mac{}, lb4)), netip.Addr{}},
		{"our own advertisement", ethernet(broadcast, lbMAC, ethIPv6, nd(lb6, all, 136, 0x20000000, lb6, own...)), netip.Addr{}},
		{"of another address", ethernet(broadcast, asker, ethARP, arp(1, asker, addr("198.51.100.8"), mac{}, addr("198.51.100.8"))), netip.Addr{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, 1)
			announces(t, n, true)
			if verdict, got := n.run(t, FromUplink, c.frame, 0); verdict != tcxNext || !cmp.Equal(got, c.frame) {
				t.Errorf("verdict %d, packet % x", int32(verdict), got)
			}
			claims, err := n.Claims()
			must(t, err)
			got, ok := claims[c.of]
			switch {
			case !c.of.IsValid() && len(claims) > 0:
				t.Errorf("claims %v, want none", claims)
			case c.of.IsValid() && (!ok || got.MAC != asker || got.Age > time.Minute):
				t.Errorf("claims %v, want one of %x for %s", claims, asker, c.of)
			}
		})
	}
}

// question is a probe as another node sends it.
func question(src, dst netip.Addr, about netip.Addr) []byte {
	at := about.As16()
	body := cat([]byte("weft"), []byte{1, 0, 0, 0}, []byte{1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 8), at[:])
	return ethernet(noMAC, asker, header{src: src}.ethType(),
		header{src: src, dst: dst, proto: protoUDP}.packet(udp(DefaultAnnouncePort, DefaultAnnouncePort, body)))
}

func TestProbesOfOtherNodesAreAnswered(t *testing.T) {
	t.Parallel()
	const off, on = 2, 3 // PROBE_HELD, and PROBE_ON
	other4, other6 := addr("192.0.2.99"), addr("2001:db8::99")
	for _, c := range []struct {
		name    string
		about   netip.Addr
		on      bool
		silence time.Duration
		flags   byte
	}{
		{"announced", lb4, true, 0, on},
		{"announced, the other family", lb6, true, 3 * time.Second, on},
		{"could be announced", lb4, false, 0, off},
		{"not known", addr("198.51.100.8"), true, 0, 0},
		{"announced by a daemon long dead", lb4, true, 20 * time.Second, off},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, 1)
			announces(t, n, c.on)
			silent(t, n, c.silence)
			for src, dst := range map[netip.Addr]netip.Addr{other4: n.outer4, other6: n.outer6} {
				ask := question(src, dst, c.about)
				verdict, got := n.run(t, FromUplink, ask, 0)
				at := len(ask) - 40
				age := time.Duration(binary.BigEndian.Uint32(got[at+16:])) * time.Millisecond
				if age < c.silence || age > c.silence+5*time.Second {
					t.Errorf("age %s, want that of a daemon silent for %s", age, c.silence)
				}
				body := edit(edit(ask[at:], 4, 2, c.flags), 16, got[at+16:at+20]...)
				head := header{src: dst, dst: src, proto: protoUDP, df: true}
				datagram := udp(DefaultAnnouncePort, DefaultAnnouncePort, body)
				copy(datagram[6:], sum(dst.AsSlice(), src.AsSlice(), be32(len(datagram)), be32(protoUDP), datagram))
				want := ethernet(asker, noMAC, head.ethType(), head.packet(datagram))
				if diff := cmp.Diff(got, want); verdict != tcxRedirect || diff != "" {
					t.Errorf("%s: verdict %d, answer (-got +want):\n%s", dst, int32(verdict), diff)
				}
			}
		})
	}
}

func TestAProbeOfANodeThatNeverHadADaemonSaysSo(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	ask := question(addr("192.0.2.99"), n.outer4, lb4)
	verdict, got := n.run(t, FromUplink, ask, 0)
	if age := got[len(got)-24 : len(got)-20]; verdict != tcxRedirect || !cmp.Equal(age, []byte{255, 255, 255, 255}) {
		t.Errorf("verdict %d, age % x", int32(verdict), age)
	}
}

func TestWhatIsNoProbeIsTheStacks(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	announces(t, n, true)
	src := addr("192.0.2.99")
	good := question(src, n.outer4, lb4)
	at := len(good) - 40
	short := header{src: src, dst: n.outer4, proto: protoUDP}.packet(udp(DefaultAnnouncePort, DefaultAnnouncePort, []byte("weft")))
	for name, frame := range map[string][]byte{
		"an answer":               edit(good, at+4, 2),
		"a yield":                 edit(good, at+4, 3),
		"other magic":             edit(good, at, 'W'),
		"to another port":         edit(good, 14+20+2, 0, 9),
		"to no address of ours":   question(src, addr("192.0.2.77"), lb4),
		"to a pod":                question(src, n.pod4, lb4),
		"too short":               ethernet(noMAC, asker, ethIPv4, short),
		"a fragment":              edit(good, 14+6, 0x20, 0),
		"to another MAC":          edit(good, 0, 2, 1, 1, 1, 1, 1),
		"longer than its IP says": cat(good, []byte{0}),
	} {
		want := uint32(tcxNext)
		if name == "longer than its IP says" { // padding of short frames
			want = tcxRedirect
		}
		if verdict, got := n.run(t, FromUplink, frame, 0); verdict != want || (want == tcxNext && !cmp.Equal(got, frame)) {
			t.Errorf("%s: verdict %d, packet % x", name, int32(verdict), got)
		}
	}
}
