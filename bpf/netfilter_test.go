package bpf

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var besideNetfilter = Options{Config: Config{VNI: 87, Port: 8872, Netfilter: true}}

// Where netfilter serves Services, what goes into a pod passes the stack, and so do
// connections to a Service that are netfilter's; what begins now is translated here, and
// goes the direct way.
func TestWhatIsNetfiltersGoesThroughTheStack(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			p := newLaneWith(t, v6, far, besideNetfilter)
			want := map[string]uint64{}
			if !far {
				want["stack netfilter"]++
				if verdict, _ := p.send(t, datagram(TCP, p.client, p.backend, 64, syn, nil)); verdict != tcxNext {
					t.Errorf("pod to pod of its node: verdict %d", int32(verdict))
				}
			}
			want["stack netfilter"]++
			if verdict, _ := p.answer(t, datagram(TCP, p.backend, p.client, 64, syn|ack, nil)); verdict != tcxNext {
				t.Errorf("to a pod: verdict %d", int32(verdict))
			}
			if verdict, _ := p.send(t, datagram(TCP, p.client, p.vip, 64, ack, nil)); verdict != tcxNext {
				t.Errorf("a connection that did not begin here: verdict %d", int32(verdict))
			}
			if diff := cmp.Diff(p.counts(t), want); diff != "" {
				t.Errorf("v6=%v far=%v: counters (-got +want):\n%s", v6, far, diff)
			}
			p.establish(t, p.client)
			if got := p.where(t, p.client); got != weftMapLive {
				t.Errorf("v6=%v far=%v: a connection that began here is in %q", v6, far, got)
			}
			if err := p.SelfTest(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A Service that netfilter serves for good is nobody's here: neither what begins nor what was
// translated until a moment ago becomes anything, and no port of its address is refused.
func TestWhatIsLeftToNetfilterIsNotTranslated(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, o := range []Options{besideNetfilter, {}} { // as it is, and before it is in force
			p := newLaneWith(t, v6, true, o)
			p.establish(t, p.client)
			p.leave(t)
			must(t, p.Services().Alive.Delete(Place{p.backend.Addr(), servePort, TCP}))
			for what, packet := range map[string][]byte{
				"what begins":    datagram(TCP, p.clientAt(41000), p.vip, 64, syn, nil),
				"what went on":   datagram(TCP, p.client, p.vip, 64, ack, nil),
				"a datagram":     datagram(UDP, p.client, p.vip, 64, 0, nil),
				"to other ports": datagram(TCP, p.client, netip.AddrPortFrom(p.vip.Addr(), 99), 64, syn, nil),
			} {
				if verdict, _ := p.send(t, packet); verdict != tcxNext {
					t.Errorf("v6=%v netfilter=%v, %s: verdict %d, want %d", v6, o.Config.Netfilter, what, int32(verdict), tcxNext)
				}
			}
			if diff := cmp.Diff(p.counts(t), map[string]uint64{}); diff != "" {
				t.Errorf("v6=%v netfilter=%v: counters (-got +want):\n%s", v6, o.Config.Netfilter, diff)
			}
		}
	}
}

// Host ports are ours also where netfilter serves Services, of all protocols and from their
// first packet, whatever that is.
func TestHostPortsBesideNetfilter(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLaneWith(t, v6, true, besideNetfilter)
		at, client := netip.AddrPortFrom(p.outer4, 8088), netip.MustParseAddrPort("198.51.100.7:40000")
		if v6 {
			at, client = netip.AddrPortFrom(p.outer6, 8088), netip.MustParseAddrPort("[2001:db8:7::7]:40000")
		}
		p.serve(t, 8, at, p.backend.Addr())
		enter := func(proto Protocol) (netip.AddrPort, bool) {
			packet := datagram(proto, client, at, 64, 0, load)
			verdict, out := p.run(t, FromUplink, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
			if verdict != tcxRedirect {
				return netip.AddrPort{}, false
			}
			_, to := tupleOf(out[14+50:])
			return to, true
		}
		for _, proto := range ported {
			if to, ok := enter(proto); ok {
				t.Errorf("v6=%v %s: a node port's became %s", v6, proto, to)
			}
			must(t, p.Services().Frontends.Set(Place{at.Addr(), at.Port(), proto}, Frontend{Inside: 8, Outside: 8, Flags: FrontendHostPort}))
			if to, ok := enter(proto); !ok || to != p.backend {
				t.Errorf("v6=%v %s: a host port's became %s, translated %v, want %s", v6, proto, to, ok, p.backend)
			}
		}
	}
}

// adopter is a lane with a backend that gets no new flows, to which others have translated.
type adopter struct {
	*lane
	old netip.AddrPort
}

func newAdopter(t testing.TB, v6 bool) adopter {
	p := adopter{lane: newLane(t, v6, true)}
	second := p.other.pod4
	if v6 {
		second = p.other.pod6
	}
	p.old = netip.AddrPortFrom(second, servePort)
	must(t, p.Services().Alive.Set(Place{second, servePort, TCP}, 5))
	return p
}

// gateway is the node's, by which backends know clients that it stands in for.
func (p adopter) gateway(v6 bool) netip.Addr {
	if v6 {
		return p.gw6
	}
	return p.gw4
}

// from is a flow of a client that its backend knows by another source.
func (p adopter) from(client, source netip.AddrPort) AdoptedFlow {
	return AdoptedFlow{
		Flow:       Flow{Protocol: TCP, Client: client, Service: p.vip, Source: source, Backend: p.old},
		Generation: 5, Answered: true,
	}
}

// An adopted flow goes on as it was translated before, both ways, whatever would have
// become of it here; adopting it again changes nothing.
func TestAdoptedFlowsGoOn(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newAdopter(t, v6)
		gateway := p.gateway(v6)
		source := netip.AddrPortFrom(gateway, 51234)
		f := p.from(p.client, source)
		must(t, p.Adopt(f))
		before := p.flows(t, weftMapLive)
		f.Answered = false
		must(t, p.Adopt(f))
		f.Source = netip.AddrPortFrom(gateway, 51235)
		f.Answered = true
		must(t, p.Adopt(f))
		if diff := cmp.Diff(p.flows(t, weftMapLive), before); diff != "" || len(p.flows(t, weftMapBrief)) > 0 {
			t.Errorf("adopted again, brief %v, live (-got +want):\n%s", p.flows(t, weftMapBrief), diff)
		}
		if src, dst := p.tcp(t, p.client, ack); src != source || dst != p.old {
			t.Errorf("the backend gets %s → %s, want %s → %s", src, dst, source, p.old)
		}
		if src, dst := p.reply(t, p.old, source, ack); src != p.vip || dst != p.client {
			t.Errorf("the client gets %s → %s, want %s → %s", src, dst, p.vip, p.client)
		}
		p.tcp(t, p.client, fin|ack)
		p.reply(t, p.old, source, fin|ack)
		if got := p.where(t, p.client); got != "ended" {
			t.Errorf("after its end it is in %q", got)
		}
		if diff := cmp.Diff(p.counts(t), map[string]uint64{}); diff != "" {
			t.Errorf("counters (-got +want):\n%s", diff)
		}
	}
}

