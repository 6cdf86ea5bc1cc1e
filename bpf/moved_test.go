package bpf

import (
	"net/netip"
	"os"
	"testing"
	"time"
)

// movedOf is what the set of a tuple says of its rows in `live`.
func (d *Datapath) movedOf(t *testing.T, k *weftTuple) uint16 {
	t.Helper()
	b, err := d.openBrief()
	must(t, err)
	defer b.done()
	return b.sets[b.setOf(k)].Moved
}

// later calls unmarkMoved when its time has come.
func (d *Datapath) later(t *testing.T) {
	t.Helper()
	d.rowless.at = time.Now().Add(-rowlessFor)
	must(t, d.unmarkMoved())
}

// A set whose rows have left `live` says so, but not before that has been so for a while.
func TestSetsWithoutMovedRowsSaySo(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.live(t, true)
	there, back := p.tuples(TCP, p.client)
	must(t, p.Commit())
	if p.movedOf(t, &there) == 0 || p.movedOf(t, &back) == 0 {
		t.Fatal("rows are in live and their sets do not say so")
	}
	p.later(t)
	p.later(t)
	p.tcp(t, p.client, ack) // it is found still
	must(t, drop(p.maps[weftMapLive], there))
	p.later(t)
	if p.movedOf(t, &there) == 0 {
		t.Error("a set has forgotten its row in live at once")
	}
	p.rowless.at = time.Now()
	must(t, p.unmarkMoved())
	if p.movedOf(t, &there) == 0 {
		t.Error("a set has forgotten its row in live a moment later")
	}
	p.later(t)
	if p.movedOf(t, &there) != 0 {
		t.Error("a set says long after that a row may be in live")
	}
	if p.movedOf(t, &back) == 0 {
		t.Error("a set has forgotten a row that is in live")
	}
}

// A row that is about to be in `live` keeps its set from forgetting that.
func TestSetsWhoseRowsMoveAgainSaySo(t *testing.T) {
	t.Parallel()
	p := newLane(t, false, true)
	p.live(t, true)
	there, _ := p.tuples(TCP, p.client)
	must(t, p.Commit())
	must(t, drop(p.maps[weftMapLive], there))
	p.later(t)
	b, err := p.openBrief()
	must(t, err)
	defer b.done()
	set := &b.sets[b.setOf(&there)]
	setMoved(set.word())
	p.later(t)
	if set.Moved == 0 {
		t.Error("a set that had just said that a row moves has forgotten it")
	}
	set.Moved = 0xffff
	setMoved(set.word())
	if set.Moved != 1 {
		t.Errorf("after 65535 rows a set says %d, want 1", set.Moved)
	}
}

// What a full set moves on is found there, with the programs alone, however often that has been.
func TestFullSetsSayThatRowsMoved(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	for i := range briefWays {
		if i == briefWays/2 {
			p.changeBrief(t, func(set *weftBriefSet) { set.Moved = 0xffff })
		}
		p.establish(t, p.clientAt(20000+i))
	}
	there, _ := p.tuples(TCP, p.client)
	if p.movedOf(t, &there) == 0 {
		t.Error("rows are in live and their set does not say so")
	}
	for i := range briefWays {
		src, dst := p.tcp(t, p.clientAt(20000+i), ack)
		p.reply(t, dst, src, ack)
	}
}

// Rows that the programs in force move to `live` from another `brief` than that of a daemon that
// comes are found by its programs, too: of another size, or one whose pin was lost.
func TestRowsThatMoveBeforeCommitAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		v6, lost, died bool
		rows           uint32
	}{
		"another size":       {rows: 64 * briefWays},
		"another size, IPv6": {rows: 64 * briefWays, v6: true},
		"lost":               {rows: briefWays, lost: true},
		// By a daemon that pinned another and died before it had looked at anything.
		"lost twice": {rows: briefWays, lost: true, died: true},
	} {
		dir := bpffs(t)
		p := laneOf(t, newUncheckedNode(t, 1, Options{Dir: dir, MaxBriefFlows: briefWays}), c.v6, true)
		if c.lost {
			must(t, os.Remove(p.pins[weftMapBrief]))
		}
		if c.died {
			spec, err := specs(Options{Config: p.config, MaxBriefFlows: c.rows})
			must(t, err)
			m, err := p.adopt(weftMapBrief, spec.Maps[weftMapBrief], map[string]bool{})
			must(t, err)
			must(t, m.Close())
		}
		q := p.again(t, Options{Dir: dir, MaxBriefFlows: c.rows})
		must(t, q.unmarkMoved())
		for i := range briefWays {
			p.establish(t, p.clientAt(20000+i))
		}
		moved := map[weftTuple]bool{}
		must(t, scan(p.Datapath, weftMapLive, func(k *weftTuple, _ *weftFlow) { moved[*k] = true }))
		must(t, q.Commit())
		// What begins now would be refused: only a flow that is found passes.
		must(t, q.Services().Sets.Delete(7))
		found := 0
		for i := range briefWays {
			client := p.clientAt(20000 + i)
			there, back := p.tuples(TCP, client)
			if !moved[there] || !moved[back] {
				continue
			}
			src, dst := q.tcp(t, client, ack)
			q.reply(t, dst, src, ack)
			found++
		}
		if found == 0 {
			t.Errorf("%s: no flow had moved", name)
		}
	}
}

// again is the lane of another daemon on its node.
func (p *lane) again(t *testing.T, o Options) *lane {
	t.Helper()
	n, q := *p.node, *p
	n.Datapath = open(t, o)
	q.node = &n
	return &q
}

// To adopt a flow takes two pages of `brief`, not all of it.
func BenchmarkAdopt(b *testing.B) {
	p := newLane(b, false, true)
	for i := 0; b.Loop(); i++ {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 16), byte(i >> 8)}), uint16(40000+i%256))
		must(b, p.Adopt(AdoptedFlow{Flow: Flow{Protocol: TCP, Client: client, Service: p.vip, Source: client, Backend: p.backend}, Answered: true}))
	}
}
