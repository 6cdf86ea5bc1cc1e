package bpf

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// changeBrief changes the sets of `brief`, while no program runs.
func (d *Datapath) changeBrief(t testing.TB, change func(*weftBriefSet)) {
	t.Helper()
	m := d.maps[weftMapBrief]
	must(t, scan(d, weftMapBrief, func(at *uint32, set *weftBriefSet) {
		old := *set
		if change(set); *set != old {
			must(t, m.Put(at, set))
		}
	}))
}

// pushOut removes a row from `brief`, as a flood would.
func (d *Datapath) pushOut(t testing.TB, k weftTuple) {
	t.Helper()
	d.changeBrief(t, func(set *weftBriefSet) {
		for i, s := range set.Slot {
			if s.T == k {
				set.Tag[i] = 0
			}
		}
	})
}

// Go and the programs find a new flow's rows in the same place.
func TestNewFlowsAreFound(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		for port := range 200 {
			p.tcp(t, p.clientAt(40000+port), syn)
		}
		rows := p.flows(t, weftMapBrief)
		if len(rows) != 400 {
			t.Errorf("v6 %t: %d rows, want 400", v6, len(rows))
		}
		for k, want := range rows {
			got, ok, err := p.inBrief(&k)
			got.Seen = 0
			if err != nil || !ok || got != want {
				t.Errorf("v6 %t: %+v has %+v (%t, %v), want %+v", v6, k, got, ok, err, want)
			}
		}
	}
}

// In a full set the oldest flow makes room, unless it was used since.
func TestOldestNewFlowMakesRoom(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	at := func(i int) string { return p.where(t, p.clientAt(40000+i)) }
	begin := func(i int) { p.tcp(t, p.clientAt(40000+i), syn) }
	want := func(when string, brief ...int) {
		t.Helper()
		wanted := map[int]bool{}
		for _, i := range brief {
			wanted[i] = true
		}
		got := map[int]bool{}
		for i := range 10 {
			if at(i) == weftMapBrief {
				got[i] = true
			}
		}
		if !maps.Equal(got, wanted) {
			t.Errorf("%s: in brief %v, want %v", when, got, wanted)
		}
	}
	for i := range briefWays / 2 {
		begin(i)
	}
	want("when full", 0, 1, 2, 3)
	begin(4)
	want("one more", 1, 2, 3, 4)
	begin(1) // its SYN comes again
	begin(5)
	want("the oldest was used", 1, 3, 4, 5)
	begin(6)
	begin(7)
	want("it has been passed over", 1, 5, 6, 7)
	begin(8)
	want("not used again", 5, 6, 7, 8)
}

// What lives leaves room to what is new.
func TestLiveFlowsLeaveRoom(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	first := p.clientAt(40000)
	p.tcp(t, first, syn)
	for i := range 3 * briefWays {
		p.establish(t, p.clientAt(41000+i))
	}
	if got := p.where(t, first); got != weftMapBrief {
		t.Errorf("one that was not answered is in %q", got)
	}
	if rows := len(p.flows(t, weftMapLive)); rows != 6*briefWays {
		t.Errorf("%d rows live, want %d", rows, 6*briefWays)
	}
}

// busy marks the set of a tuple in `brief` as one that another processor writes to, or as none.
func (d *Datapath) busy(t testing.TB, k weftTuple, busy uint32) {
	t.Helper()
	m := d.maps[weftMapBrief]
	at, _ := homeOf(&d.tupleKeys, &k, m.MaxEntries()-1)
	var set weftBriefSet
	must(t, m.Lookup(&at, &set))
	set.Busy = busy
	must(t, m.Put(&at, &set))
}

// A flow of which a row cannot be written, as its set is busy for long, waits: it begins with
// both rows in `brief`, and goes on as it began.
func TestNewFlowsWhoseSetIsBusy(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		for port := range 20 {
			client := p.clientAt(40000 + port)
			there := weftTuple{Src: toAddr(client.Addr()), Dst: toAddr(p.vip.Addr()), Sport: client.Port(), Dport: p.vip.Port(), Proto: uint8(TCP)}
			back := weftTuple{Src: toAddr(p.backend.Addr()), Dst: there.Src, Sport: p.backend.Port(), Dport: there.Sport, Proto: there.Proto}
			other := back
			if port%2 == 0 {
				other = there
			}
			p.busy(t, other, 1)
			p.send(t, datagram(TCP, client, p.vip, 64, syn, nil))
			p.busy(t, other, 0)
			src, dst := p.tcp(t, client, syn)
			p.reply(t, dst, src, syn|ack)
			if got := p.where(t, client); got != weftMapBrief {
				t.Errorf("v6 %t, port %d: once answered it is in %q", v6, client.Port(), got)
			}
			back.Dport = src.Port()
			p.pushOut(t, back)
			p.busy(t, back, 1)
			if _, out := p.send(t, datagram(TCP, client, p.vip, 64, ack, nil)); out != nil {
				if nowSrc, nowDst := tupleOf(out); nowSrc != src || nowDst != dst {
					t.Errorf("v6 %t, port %d: %s → %s became %s → %s", v6, client.Port(), src, dst, nowSrc, nowDst)
				}
			}
			p.busy(t, back, 0)
			if nowSrc, nowDst := p.tcp(t, client, ack); nowSrc != src || nowDst != dst {
				t.Errorf("v6 %t, port %d: %s → %s at last became %s → %s", v6, client.Port(), src, dst, nowSrc, nowDst)
			}
			p.reply(t, dst, src, ack)
			p.tcp(t, client, ack)
			if got := p.where(t, client); got != weftMapLive {
				t.Errorf("v6 %t, port %d: established, it is in %q", v6, client.Port(), got)
			}
		}
	}
}