// One that was half-open is where a flood pushes out its like, and is live when it goes on.
func TestAdoptedHalfOpenFlows(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newAdopter(t, v6)
		gateway := p.gateway(v6)
		source := netip.AddrPortFrom(gateway, 51234)
		f := p.from(p.client, source)
		f.Answered = false
		there := weftTuple{Src: toAddr(f.Client.Addr()), Dst: toAddr(p.vip.Addr()), Sport: f.Client.Port(), Dport: p.vip.Port(), Proto: uint8(TCP)}
		p.busy(t, there, 1)
		if err := p.Adopt(f); err == nil {
			t.Error("adopted while its place was written to")
		}
		p.busy(t, there, 0)
		if rows := len(p.flows(t, weftMapBrief)); rows != 0 {
			t.Errorf("%d rows of what could not be adopted", rows)
		}
		must(t, p.Adopt(f))
		before := p.flows(t, weftMapBrief)
		if len(before) != 2 || len(p.flows(t, weftMapLive)) != 0 {
			t.Errorf("live %v, brief %v", p.flows(t, weftMapLive), before)
		}
		must(t, p.Adopt(f))
		other := f
		other.Source = netip.AddrPortFrom(gateway, 51235)
		must(t, p.Adopt(other))
		other.Client = p.clientAt(41001)
		other.Source = source
		must(t, p.Adopt(other))
		if diff := cmp.Diff(p.flows(t, weftMapBrief), before); diff != "" || len(p.flows(t, weftMapLive)) != 0 {
			t.Errorf("adopted again, live %v, brief (-got +want):\n%s", p.flows(t, weftMapLive), diff)
		}
		if src, dst := p.reply(t, p.old, source, syn|ack); src != p.vip || dst != p.client {
			t.Errorf("the client gets %s → %s, want %s → %s", src, dst, p.vip, p.client)
		}
		if src, dst := p.tcp(t, p.client, ack); src != source || dst != p.old {
			t.Errorf("the backend gets %s → %s, want %s → %s", src, dst, source, p.old)
		}
		if got := p.where(t, p.client); got != weftMapLive {
			t.Errorf("when it goes on it is in %q", got)
		}
	}
}

