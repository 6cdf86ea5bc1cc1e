package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// returning is what a daemon wants another node to send back.
func returning(nonce byte) []byte {
	return cat([]byte("weft"), []byte{4, 0, 0, 0}, []byte{1, 2, 3, 4, 5, 6, 7, nonce}, make([]byte, 24))
}

const returningNonce = 0x0102030405060700

// asked is a probe from node a to node b, of which the answer is to come from an address.
func (r *relay) asked(from, src, dst netip.Addr, body []byte) []byte {
	outer := header{src: from, dst: r.b.outer4, proto: protoUDP}.packet(udp(50000, 8872, inTunnel(src, dst, body)))
	return ethernet(noMAC, mac{2}, ethType(outer), outer)
}

// inTunnel is a probe as the payload of the tunnel's datagram.
func inTunnel(src, dst netip.Addr, body []byte) []byte {
	p := datagram(UDP, netip.AddrPortFrom(src, DefaultAnnouncePort), netip.AddrPortFrom(dst, DefaultAnnouncePort), 64, 0, body)
	return vxlan(8, 88, ethernet(mac{2}, mac{2}, ethType(p), p))
}

// A node sends a probe back from the address that it is to, whosever that is, and by its own
// way as it would an answer to a client.
func TestProbesAreSentBackFromTheAddressThatWasAsked(t *testing.T) {
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		w := newPassingTown(t, outer6, false)
		from, to := w.a.outer4, w.b.outer4
		if outer6 {
			from, to = w.a.outer6, w.b.outer6
		}
		var socket net.PacketConn
		in(t, w.a.ns, func() {
			var err error
			socket, err = net.ListenPacket("udp", netip.AddrPortFrom(from, 0).String())
			must(t, err)
			must(t, noChecksum(socket.(*net.UDPConn), outer6))
		})
		defer socket.Close()
		nonce := byte(0)
		for _, c := range []struct{ src, dst netip.Addr }{
			{w.a.outer4, lb4}, {w.a.outer6, lb6}, {w.a.outer4, w.b.outer4}, {w.a.outer6, w.b.outer6}, {w.a.outer4, w.a.outer4},
		} {
			// The first packets may wait for the neighbour in vain.
			testnet.Until(t, 10*time.Second, func() error {
				nonce++
				must(t, w.a.AwaitReturn(returningNonce+uint64(nonce)))
				_, err := socket.WriteTo(inTunnel(c.src, c.dst, returning(nonce)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 8872)))
				must(t, err)
				return testnet.Wait(within(t, 300*time.Millisecond), func() error {
					if back, err := w.a.Returned(returningNonce + uint64(nonce)); err != nil || back {
						return err
					}
					must(t, w.a.AwaitReturn(returningNonce+uint64(nonce)))
					return fmt.Errorf("from %s to %s: nothing came back, counters %v %v", c.src, c.dst, w.a.counts(t), w.b.counts(t))
				})
			})
		}
		w.nothingLost(t, false)
	}
}

// within is a context that ends then.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// noChecksum makes a socket's datagrams ones without a checksum, as a tunnel's are.
func noChecksum(c *net.UDPConn, v6 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if v6 {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, 1)
		} else {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
		}
	})
	return errors.Join(err, set)
}

func TestOnlyNodesProbesAreSentBack(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	sentBack := func(frame []byte) ([]byte, bool) { // its verdict depends on the neighbours known
		_, got := r.b.run(t, FromUplink, frame, 0)
		return got, got[23] == protoUDP && netip.AddrFrom4([4]byte(got[26:])) == lb4
	}
	if got, ok := sentBack(r.asked(r.a.outer4, r.a.outer4, lb4, returning(1))); !ok {
		t.Errorf("a node's probe is not sent back: % x", got)
	}
	for name, frame := range map[string][]byte{
		"of a stranger":     r.asked(addr("192.0.2.99"), r.a.outer4, lb4, returning(1)),
		"another kind":      r.asked(r.a.outer4, r.a.outer4, lb4, edit(returning(1), 4, 1)),
		"something else":    r.asked(r.a.outer4, r.a.outer4, lb4, edit(returning(1), 0, 'W')),
		"less than a probe": r.asked(r.a.outer4, r.a.outer4, lb4, []byte("weft")),
	} {
		if got, ok := sentBack(frame); ok {
			t.Errorf("%s is sent back: % x", name, got)
		}
	}
}

// Numbers that nobody asks for any more do not keep others out.
func TestForgottenReturnsMakeRoom(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	for i := range uint64(20_000) {
		must(t, n.AwaitReturn(returningNonce+1000+i))
	}
	must(t, n.AwaitReturn(returningNonce+1))
	p := datagram(UDP, netip.AddrPortFrom(lb4, DefaultAnnouncePort), netip.AddrPortFrom(n.outer4, DefaultAnnouncePort), 63, 0, returning(1))
	n.run(t, FromUplink, ethernet(noMAC, asker, ethType(p), p), 0)
	if got, err := n.Returned(returningNonce + 1); !got || err != nil {
		t.Errorf("returned %v, %v; want it noted", got, err)
	}
}

