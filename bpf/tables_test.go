package bpf

import (
	"maps"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// flows are the rows of flows that live, or have (`live`), or of those that do not yet (`brief`),
// wherever they are; without when they were seen, and which end it was.
func (d *Datapath) flows(t testing.TB, state string) map[weftTuple]weftFlow {
	t.Helper()
	rows := map[weftTuple]weftFlow{}
	must(t, d.scanFlows(func(k *weftTuple, v *weftFlow) {
		if (v.Flags&flowLive != 0) == (state == weftMapLive) {
			row := *v
			row.Seen = 0
			row.Flags &= 0xff
			rows[*k] = row
		}
	}))
	return rows
}

// tcp sends a segment of the client and wants it to come out to the backend; it returns
// the tuple that it has there.
func (p *lane) tcp(t testing.TB, client netip.AddrPort, flags byte) (src, dst netip.AddrPort) {
	t.Helper()
	verdict, out := p.send(t, datagram(TCP, client, p.vip, 64, flags, nil))
	if out == nil {
		t.Fatalf("flags %#x from %s: verdict %d, counters %v", flags, client, int32(verdict), p.counts(t))
	}
	return tupleOf(out)
}

// reply sends a segment of a backend and returns the tuple that the client gets.
func (p *lane) reply(t testing.TB, backend, to netip.AddrPort, flags byte) (src, dst netip.AddrPort) {
	t.Helper()
	verdict, out := p.answer(t, datagram(TCP, backend, to, 64, flags, nil))
	if out == nil {
		t.Fatalf("flags %#x to %s: verdict %d, counters %v", flags, to, int32(verdict), p.counts(t))
	}
	return tupleOf(out)
}

func (p *lane) establish(t testing.TB, client netip.AddrPort) {
	t.Helper()
	src, dst := p.tcp(t, client, syn)
	p.reply(t, dst, src, syn|ack)
	p.tcp(t, client, ack)
}

// clientAt is the client with another port.
func (p *lane) clientAt(port int) netip.AddrPort {
	return netip.AddrPortFrom(p.client.Addr(), uint16(port))
}

// When there is no room for another flow, none begins; those that live go on.
func TestNoRoomForFlows(t *testing.T) {
	t.Parallel()
	const flows = 32 + briefWays/2
	p := newLaneWith(t, false, true, Options{MaxFlows: 2*flows - briefWays, MaxBriefFlows: briefWays})
	for i := range flows {
		p.establish(t, p.clientAt(20000+i))
	}
	full := p.flows(t, weftMapLive)
	for range 3 {
		if verdict, _ := p.send(t, datagram(TCP, p.clientAt(30000), p.vip, 64, syn, nil)); verdict != tcxDrop {
			t.Errorf("a flow without room: verdict %d", int32(verdict))
		}
	}
	if diff := cmp.Diff(p.counts(t), map[string]uint64{"drop flows-full": 3}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
	for i := range flows {
		src, dst := p.tcp(t, p.clientAt(20000+i), ack)
		p.reply(t, dst, src, ack)
	}
	if diff := cmp.Diff(p.flows(t, weftMapLive), full); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	// One ends: there is room.
	p.tcp(t, p.clientAt(20000), rst)
	p.establish(t, p.clientAt(30000))
	if n := len(p.flows(t, weftMapLive)); n != 2*flows {
		t.Errorf("%d rows are live, want %d", n, 2*flows)
	}
	if got := p.where(t, p.clientAt(30000)); got != weftMapLive {
		t.Errorf("the last flow is in %q", got)
	}
}

// settle pushes what lives from the only set of `brief` into `live`, by flows that end there.
func (p *lane) settle(t testing.TB) {
	t.Helper()
	for i := range briefWays / 2 {
		p.establish(t, p.clientAt(10000+i))
	}
	for i := range briefWays / 2 {
		p.tcp(t, p.clientAt(10000+i), rst)
	}
}

// Flows that end in `live` stay for a while, never at the cost of others: in a map that is
// small for them, and beside one that lives.
func TestEndedFlowsAreForgotten(t *testing.T) {
	t.Parallel()
	const rows, kept = 128, 16
	p := newLaneWith(t, false, true, Options{MaxFlows: rows, MaxBriefFlows: briefWays})
	p.establish(t, p.client)
	most := 0
	for i := range 10 * rows {
		client := p.clientAt(20000 + i%(3*kept))
		p.establish(t, client)
		p.settle(t)
		if i%2 == 0 {
			p.tcp(t, client, rst)
		} else {
			p.tcp(t, client, fin|ack)
			p.reply(t, p.backend, client, fin|ack)
			p.tcp(t, client, ack)
		}
		n := 0
		must(t, scan(p.Datapath, weftMapLive, func(*weftTuple, *weftFlow) { n++ }))
		most = max(most, n)
	}
	if want := 2 * (1 + kept); most != want {
		t.Errorf("live had %d rows at most, want %d", most, want)
	}
	if got := p.where(t, p.client); got != weftMapLive {
		t.Errorf("the flow that lives is in %q", got)
	}
	if diff := cmp.Diff(p.counts(t), map[string]uint64{}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
}

// A tuple that ends again and again keeps its latest end as long as any other does: so
// many ends of other tuples.
func TestTupleThatEndsAgain(t *testing.T) {
	t.Parallel()
	const kept = 16
	p := newLaneWith(t, false, true, Options{MaxFlows: 16 * kept, MaxBriefFlows: briefWays})
	end := func(client netip.AddrPort) {
		p.establish(t, client)
		p.settle(t)
		p.tcp(t, client, rst)
	}
	for range 3 {
		end(p.client)
		for i := range kept - 1 {
			end(p.clientAt(20000 + i))
		}
	}
	end(p.client) // in the place of its first end
	for i := range kept {
		if got := p.where(t, p.client); got != "ended" {
			t.Fatalf("after %d other ends it is in %q", i, got)
		}
		end(p.clientAt(21000 + i))
	}
	if got := p.where(t, p.client); got != "" {
		t.Errorf("after %d other ends it is still in %q", kept, got)
	}
}

// flood sends SYNs to a place at the node's own address, each from another source.
func (p *lane) flood(t testing.TB, to netip.AddrPort, n int) {
	t.Helper()
	o := ebpf.RunOptions{Data: make([]byte, 54), DataOut: make([]byte, 256)}
	for i := range n {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18 + byte(i>>20), byte(i >> 12), byte(i >> 4)}), uint16(1024+i%60000))
		o.Data = ethernet(noMAC, mac{2}, ethIPv4, datagram(TCP, src, to, 64, syn, nil))
		o.DataOut = o.DataOut[:256]
		if _, err := p.programs[FromUplink].Run(&o); err != nil {
			t.Fatal(err)
		}
	}
}

