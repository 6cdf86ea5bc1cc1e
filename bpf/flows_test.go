package bpf

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Flows are told while they live, stay as long as one side speaks, are forgotten after
// their time with all they took, and a closed connection is none of them.
func TestFlowsAreCollected(t *testing.T) {
	t.Parallel()
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
		must(t, w.a.scanFlows(func(*weftTuple, *weftFlow) { rows++ }))
		if rows != 0 {
			t.Errorf("%d rows are left, want none", rows)
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

// Pairs of a client and a backend are marked as long as they have flows, where the client
// has its own address, and as the programs mark them.
func TestPairsAreMarked(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		marks := func() (marked []uint32) {
			must(t, scan(p.Datapath, weftMapPairs, func(k *uint32, v *uint32) {
				if *v != 0 {
					marked = append(marked, *k)
				}
			}))
			return marked
		}
		want := []uint32{pairMark(toAddr(p.client.Addr()), toAddr(p.backend.Addr()))}
		step := func(when string, want []uint32) {
			t.Helper()
			if diff := cmp.Diff(marks(), want); diff != "" {
				t.Errorf("v6=%v, %s (-got +want):\n%s", v6, when, diff)
			}
		}
		node := netip.AddrPortFrom(p.outer4, 30080)
		p.serve(t, 8, node, p.other.sib4)
		p.enter(t, netip.MustParseAddrPort("203.0.113.7:20000"), node, syn)
		step("a client whose address the gateway's stands in for", nil)
		p.establish(t, p.client)
		step("with a flow", want)
		must(t, p.Unmark())
		step("looked at", want)
		must(t, p.maps[weftMapPairs].Put(&want[0], new(uint32)))
		must(t, p.Unmark())
		step("after a mark was lost", want)
		_, err := p.Collect(Timeouts{TCP: -1}, nil)
		must(t, err)
		// As of another time than now: such a mark could be one of a flow that comes.
		must(t, p.maps[weftMapPairs].Put(&want[0], new(uint32(1))))
		must(t, p.Unmark())
		step("without flows", nil)
		must(t, p.Adopt(AdoptedFlow{Flow: Flow{Protocol: TCP, Client: p.client, Source: p.client, Service: p.vip, Backend: p.backend}, Generation: 1, Answered: true}))
		step("with a flow that was adopted", want)
	}
}

// Also a machine that has just started may have been told of what was long ago.
func TestIdleSince(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		now  time.Duration
		ago  time.Duration
		want time.Duration
	}{
		{3 * time.Hour, time.Hour, time.Hour}, {time.Minute, time.Hour, time.Hour}, {time.Minute, 0, 0},
		{time.Minute, -2 * flowTick, 0}, // a packet has passed since the look at the clock
	} {
		got := idleSince(tc.now, uint32(int64(tc.now/flowTick)-int64(tc.ago/flowTick)))
		if got < tc.want-flowTick || got > tc.want+flowTick {
			t.Errorf("at %v, %v ago: got %v, want %v", tc.now, tc.ago, got, tc.want)
		}
	}
}