// What becomes of adopted flows: half-open ones become live, half-closed ones end, and all
// do with their backend.
func TestLifeOfAdoptedFlows(t *testing.T) {
	t.Parallel()
	p := newAdopter(t, false)
	half := p.from(p.clientAt(41000), p.clientAt(41000))
	half.Answered = false
	must(t, p.Adopt(half))
	p.reply(t, p.old, half.Source, syn|ack)
	p.tcp(t, half.Client, ack)
	if got := p.where(t, half.Client); got != weftMapLive {
		t.Errorf("one that was half-open is in %q", got)
	}
	for i, backend := range []bool{false, true} {
		f := p.from(p.clientAt(42000+i), p.clientAt(42000+i))
		f.ClientDone, f.BackendDone = !backend, backend
		must(t, p.Adopt(f))
		if backend {
			p.tcp(t, f.Client, fin|ack)
		} else {
			p.reply(t, p.old, f.Source, fin|ack)
		}
		if got := p.where(t, f.Client); got != "ended" {
			t.Errorf("after both have sent FIN it is in %q", got)
		}
	}
	// Its end may have been missed: then a connection to the backend itself has its tuple.
	missed := p.from(p.clientAt(43000), p.clientAt(43000))
	must(t, p.Adopt(missed))
	for i, flags := range []byte{syn | ack, ack} {
		if src, dst := p.reply(t, p.old, missed.Source, flags); src != p.old || dst != missed.Source {
			t.Errorf("packet %d of a direct connection became %s → %s", i, src, dst)
		}
	}
	if got := p.where(t, missed.Client); got != "" {
		t.Errorf("the former flow is in %q", got)
	}
	// Or another one of the client to the Service.
	missed = p.from(p.clientAt(44000), p.clientAt(44000))
	must(t, p.Adopt(missed))
	if _, dst := p.tcp(t, missed.Client, syn); dst != p.backend {
		t.Errorf("a new connection went to %s, want %s", dst, p.backend)
	}
	if src, dst := p.reply(t, p.backend, missed.Client, syn|ack); src != p.vip || dst != missed.Client {
		t.Errorf("its answer became %s → %s", src, dst)
	}
	must(t, p.Services().Alive.Delete(Place{p.old.Addr(), servePort, TCP}))
	p.lane.from(t, p.clientMAC, datagram(TCP, half.Client, p.vip, 64, ack, nil), false)
	if diff := cmp.Diff(p.counts(t), map[string]uint64{"reject backend-gone": 1}); diff != "" {
		t.Errorf("counters (-got +want):\n%s", diff)
	}
}