// enter sends a segment of a client outside to a node port and returns the tuple that the
// backend, on another node, gets.
func (p *lane) enter(t testing.TB, client, to netip.AddrPort, flags byte) (src, dst netip.AddrPort) {
	t.Helper()
	packet := datagram(TCP, client, to, 64, flags, nil)
	verdict, out := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
	if verdict != tcxRedirect {
		t.Fatalf("flags %#x from %s: verdict %d, counters %v", flags, client, int32(verdict), p.counts(t))
	}
	return tupleOf(out[14+50:])
}

// Half-open connections of anyone push out their like, and no flow that lives: neither
// those of pods nor those that came through the same node port, whose source ports the
// others want, too. `make soak` has ten times as many.
func TestFloodEndsNoFlow(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	node := netip.AddrPortFrom(p.outer4, 30080)
	p.serve(t, 8, node, p.backend.Addr())
	const flows = 10_000
	outside := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), uint16(20000+i))
	}
	sources := map[int]netip.AddrPort{}
	for i := range flows {
		if i%2 == 0 {
			p.establish(t, p.clientAt(20000+i))
			continue
		}
		sources[i], _ = p.enter(t, outside(i), node, syn)
		// The answer is noted; there is no way on for it here.
		packet := datagram(TCP, p.backend, sources[i], 64, syn|ack, nil)
		outer := header{src: p.other.outer4, dst: p.outer4, proto: protoUDP}
		p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethIPv4, outer.packet(udp(50000, 8872, vxlan(8, 87, ethernet(mac{}, mac{10}, ethIPv4, packet))))), 0)
		p.enter(t, outside(i), node, ack)
	}
	before := p.flows(t, weftMapLive)
	if len(before) != 2*flows {
		t.Fatalf("%d rows are live, want %d", len(before), 2*flows)
	}
	half := 200_000
	if os.Getenv("WEFT_SOAK") != "" {
		half *= 10
	}
	p.flood(t, node, half)
	if !maps.Equal(p.flows(t, weftMapLive), before) {
		t.Error("rows of living flows have changed")
	}
	for i := range flows {
		if i%2 == 0 {
			src, dst := p.tcp(t, p.clientAt(20000+i), ack)
			p.reply(t, dst, src, ack)
		} else if src, dst := p.enter(t, outside(i), node, ack); src != sources[i] || dst != p.backend {
			t.Fatalf("the backend gets %s → %s, want %s → %s", src, dst, sources[i], p.backend)
		}
	}
	counts := p.counts(t)
	delete(counts, "drop no-route") // of answers to outside
	// A sixth of the ports are living flows', and one tries only so many: few find none.
	if full := counts["drop ports-full"]; full > uint64(half/10_000) {
		t.Errorf("%d of %d SYNs found no port", full, half)
	}
	delete(counts, "drop ports-full")
	if diff := cmp.Diff(counts, map[string]uint64{}); diff != "" {
		t.Errorf("not each SYN went to the backend: counters (-got +want):\n%s", diff)
	}
}

// When all ports towards a backend are taken, no other flow to it begins that needs one.
func TestNoPortForFlow(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: 1 << 10})
	node := netip.AddrPortFrom(p.outer4, 30080)
	p.serve(t, 8, node, p.backend.Addr())
	// As many flows as there are ports: rows of replies as established ones have them.
	for port := 1024; port < 30000; port++ {
		key := weftTuple{Src: toAddr(p.backend.Addr()), Dst: toAddr(p.gw4), Sport: servePort, Dport: uint16(port), Proto: uint8(TCP)}
		row := weftFlow{Src: toAddr(node.Addr()), Dst: toAddr(addr("198.51.100.7")), Sport: 30080, Dport: uint16(port), Flags: 1}
		must(t, p.putLive(&key, &row))
	}
	before := p.flows(t, weftMapLive)
	p.flood(t, node, 10)
	if diff := cmp.Diff(p.counts(t), map[string]uint64{"drop ports-full": 10}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
	if !maps.Equal(p.flows(t, weftMapLive), before) {
		t.Error("rows of living flows have changed")
	}
	// A flow that needs none goes on, and begins.
	p.establish(t, p.clientAt(20000))
}
