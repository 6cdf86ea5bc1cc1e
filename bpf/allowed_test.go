package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A flow of an isolated pod is new until both ends know of each other; then it lives until
// it has ended.
func TestLifeOfAllowedFlows(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, pushed := range []bool{false, true} {
			// Of so few rows each flow is pushed out by eight others.
			p := newLaneWith(t, v6, true, Options{MaxAllowedNew: allowedWays})
			p.rules(t, setOut, 0, allowAll)
			p.isolate(t, p.client.Addr(), setOut, setOut)
			type step struct {
				back  bool
				flags byte
				want  string
			}
			const none, fresh, live, ended = "", "new", "live", "ended"
			port := 20000
			for name, c := range map[string]struct {
				proto Protocol
				steps []step
			}{
				"pod closes":        {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {true, ack, live}, {false, fin | ack, live}, {true, fin | ack, ended}, {false, ack, ended}}},
				"peer closes":       {TCP, []step{{true, syn, fresh}, {false, syn | ack, fresh}, {true, ack, live}, {true, fin | ack, live}, {false, ack, live}, {false, fin | ack, ended}}},
				"reset":             {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {true, rst, ended}, {false, ack, ended}}},
				"refused, then not": {TCP, []step{{false, syn, fresh}, {true, rst | ack, ended}, {false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}}},
				"begins anew":       {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {false, rst, ended}, {false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}}},
				"its end was missed": {TCP, []step{{false, syn, fresh}, {true, syn | ack, fresh}, {false, ack, live}, {false, fin | ack, live}, {false, syn, live},
					{true, syn | ack, live}, {false, ack, live}, {true, fin | ack, live}, {false, fin | ack, ended}}},
				"in the middle":         {TCP, []step{{false, ack, fresh}, {true, ack, fresh}, {false, ack, live}}},
				"a reset of nothing":    {TCP, []step{{false, rst, none}}},
				"asked, answered, on":   {UDP, []step{{false, 0, fresh}, {true, 0, fresh}, {true, 0, fresh}, {false, 0, live}}},
				"asked again, no reply": {UDP, []step{{false, 0, fresh}, {false, 0, fresh}}},
				"association":           {SCTP, []step{{true, 0, fresh}, {false, 0, fresh}, {true, 0, live}}},
			} {
				port++
				client, home := p.clientAt(port), weftMapAllowedNew
				for i, s := range c.steps {
					var verdict uint32
					if s.back {
						verdict, _ = p.answer(t, datagram(c.proto, p.backend, client, 64, s.flags, load))
					} else {
						verdict, _ = p.send(t, datagram(c.proto, client, p.backend, 64, s.flags, load))
					}
					m, flags := p.allowedIn(t, c.proto, client, p.backend)
					got := none
					switch {
					case m == "":
					case flags&allowedClosed != 0:
						got, home = ended, weftMapAllowedNew
					case flags&allowedLive != 0:
						got = live
					default:
						got = fresh
					}
					if verdict != tcxRedirect || got != s.want || got != none && m != home {
						t.Fatalf("v6=%v, pushed=%v, %s, step %d: verdict %d, %q in %q, want %q in %q", v6, pushed, name, i, int32(verdict), got, m, s.want, home)
					}
					if pushed && got == live {
						p.halfOpen(t, allowedWays)
						home = weftMapAllowed
						if m, _ := p.allowedIn(t, c.proto, client, p.backend); m != home {
							t.Fatalf("v6=%v, %s, step %d: pushed, it is in %q", v6, name, i, m)
						}
					}
				}
			}
		}
	}
}

// halfOpen begins so many connections that nobody answers, with two packets each.
func (p *lane) halfOpen(t testing.TB, connections int) {
	t.Helper()
	for i := range connections {
		for range 2 {
			if verdict, _ := p.send(t, datagram(TCP, p.clientAt(30000+i), p.backend, 64, syn, nil)); verdict != tcxRedirect {
				t.Fatalf("connection %d of a flood: verdict %d, counters %v", i, int32(verdict), p.counts(t))
			}
		}
	}
}

// connect opens a connection from a port of the client.
func (p *lane) connect(t testing.TB, port int) {
	t.Helper()
	for i, flags := range []byte{syn, syn | ack, ack, ack} {
		packet, send := datagram(TCP, p.clientAt(port), p.backend, 64, flags, nil), p.send
		if i%2 == 1 {
			packet, send = datagram(TCP, p.backend, p.clientAt(port), 64, flags, nil), p.answer
		}
		if verdict, _ := send(t, packet); verdict != tcxRedirect {
			t.Fatalf("step %d from %d: verdict %d, counters %v", i, port, int32(verdict), p.counts(t))
		}
	}
}

// isAnswered says whether what the backend sends in a connection passes.
func (p *lane) isAnswered(t testing.TB, port int) bool {
	t.Helper()
	verdict, _ := p.answer(t, datagram(TCP, p.backend, p.clientAt(port), 64, ack, nil))
	return verdict == tcxRedirect
}

// A flood of flows that nobody answers pushes out no live one, nor do many live ones.
func TestFloodPushesOutNothingAllowed(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxAllowedNew: 64})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	for port := range 200 {
		p.connect(t, 1000+port)
	}
	p.halfOpen(t, 2000)
	for port := range 200 {
		if !p.isAnswered(t, 1000+port) {
			t.Errorf("after the flood an answer to %d did not pass", 1000+port)
		}
	}
	if n, err := p.AllowedFull(); err != nil || n != 0 {
		t.Errorf("counted %d flows without room (%v)", n, err)
	}
	if p.isAnswered(t, 30000) {
		t.Error("an answer to the first of the flood passed: it was no flood")
	}
}