// New flows are found also when the map that has the seed of both is of another size.
func TestNewFlowsOutliveTheOtherTable(t *testing.T) {
	t.Parallel()
	dir := bpffs(t)
	p := newLaneWith(t, false, true, Options{Dir: dir})
	p.tcp(t, p.client, syn)
	q := newLaneWith(t, false, true, Options{Dir: dir, MaxAllowedNew: 1 << 10})
	rows := q.flows(t, weftMapBrief)
	if len(rows) != 2 {
		t.Errorf("%d rows, want 2", len(rows))
	}
	for k := range rows {
		if _, ok, err := q.inBrief(&k); err != nil || !ok {
			t.Errorf("%+v is not found (%v)", k, err)
		}
	}
}

// Flows that come to live, and move to `live`, while others, on another processor, push rows out of
// their set have both rows, of their own, or none.
func TestFlowsLiveWhole(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	begin := func(client netip.AddrPort) error {
		verdict, out, err := p.give(FromPod, p.fromClient(TCP, client, p.vip, syn))
		if err != nil || verdict != tcxRedirect {
			return err // not redirected: its set was busy
		}
		source, _ := tupleOf(out[14+50:])
		if _, _, err = p.give(FromUplink, p.fromBackend(TCP, source, syn|ack)); err == nil {
			_, _, err = p.give(FromPod, p.fromClient(TCP, client, p.vip, ack))
		}
		return err
	}
	end := p.floodBeside(t)
	var err error
	for i := 0; i < 30000 && err == nil; i++ {
		err = begin(p.clientAt(2000 + i))
	}
	end()
	must(t, err)
	rows := p.flows(t, weftMapLive)
	if len(rows) < 1000 {
		t.Errorf("only %d rows live", len(rows))
	}
	bad := 0
	for k, v := range rows {
		other, ok := rows[otherOf(k, v)]
		if back := otherOf(otherOf(k, v), other); !ok || back != k || (v.Flags^other.Flags)&flowReply == 0 {
			if bad++; bad < 5 {
				t.Errorf("%+v has %+v; the other row %+v (%t)", k, v, other, ok)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d rows are not of a whole flow", bad, len(rows))
	}
}

// Two processors that have packets of one flow at a time may both make it live: it is there, whole.
func TestFlowComesToLiveTwice(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	for i := range 5000 {
		client := p.clientAt(2000 + i)
		src, dst := p.tcp(t, client, syn)
		p.reply(t, dst, src, syn|ack)
		frame := ethernet(noMAC, p.clientMAC, ethIPv4, datagram(TCP, client, p.vip, 64, ack, nil))
		errs := make(chan error)
		for range 2 {
			go func() {
				var err error
				for range 3 {
					_, runErr := p.programs[FromPod].Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, 256)})
					err = errors.Join(err, runErr)
				}
				errs <- err
			}()
		}
		must(t, errors.Join(<-errs, <-errs))
	}
	rows := p.flows(t, weftMapLive)
	if len(rows) != 10000 || len(p.flows(t, weftMapBrief)) != 0 {
		t.Errorf("%d rows live, want 10000; %d brief, want none", len(rows), len(p.flows(t, weftMapBrief)))
	}
}

// While the place of a connection that is to have another port is busy, none of its packets
// passes with the port of another flow.
func TestDirectFlowsWhoseSetIsBusy(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.establish(t, p.client)
	there := weftTuple{Src: toAddr(p.client.Addr()), Dst: toAddr(p.backend.Addr()), Sport: p.client.Port(), Dport: p.backend.Port(), Proto: uint8(TCP)}
	p.busy(t, there, 1)
	packet := datagram(TCP, p.client, p.backend, 64, syn, nil)
	if verdict, out := p.send(t, packet); out != nil {
		src, dst := tupleOf(out)
		t.Errorf("verdict %d, %s → %s passed", int32(verdict), src, dst)
	}
	p.busy(t, there, 0)
	if _, out := p.send(t, packet); out == nil {
		t.Error("it does not pass afterwards")
	} else if src, _ := tupleOf(out); src == p.client {
		t.Error("it passed with the other's port")
	}
	other := there
	other.Dst, other.Dport = toAddr(p.vip.Addr()), p.vip.Port()
	if _, ok := p.flows(t, weftMapLive)[other]; !ok {
		t.Error("the other flow is not live any more")
	}
}
