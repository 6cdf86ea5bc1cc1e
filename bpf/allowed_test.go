package bpf

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A flow of an isolated pod is new until both ends know of each other; then nothing pushes
// it out until it has ended.
func TestLifeOfAllowedFlows(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		p.rules(t, setOut, 0, allowAll)
		p.isolate(t, p.client.Addr(), setOut, setOut)
		type step struct {
			back  bool
			flags byte
			want  string
		}
		const fresh, live = "allowed_new", "allowed"
		port := 20000
		for name, c := range map[string]struct {
			proto Protocol
			steps []step
		}{
			"pod closes":        {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {true, ack, live}, {false, fin | ack, live}, {true, fin | ack, fresh}, {false, ack, fresh}}},
			"peer closes":       {TCP, []step{{true, syn, fresh}, {false, syn | ack, fresh}, {true, ack, live}, {true, fin | ack, live}, {false, ack, live}, {false, fin | ack, fresh}}},
			"reset":             {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {true, rst, fresh}, {false, ack, fresh}}},
			"refused, then not": {TCP, []step{{false, syn, fresh}, {true, rst | ack, fresh}, {false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}}},
			"begins anew":       {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {false, rst, fresh}, {false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}}},
			"its end was missed": {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {false, fin | ack, live}, {false, syn, live},
				{true, syn | ack, live}, {false, ack, live}, {true, fin | ack, live}, {false, fin | ack, fresh}}},
			"in the middle":         {TCP, []step{{false, ack, fresh}, {true, ack, fresh}, {false, ack, live}}},
			"a reset of nothing":    {TCP, []step{{false, rst, ""}}},
			"asked, answered, on":   {UDP, []step{{false, 0, fresh}, {true, 0, fresh}, {true, 0, fresh}, {false, 0, live}}},
			"asked again, no reply": {UDP, []step{{false, 0, fresh}, {false, 0, fresh}}},
			"association":           {SCTP, []step{{true, 0, fresh}, {false, 0, fresh}, {true, 0, live}}},
		} {
			port++
			client := p.clientAt(port)
			for i, s := range c.steps {
				var verdict uint32
				if s.back {
					verdict, _ = p.answer(t, datagram(c.proto, p.backend, client, 64, s.flags, load))
				} else {
					verdict, _ = p.send(t, datagram(c.proto, client, p.backend, 64, s.flags, load))
				}
				got, _ := p.allowedIn(t, c.proto, client, p.backend)
				if verdict != tcxRedirect || got != s.want {
					t.Fatalf("v6=%v, %s, step %d: verdict %d, row in %q, want %q", v6, name, i, int32(verdict), got, s.want)
				}
			}
		}
	}
}

// A flood of flows that nobody answers pushes out no live one; and where there is no room
// for another live one, that goes on, counted, and so do those that live.
func TestFloodPushesOutNothingAllowed(t *testing.T) {
	p := newLaneWith(t, false, true, Options{MaxAllowed: 2, MaxAllowedNew: 512})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	establish := func(port int) {
		t.Helper()
		for i, flags := range []byte{syn, syn | ack, ack, ack} {
			packet := datagram(TCP, p.clientAt(port), p.backend, 64, flags, nil)
			send := p.send
			if i%2 == 1 {
				packet, send = datagram(TCP, p.backend, p.clientAt(port), 64, flags, nil), p.answer
			}
			if verdict, _ := send(t, packet); verdict != tcxRedirect {
				t.Fatalf("step %d from %d: verdict %d, counters %v", i, port, int32(verdict), p.counts(t))
			}
		}
	}
	full := func() uint64 {
		n, err := p.AllowedFull()
		must(t, err)
		return n
	}
	establish(1001)
	establish(1002)
	if full() != 0 {
		t.Errorf("counted %d before it was full", full())
	}
	establish(1003)
	if full() == 0 || p.AllowedRoom() != 2 {
		t.Errorf("a third flow of %d: counted %d", p.AllowedRoom(), full())
	}
	for port := range 2000 {
		p.send(t, datagram(TCP, p.clientAt(2000+port), p.backend, 64, syn, nil))
	}
	for _, port := range []int{1001, 1002} {
		if verdict, _ := p.answer(t, datagram(TCP, p.backend, p.clientAt(port), 64, ack, nil)); verdict != tcxRedirect {
			t.Errorf("after the flood an answer to %d: verdict %d", port, int32(verdict))
		}
	}
	// One that ends makes room.
	p.send(t, datagram(TCP, p.clientAt(1001), p.backend, 64, rst, nil))
	establish(1004)
	if got, _ := p.allowedIn(t, TCP, p.clientAt(1004), p.backend); got != weftMapAllowed {
		t.Errorf("after another has ended, a new one is in %q", got)
	}
}