// Where there is no room for another live flow among those that nothing is pushed out of,
// it goes on among the new ones, counted, as long as these do not all live.
func TestLiveFlowsWithoutRoom(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxAllowed: 2, MaxAllowedNew: allowedWays})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	full := func() uint64 {
		n, err := p.AllowedFull()
		must(t, err)
		return n
	}
	where := func(port int) string {
		m, _ := p.allowedIn(t, TCP, p.clientAt(port), p.backend)
		return m
	}
	p.connect(t, 1001)
	p.connect(t, 1002)
	p.halfOpen(t, 100)
	if full() != 0 || where(1001) != weftMapAllowed || where(1002) != weftMapAllowed {
		t.Errorf("two flows are in %q and %q; counted %d before it was full", where(1001), where(1002), full())
	}
	p.connect(t, 1003)
	p.halfOpen(t, 100)
	if full() == 0 || p.AllowedRoom() != 2 || where(1003) != weftMapAllowedNew {
		t.Errorf("a third flow of %d is in %q; counted %d", p.AllowedRoom(), where(1003), full())
	}
	for port := 1004; port < 1003+allowedWays; port++ {
		p.connect(t, port)
	}
	for port := 1001; port < 1003+allowedWays; port++ {
		if !p.isAnswered(t, port) {
			t.Errorf("an answer to %d did not pass", port)
		}
	}
	p.connect(t, 2000)
	rows := func(name string) (n int) {
		for port := 1001; port < 1003+allowedWays; port++ {
			if where(port) == name {
				n++
			}
		}
		return n
	}
	if !p.isAnswered(t, 2000) || rows(weftMapAllowed) != 2 || rows(weftMapAllowedNew) != allowedWays-1 {
		t.Errorf("another one left %d and %d of those before", rows(weftMapAllowed), rows(weftMapAllowedNew))
	}
	// One that ends makes room for another.
	p.send(t, datagram(TCP, p.clientAt(1001), p.backend, 64, rst, nil))
	if where(1001) != weftMapAllowedNew || rows(weftMapAllowed)+rows(weftMapAllowedNew) != 1+allowedWays {
		t.Errorf("after the end of one, which is in %q, %d and %d are left", where(1001), rows(weftMapAllowed), rows(weftMapAllowedNew))
	}
}

// Programs that write rows on all processors at once lose no live flow, and let nothing
// pass that was not asked for.
func TestAllowedFlowsOfAllProcessors(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxAllowedNew: 16})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setIn, setOut)
	for port := range 20 {
		p.connect(t, 1000+port)
	}
	done := make(chan error, runtime.NumCPU())
	for cpu := range cap(done) {
		go func() { done <- p.beginMany(20000+cpu*10000, 5000) }()
	}
	for range cap(done) {
		for left := 1; left > 0; {
			select {
			case err := <-done:
				must(t, err)
				left--
			default:
				for port := range 20 {
					if !p.isAnswered(t, 1000+port) {
						t.Errorf("an answer to %d did not pass, counters %v", 1000+port, p.counts(t))
					}
					if p.isAnswered(t, 2000+port) {
						t.Errorf("an answer to %d, which did not ask, passed", 2000+port)
					}
				}
			}
		}
	}
}

// beginMany begins connections that nobody answers, from that port on.
func (p *lane) beginMany(first, connections int) error {
	for i := range connections {
		packet := datagram(TCP, p.clientAt(first+i), p.backend, 64, syn, nil)
		verdict, err := p.programs[FromPod].Run(&ebpf.RunOptions{
			Data: ethernet(noMAC, p.clientMAC, ethType(packet), packet), DataOut: make([]byte, 256),
		})
		if err != nil {
			return err
		}
		if verdict != tcxRedirect {
			return fmt.Errorf("connection from %d: verdict %d", first+i, int32(verdict))
		}
	}
	return nil
}

// Flows are told as they are, and forgotten when they have been silent too long.
func TestAllowedFlowsAreCollected(t *testing.T) {
	t.Parallel()
	t.Run("new", func(t *testing.T) { collectAllowed(t, false) })
	t.Run("pushed", func(t *testing.T) { collectAllowed(t, true) })
}

// collectAllowed does so with flows that are in `allowed`, or have not been pushed there:
// of these the programs themselves forget what is silent.
func collectAllowed(t *testing.T, pushed bool) {
	p := newLaneWith(t, true, true, Options{MaxAllowedNew: allowedWays})
	p.rules(t, setOut, 0, allowAll)
	p.isolate(t, p.client.Addr(), setOut, setOut)
	for _, proto := range ported {
		p.there(t, proto, syn)
		p.back(t, proto, syn|ack)
		p.there(t, proto, ack)
	}
	forgets := 0
	if pushed {
		p.halfOpen(t, allowedWays)
		forgets = 1
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
	if diff := cmp.Diff(got, want, ignore, equate); diff != "" || n != forgets || got[TCP].Idle < time.Hour-2*flowTick {
		t.Errorf("after an hour %d forgotten, idle %s (-got +want):\n%s", n, got[TCP].Idle, diff)
	}
	p.there(t, TCP, ack)
	p.age(t, 80*time.Minute)
	if got, n = collect(DefaultTimeouts); n != forgets || len(got) != 1 || got[TCP] == (AllowedFlow{}) {
		t.Errorf("an hour later %d forgotten, left %v", n, got)
	}
}

// Connections that began before their pod was isolated are judged as their opener's, and
// what the node has opened always passes; adopting again changes nothing.
func TestAdoptedFlowsOfPods(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
