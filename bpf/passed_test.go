package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// servePassing programs a Service on a node, of which the backends' nodes translate what comes
// from outside.
func (d *Datapath) servePassing(t testing.TB, id SetID, at netip.AddrPort, backends ...netip.Addr) {
	t.Helper()
	d.serve(t, id, at, backends...)
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		must(t, d.Services().Frontends.Set(Place{at.Addr(), at.Port(), p}, Frontend{Inside: id, Outside: id, Flags: FrontendPass}))
	}
}

// newPassingTown is a town whose nodes may pass packets on to each other; the client's way
// to addresses of Services leads through node a.
func newPassingTown(t *testing.T, outer6, direct bool) town {
	t.Helper()
	w := newTown(t, outer6)
	for h, other := range map[*host]*host{w.a: w.b, w.b: w.a} {
		if direct {
			h.knows(other, outer6, true)
		}
		to4, to6 := h.outer4, h.outer6
		if outer6 {
			to4 = netip.Addr{}
		} else {
			to6 = netip.Addr{}
		}
		must(t, h.Nodes().Set(other.outer4, to4))
		must(t, h.Nodes().Set(other.outer6, to6))
		must(t, h.Own().Set(Stand{Ports: true}, h.outer4))
		must(t, h.Own().Set(Stand{Ports: true, IPv6: true}, h.outer6))
	}
	ip(t, w.outside.ns, "route add 198.51.100.0/24 via %s", w.a.outer4)
	ip(t, w.outside.ns, "route add 2001:db8:1::/64 via %s", w.a.outer6)
	return w
}

// watch counts the frames that a node gets and that it sends, at its uplink.
func (h *host) watch(t testing.TB) (got, sent uint64) {
	t.Helper()
	in(t, h.ns, func() {
		l, err := netlink.LinkByIndex(h.uplink.Attrs().Index)
		must(t, err)
		got, sent = l.Attrs().Statistics.RxPackets, l.Attrs().Statistics.TxPackets
	})
	return got, sent
}

// nothingLost wants no counter but those of packets that are nobody's.
func (w town) nothingLost(t testing.TB, direct bool) {
	t.Helper()
	for _, h := range []*host{w.a, w.b} {
		for reason, n := range h.counts(t) {
			// In direct mode the pods' MTU is more than the tunnel's: clients learn.
			if reason != "drop link-local" && (!direct || reason != "reject too-big-for-backend") {
				t.Errorf("node %d: %s %d", h.n, reason, n)
			}
		}
	}
}

// passedPlaces are what a client outside asks through node a.
func (w town) passedPlaces() map[string]struct{ at, backend, client netip.Addr } {
	return map[string]struct{ at, backend, client netip.Addr }{
		"address":        {addr("198.51.100.10"), w.far.v4, w.outside.outer4},
		"address, IPv6":  {addr("2001:db8:1::10"), w.far.v6, w.outside.outer6},
		"node port":      {w.a.outer4, w.far.v4, w.outside.outer4},
		"node port IPv6": {w.a.outer6, w.far.v6, w.outside.outer6},
	}
}

// passed programs a place on both nodes; a node port at b's own address.
func (w town) passed(t testing.TB, id SetID, at netip.AddrPort, backends ...netip.Addr) {
	t.Helper()
	w.a.servePassing(t, id, at, backends...)
	switch at.Addr() {
	case w.a.outer4:
		at = netip.AddrPortFrom(w.b.outer4, at.Port())
	case w.a.outer6:
		at = netip.AddrPortFrom(w.b.outer6, at.Port())
	}
	w.b.servePassing(t, id, at, backends...)
}

// A backend on another node sees the client itself, and its node answers the client: what
// the first node sends is what it passes on, and it gets no more than the client sends.
func TestPassedOnKeepsTheClient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ outer6, direct bool }{{false, false}, {true, false}, {false, true}} {
		t.Run(fmt.Sprintf("outer6=%v direct=%v", c.outer6, c.direct), func(t *testing.T) {
			w := newPassingTown(t, c.outer6, c.direct)
			backendEcho(t, w.far.ns, w.far.v4)
			backendEcho(t, w.far.ns, w.far.v6)
			id := SetID(100)
			for name, p := range w.passedPlaces() {
				id++
				at := netip.AddrPortFrom(p.at, uint16(1000+id))
				w.passed(t, id, at, p.backend)
				for _, network := range []string{"tcp", "udp"} {
					for _, size := range []int{1, 1000} {
						seen, err := askService(t, w.outside.ns, network, at, size)
						if err != nil || seen != p.client.String() {
							t.Errorf("%s, %s, %d bytes: backend saw %q, %v, want %s", name, network, size, seen, err, p.client)
						}
					}
				}
				gotBefore, sentBefore := w.a.watch(t)
				if seen, err := askService(t, w.outside.ns, "tcp", at, 1<<20); err != nil || seen != p.client.String() {
					t.Errorf("%s, stream: backend saw %q, %v, want %s", name, seen, err, p.client)
				}
				got, sent := w.a.watch(t)
				got, sent = got-gotBefore, sent-sentBefore
				// A few of neighbour discovery.
				if got > sent+10 || sent > got+10 {
					t.Errorf("%s: node a got %d frames and sent %d: answers went through it", name, got, sent)
				}
			}
			w.nothingLost(t, c.direct)
		})
	}
}

// A client that asks a port at which the backend does not listen is refused.
func TestPassedOnPortUnreachable(t *testing.T) {
	t.Parallel()
	w := newPassingTown(t, false, false)
	id := SetID(130)
	for name, p := range w.passedPlaces() {
		id++
		at := netip.AddrPortFrom(p.at, uint16(1000+id))
		w.passed(t, id, at, p.backend)
		for _, network := range []string{"tcp", "udp"} {
			if _, err := askService(t, w.outside.ns, network, at, 1); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s, %s: %v, want refused", name, network, err)
			}
		}
	}
	w.nothingLost(t, false)
}

// What does not fit into the tunnel is told by the address that was asked.
func TestPassedOnTooBig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		outer6, direct bool
		mtu            int
	}{{false, false, 1450}, {true, false, 1430}, {false, true, 1450}} {
		w := newPassingTown(t, c.outer6, c.direct)
		if c.direct {
			w.a.setPeerMTU(t, 1500)
		}
		backendEcho(t, w.far.ns, w.far.v4)
		backendEcho(t, w.far.ns, w.far.v6)
		id := SetID(140)
		for name, p := range w.passedPlaces() {
			id++
			at := netip.AddrPortFrom(p.at, uint16(1000+id))
			w.passed(t, id, at, p.backend)
			mtu, err := pathMTU(t, w.outside.ns, at, 1440)
			if err != nil || mtu != c.mtu {
				t.Errorf("%v, %s: MTU %d, %v, want %d", c, name, mtu, err, c.mtu)
			}
			if _, err := askService(t, w.outside.ns, "udp", at, 1440); err != nil {
				t.Errorf("%v, %s: after that, in fragments: %v", c, name, err)
			}
		}
	}
}

func (h *host) setPeerMTU(t testing.TB, mtu uint32) {
	t.Helper()
	rows, err := h.Peers().Dump()
	must(t, err)
	for prefix, p := range rows {
		p.MTU = mtu
		must(t, h.Peers().Set(prefix, p))
	}
}