// What comes back counts if it is awaited, once, and goes no further.
func TestReturnsAreNotedIfTheyAreAwaited(t *testing.T) {
	t.Parallel()
	for src, dst := range map[netip.Addr]bool{lb4: false, lb6: true} {
		n := newNode(t, 1)
		to := n.outer4
		if dst {
			to = n.outer6
		}
		frame := func(nonce byte) []byte {
			p := datagram(UDP, netip.AddrPortFrom(src, DefaultAnnouncePort), netip.AddrPortFrom(to, DefaultAnnouncePort), 63, 0, returning(nonce))
			return ethernet(noMAC, asker, ethType(p), p)
		}
		must(t, n.AwaitReturn(returningNonce+1))
		must(t, n.AwaitReturn(returningNonce+2))
		if verdict, got := n.run(t, FromUplink, frame(3), 0); verdict != tcxNext || !cmp.Equal(got, frame(3)) {
			t.Errorf("%s, not awaited: verdict %d, packet % x", src, int32(verdict), got)
		}
		if verdict, _ := n.run(t, FromUplink, frame(1), 0); verdict != tcxDrop {
			t.Errorf("%s: verdict %d, want it to end here", src, int32(verdict))
		}
		for nonce, want := range []bool{1: true, 2: false, 3: false} {
			for _, want := range []bool{want, false} {
				if got, err := n.Returned(returningNonce + uint64(nonce)); got != want || err != nil {
					t.Errorf("%s, number %d: returned %v, %v, want %v", src, nonce, got, err, want)
				}
			}
		}
		if counts := n.counts(t); len(counts) > 0 {
			t.Errorf("counters %v", counts)
		}
	}
}

// mute says on a node whether another one can answer clients itself.
func (r *relay) mute(t testing.TB, n, other *node, mute bool) {
	t.Helper()
	rows, err := n.Peers().Dump()
	must(t, err)
	for prefix, row := range rows {
		if row.Remote != other.outer4 && row.Remote != other.outer6 {
			continue
		}
		row.Flags &^= PeerMute
		if mute {
			row.Flags |= PeerMute
		}
		must(t, n.Peers().Set(prefix, row))
	}
}

// New flows to a node whose answers do not arrive are translated by the node that is asked,
// as are those that had no answer yet; open connections stay.
func TestFlowsToAMuteNodeAreTranslatedByTheFirst(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		r := newRelay(t, v6, false)
		b := r.pod(r.b)
		for _, n := range r.nodes() {
			r.knows(t, n, b)
		}
		send := func(proto Protocol, port uint16, flags byte) (way string, src netip.AddrPort) {
			t.Helper()
			client := netip.AddrPortFrom(r.client.Addr(), port)
			way, out := r.carry(t, r.a, datagram(proto, client, r.at, 64, flags, nil))
			if out == nil {
				t.Fatalf("%s: lost, counters %v", proto, r.a.counts(t))
			}
			src, _ = tupleOf(out)
			return way, src
		}
		want := func(what string, proto Protocol, port uint16, flags byte, passed bool) {
			t.Helper()
			way, src := send(proto, port, flags)
			wantWay := map[bool]string{true: "ab", false: "a>"}[passed]
			if way != wantWay || (src.Addr() == r.client.Addr()) != passed {
				t.Errorf("v6=%v, %s: way %s, the backend sees %s, want way %s", v6, what, way, src, wantWay)
			}
		}
		want("a connection", TCP, 40000, syn, true)
		want("another", TCP, 40001, syn, true)
		want("a datagram", UDP, 40000, 0, true)
		r.mute(t, r.a, r.b, true)
		want("an open connection", TCP, 40000, ack, true)
		want("one that is tried again", TCP, 40001, syn, false)
		want("it goes on", TCP, 40001, ack, false)
		want("a new connection", TCP, 40002, syn, false)
		want("a new flow of datagrams", UDP, 40002, 0, false)
		testnet.Until(t, 10*time.Second, func() error {
			if way, _ := send(UDP, 40000, 0); way != "a>" {
				return &wrongWay{way}
			}
			return nil
		})
		r.mute(t, r.a, r.b, false)
		want("it has been translated here", TCP, 40002, ack, false)
		want("a connection afterwards", TCP, 40003, syn, true)
		want("datagrams afterwards", UDP, 40003, 0, true)
	}
}

type wrongWay struct{ way string }

func (w *wrongWay) Error() string { return "way " + w.way }

// A flow counts where it is asked for, once, whoever has to choose again.
func TestPassedFlowsCountOnce(t *testing.T) {
	t.Parallel()
	r := newRelay(t, false, false)
	begun := func(what string, want [3]uint64) {
		t.Helper()
		var got [3]uint64
		for i, n := range r.nodes() {
			var err error
			got[i], err = n.Begun(Place{r.at.Addr(), r.at.Port(), TCP})
			must(t, err)
		}
		if got != want {
			t.Errorf("%s: begun %v, want %v", what, got, want)
		}
	}
	b, c := r.b.pod4, r.c.pod4
	for _, n := range r.nodes() {
		r.knows(t, n, b)
	}
	for _, flags := range []byte{syn, syn, ack} {
		r.want(t, "both know", r.a, flags, "ab", r.client, b)
	}
	begun("both know", [3]uint64{1, 0, 0})
	r.knows(t, r.b, r.b.sib4)
	r.knows(t, r.c, c)
	r.client = netip.AddrPortFrom(r.client.Addr(), 41000)
	r.want(t, "the second has another", r.a, syn, "ab", r.client, r.b.sib4)
	begun("the second has another", [3]uint64{2, 0, 0})
	r.knows(t, r.b, c)
	begun("rows are written anew", [3]uint64{2, 0, 0})
	r.client = netip.AddrPortFrom(r.client.Addr(), 42000)
	r.want(t, "the third has it", r.a, syn, "abc", r.client, c)
	begun("the third has it", [3]uint64{3, 0, 0})
	r.client = netip.AddrPortFrom(r.client.Addr(), 43000)
	r.want(t, "asked itself", r.c, syn, "c", r.client, c)
	begun("asked itself", [3]uint64{3, 0, 1})
}