// A tuple that is reserved for a connection of the node itself is no flow's of ours: none
// gets it, and what comes on it is left to the stack.
func TestReservedTuples(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		node, gateway, outside := newLane(t, v6, true).outer4, addr("10.244.1.1"), netip.MustParseAddrPort("198.51.100.7:40000")
		if v6 {
			node, gateway, outside = newLane(t, v6, true).outer6, addr("fd00:244:1::1"), netip.MustParseAddrPort("[2001:db8:7::7]:40000")
		}
		enter := func(p *lane) netip.AddrPort {
			t.Helper()
			at := netip.AddrPortFrom(node, 30080)
			p.serve(t, 8, at, p.backend.Addr())
			src, _ := p.enter(t, outside, at, syn)
			return src
		}
		first := enter(newLane(t, v6, true))
		if first.Addr() != gateway {
			t.Fatalf("v6=%v: the client became %s", v6, first)
		}
		p := newLane(t, v6, true)
		for range 2 {
			must(t, p.Reserve(TCP, p.backend, first))
		}
		if second := enter(p); second == first {
			t.Errorf("v6=%v: a flow got the reserved %s", v6, second)
		}
		if verdict, _ := p.answer(t, datagram(TCP, p.backend, first, 64, ack, nil)); verdict != tcxNext {
			t.Errorf("v6=%v: what comes on the reserved tuple: verdict %d", v6, int32(verdict))
		}
		if n, err := p.Collect(DefaultTimeouts, func(f Flow) { t.Errorf("v6=%v: it is told as a flow: %+v", v6, f) }); n != 0 || err != nil {
			t.Errorf("v6=%v: forgot %d, %v", v6, n, err)
		}
		if n, err := p.Collect(Timeouts{TCP: -1}, nil); n != 1 || err != nil || len(p.flows(t, weftMapLive)) != 0 {
			t.Errorf("v6=%v: after its time: forgot %d, %v", v6, n, err)
		}
	}
}

// A flow that others go on to translate passes as it is, both ways, until its end or until
// another begins, whatever becomes of the Service.
func TestFlowsLeftToOthers(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		client, other := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("198.51.100.7:40001")
		if v6 {
			client, other = netip.MustParseAddrPort("[2001:db8:7::7]:40000"), netip.MustParseAddrPort("[2001:db8:7::7]:40001")
		}
		p := newLane(t, v6, true)
		passes := func(program Program, src, dst netip.AddrPort, flags byte) {
			t.Helper()
			packet := datagram(TCP, src, dst, 64, flags, load)
			verdict, out := p.run(t, program, ethernet(noMAC, mac{2}, ethType(packet), packet), 0)
			if verdict != tcxNext || !bytes.Equal(out[14:], packet) {
				t.Errorf("flags %#x of %s to %s: verdict %d, counters %v\n% x, want it as it was:\n% x",
					flags, src, dst, int32(verdict), p.counts(t), out[14:], packet)
			}
		}
		for _, c := range []netip.AddrPort{client, other} {
			f := AdoptedFlow{Flow: Flow{Protocol: TCP, Client: c, Source: c, Service: p.vip, Backend: p.vip}, Answered: true}
			for range 2 {
				must(t, p.Adopt(f))
			}
			for range 2 {
				passes(FromUplink, c, p.vip, ack)
				passes(ToUplink, p.vip, c, ack)
			}
		}
		if n, err := p.Collect(DefaultTimeouts, func(f Flow) { t.Errorf("told as ours: %+v", f) }); n != 0 || err != nil {
			t.Errorf("forgot %d, %v", n, err)
		}
		if _, dst := p.enter(t, other, p.vip, syn); dst != p.backend {
			t.Errorf("another connection of %s goes to %s, want %s", other, dst, p.backend)
		}
		must(t, p.Services().Alive.Delete(Place{p.backend.Addr(), servePort, TCP}))
		must(t, p.Services().Frontends.Delete(Place{p.vip.Addr(), p.vip.Port(), TCP}))
		passes(FromUplink, client, p.vip, ack)
		passes(FromUplink, client, p.vip, fin|ack)
		passes(ToUplink, p.vip, client, fin|ack)
		if got := p.where(t, client); got != "ended" {
			t.Errorf("after its end it is in %q", got)
		}
	}
}