// Flows are told as they are, and forgotten when they have been silent too long.
func TestAllowedFlowsAreCollected(t *testing.T) {
	p := newLane(t, true, true)
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setOut, setOut)
	for _, proto := range ported {
		p.there(t, proto, syn)
		p.back(t, proto, syn|ack)
		p.there(t, proto, ack)
	}
	collect := func(timeouts Timeouts) (map[Protocol]AllowedFlow, int) {
		all := map[Protocol]AllowedFlow{}
		n, err := p.CollectAllowed(timeouts, func(f AllowedFlow) { all[f.Protocol] = f })
		must(t, err)
		return all, n
	}
	want := map[Protocol]AllowedFlow{}
	for _, proto := range ported {
		want[proto] = AllowedFlow{Local: p.client, Remote: p.backend, Protocol: proto, PodOpened: true}
	}
	ignore := cmpopts.IgnoreFields(AllowedFlow{}, "Idle")
	equate := cmpopts.EquateComparable(netip.AddrPort{})
	got, n := collect(DefaultTimeouts)
	if diff := cmp.Diff(got, want, ignore, equate); diff != "" || n != 0 {
		t.Errorf("%d forgotten (-got +want):\n%s", n, diff)
	}
	p.age(t, time.Hour)
	delete(want, UDP)
	got, n = collect(DefaultTimeouts)
	if diff := cmp.Diff(got, want, ignore, equate); diff != "" || n != 1 || got[TCP].Idle < time.Hour-2*flowTick {
		t.Errorf("after an hour %d forgotten, idle %s (-got +want):\n%s", n, got[TCP].Idle, diff)
	}
	p.there(t, TCP, ack)
	p.age(t, 80*time.Minute)
	if got, n = collect(DefaultTimeouts); n != 1 || len(got) != 1 || got[TCP] == (AllowedFlow{}) {
		t.Errorf("an hour later %d forgotten, left %v", n, got)
	}
}

