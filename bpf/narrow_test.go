package bpf

import (
	"net/netip"
	"testing"
)

// Where a node's way to a client is narrower than its pods' links, a pod of the node that
// answers through a Service learns of it, and what it sends then arrives: also from an address
// that is the node's own.
func TestNarrowWayToAClient(t *testing.T) {
	t.Parallel()
	w := newTown(t, false)
	backendEcho(t, w.near.ns, w.near.v4)
	backendEcho(t, w.near.ns, w.near.v6)
	ip(t, w.a.ns, "route replace %s/32 dev uplink mtu lock 1300", w.outside.outer4)
	ip(t, w.a.ns, "-6 route replace %s/128 dev uplink mtu lock 1300", w.outside.outer6)
	id := SetID(100)
	for _, f := range []struct{ node, vip, backend netip.Addr }{
		{w.a.outer4, addr("203.0.113.50"), w.near.v4},
		{w.a.outer6, addr("2001:db8:50::50"), w.near.v6},
	} {
		ip(t, w.outside.ns, "route add %s via %s", netip.PrefixFrom(f.vip, f.vip.BitLen()), f.node)
		for _, place := range []netip.Addr{f.node, f.vip} {
			id++
			at := netip.AddrPortFrom(place, uint16(id))
			w.a.serve(t, id, at, f.backend)
			for _, network := range []string{"udp", "tcp"} {
				var err error
				for range 5 { // of a datagram nobody says that it is lost
					if _, err = askService(t, w.outside.ns, network, at, 1380); err == nil {
						break
					}
				}
				if err != nil {
					t.Errorf("%s, %s: %v", network, at, err)
				}
			}
		}
	}
	if w.a.counts(t)["reject too-big-for-backend"] == 0 {
		t.Errorf("no packet was too big: counters %v", w.a.counts(t))
	}
}
