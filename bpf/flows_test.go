package bpf

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// Flows are told while they live, stay as long as one side speaks, are forgotten after
// their time with all they took, and a closed connection leaves `live` by itself.
func TestFlowsAreCollected(t *testing.T) {
	w := newTown(t, false)
	for _, vip := range []netip.AddrPort{netip.MustParseAddrPort("10.96.0.50:80"), netip.MustParseAddrPort("[fd00:96::50]:80")} {
		to := w.far.v4
		client := w.near.v4
		if vip.Addr().Is6() {
			to, client = w.far.v6, w.near.v6
		}
		backendEcho(t, w.far.ns, to)
		w.a.serve(t, 50, vip, to)
		var u, c net.Conn
		in(t, w.near.ns, func() {
			var err error
			u, err = net.Dial("udp", vip.String())
			must(t, err)
			c, err = net.Dial("tcp", vip.String())
			must(t, err)
		})
		for range 3 {
			for _, conn := range []net.Conn{u, c} {
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, err := conn.Write([]byte("x"))
				must(t, err)
				_, err = conn.Read(make([]byte, 100))
				must(t, err)
			}
		}
		flows := func(timeouts Timeouts) (all map[Protocol]Flow, forgotten int) {
			all = map[Protocol]Flow{}
			forgotten, err := w.a.Collect(timeouts, func(f Flow) { all[f.Protocol] = f })
			must(t, err)
			return all, forgotten
		}
		all, n := flows(DefaultTimeouts)
		for p, conn := range map[Protocol]net.Conn{TCP: c, UDP: u} {
			f := all[p]
			if f.Client.String() != conn.LocalAddr().String() || f.Service != vip || f.Backend != netip.AddrPortFrom(to, servePort) ||
				f.Source != f.Client || f.Idle > 5*time.Second {
				t.Errorf("%s flow is told as %+v", p, f)
			}
		}
		if len(all) != 2 || n != 0 {
			t.Errorf("got %d flows and %d forgotten, want 2 and 0", len(all), n)
		}
		counts, err := w.a.BackendFlows()
		must(t, err)
		for _, p := range []Protocol{TCP, UDP} {
			if n := counts[Place{to, servePort, p}]; n != 1 {
				t.Errorf("%d %s flows to the backend, want 1", n, p)
			}
		}
		for p, want := range map[Protocol]uint64{TCP: 1, UDP: 1, SCTP: 0} {
			if n, err := w.a.Begun(Place{vip.Addr(), vip.Port(), p}); n != want || err != nil {
				t.Errorf("%d %s flows began (%v), want %d", n, p, err, want)
			}
		}
		// The mark stays while there are flows, and goes with them.
		must(t, w.a.Unmark())
		if !marked(t, w.a.Datapath, client) {
			t.Error("the client of a live flow is not marked any more")
		}
		if _, n = flows(Timeouts{TCP: time.Hour, UDP: -1, Ended: time.Hour}); n != 1 {
			t.Errorf("%d flows forgotten, want that of UDP", n)
		}
		c.Close()
		deadline := time.Now().Add(3 * time.Second)
		for all, _ = flows(DefaultTimeouts); len(all) > 0 && time.Now().Before(deadline); all, _ = flows(DefaultTimeouts) {
			time.Sleep(10 * time.Millisecond)
		}
		if len(all) > 0 {
			t.Errorf("after the end of the connection there is %+v", all)
		}
		u.Close()
		if _, n = flows(Timeouts{TCP: time.Hour, UDP: time.Hour, Ended: -1}); n != 1 {
			t.Errorf("%d flows forgotten, want that which has ended", n)
		}
		rows := 0
		must(t, scan(w.a.Datapath, weftMapLive, func(*weftTuple, *weftFlow) { rows++ }))
		if rows != 0 {
			t.Errorf("%d rows are left in live, want none", rows)
		}
	}
}

func marked(t *testing.T, d *Datapath, a netip.Addr) bool {
	t.Helper()
	k := clientMark(toAddr(a))
	var v uint32
	must(t, d.maps[weftMapClients].Lookup(&k, &v))
	return v != 0
}