// Connections that began before their pod was isolated are judged as their opener's, and
// what the node has opened always passes; adopting again changes nothing.
func TestAdoptedFlowsOfPods(t *testing.T) {
	families(t, func(t *testing.T, p *lane) {
		node := netip.AddrPortFrom(p.gw4, 7000)
		if p.client.Addr().Is6() {
			node = netip.AddrPortFrom(p.gw6, 7000)
		}
		p.rules(t, setOut, 0, allowPort(TCP, servePort))
		p.rules(t, setIn, 0, allowPort(TCP, 1))
		byPod, byPeer, byNode := p.clientAt(5001), p.clientAt(5002), p.clientAt(5003)
		flows := []AllowedFlow{
			{Local: byPod, Remote: p.backend, Protocol: TCP, PodOpened: true},
			{Local: byPeer, Remote: p.backend, Protocol: TCP},
			{Local: byNode, Remote: node, Protocol: TCP},
		}
		must(t, p.AdoptAllowed(p.client.Addr(), flows))
		p.isolate(t, p.client.Addr(), setIn, setOut)
		back := func(to netip.AddrPort) func() uint32 {
			return func() uint32 {
				verdict, _ := p.answer(t, datagram(TCP, p.backend, to, 64, ack, nil))
				return verdict
			}
		}
		there := func(from, to netip.AddrPort) func() uint32 {
			return func() uint32 {
				verdict, _ := p.send(t, datagram(TCP, from, to, 64, ack, nil))
				return verdict
			}
		}
		p.walkThrough(t, "policy-ingress", []step{
			{"to what the pod has opened", true, back(byPod)}, {"of it", true, there(byPod, p.backend)},
			{"what the peer has opened", false, back(byPeer)}, {"its answer", false, there(byPeer, p.backend)},
			{"answer to the node", true, there(byNode, node)},
		})
		dump := func() map[weftTuple]weftAllowed {
			rows := map[weftTuple]weftAllowed{}
			must(t, scan(p.Datapath, weftMapAllowed, func(k *weftTuple, v *weftAllowed) { rows[*k] = *v }))
			return rows
		}
		before := dump()
		flows[0].PodOpened = false
		must(t, p.AdoptAllowed(p.client.Addr(), flows))
		if diff := cmp.Diff(dump(), before); diff != "" {
			t.Errorf("adopted again (-got +want):\n%s", diff)
		}
		if err := p.AdoptAllowed(p.client.Addr(), []AllowedFlow{{Local: p.backend, Remote: p.client, Protocol: TCP}}); err == nil {
			t.Error("adopted a flow that ends at another pod")
		}
		p.send(t, datagram(TCP, p.clientAt(5004), p.backend, 64, syn, nil))
		must(t, p.AdoptAllowed(p.client.Addr(), []AllowedFlow{{Local: p.clientAt(5004), Remote: p.backend, Protocol: TCP}}))
		if m, flags := p.allowedIn(t, TCP, p.clientAt(5004), p.backend); m != weftMapAllowedNew || flags&allowedByPod == 0 {
			t.Errorf("one that the programs knew is in %q with flags %#x", m, flags)
		}
	})
	d := newLaneWith(t, false, true, Options{MaxAllowed: 1})
	err := d.AdoptAllowed(d.client.Addr(), []AllowedFlow{
		{Local: d.clientAt(1), Remote: d.backend, Protocol: TCP}, {Local: d.clientAt(2), Remote: d.backend, Protocol: TCP},
	})
	if !errors.Is(err, ErrFull) {
		t.Errorf("more than there is room for: %v, want ErrFull", err)
	}
}

// What the node sends in a flow that was adopted as another's is the node's from then on.
func TestNodesFlowsStayOpen(t *testing.T) {
	p := newLane(t, false, true)
	uplinkAddr := netip.MustParseAddrPort("203.0.113.9:7000") // an address of the node that has no row
	must(t, p.AdoptAllowed(p.client.Addr(), []AllowedFlow{{Local: p.client, Remote: uplinkAddr, Protocol: TCP}}))
	p.isolate(t, p.client.Addr(), setIn, setOut)
	answer := func() uint32 {
		verdict, _ := p.send(t, datagram(TCP, p.client, uplinkAddr, 64, ack, nil))
		return verdict
	}
	p.walkThrough(t, "policy-ingress", []step{
		{"its answer", false, answer},
		{"the node sends", true, func() uint32 { return p.deliver(t, 0, datagram(TCP, uplinkAddr, p.client, 64, ack, nil)) }},
		{"its answer", true, answer},
	})
}

// Rows of flows outlive a daemon and its layout, which judges them anew.
func TestAllowedFlowsOutliveLayouts(t *testing.T) {
	dir := bpffs(t)
	p := newLaneWith(t, false, true, Options{Dir: dir})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	p.there(t, TCP, syn)
	p.back(t, TCP, syn|ack)
	p.there(t, TCP, ack)
	q := newLaneWith(t, false, true, Options{Dir: dir, MaxPeers: 32})
	if p.Layout() == q.Layout() {
		t.Fatal("the layout is the same")
	}
	q.rules(t, setOut, 0, allowAll)
	q.isolate(t, q.client.Addr(), setIn, setOut)
	q.walkThrough(t, "policy-ingress", []step{{"an answer", true, func() uint32 { return q.back(t, TCP, ack) }}})
	q.isolate(t, q.client.Addr(), setIn, setIn)
	q.walkThrough(t, "policy-egress", []step{{"an answer when it is denied", false, func() uint32 { return q.back(t, TCP, ack) }}})
}
