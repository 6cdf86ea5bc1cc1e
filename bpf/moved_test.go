package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
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
	p := newLane(t, false, true)
	p.live(t, true)
	there, back := p.tuples(TCP, p.client)
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
	p := newLane(t, false, true)
	p.live(t, true)
	there, _ := p.tuples(TCP, p.client)
	must(t, drop(p.maps[weftMapLive], there))
	p.later(t)
	b, err := p.openBrief()
	must(t, err)
	defer b.done()
	set := &b.sets[b.setOf(&there)]
	set.setMoved()
	p.later(t)
	if set.Moved == 0 {
		t.Error("a set that had just said that a row moves has forgotten it")
	}
	set.Moved = 0xffff
	set.setMoved()
	if set.Moved != 1 {
		t.Errorf("after 65535 rows a set says %d, want 1", set.Moved)
	}
}

// What a full set moves on is found there, with the programs alone, however often that has been.
func TestFullSetsSayThatRowsMoved(t *testing.T) {
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

// A daemon finds the rows of `live` whose sets, as they were made anew, do not know of them.
func TestRowsInLiveAreFoundAfterAStart(t *testing.T) {
	dir := bpffs(t)
	p := laneOf(t, newUncheckedNode(t, 1, Options{Dir: dir}), false, true)
	p.establish(t, p.client)
	there, back := p.tuples(TCP, p.client)
	for _, k := range []weftTuple{there, back} {
		row, _, err := p.inBrief(&k)
		must(t, err)
		must(t, p.maps[weftMapLive].Update(&k, &row, ebpf.UpdateNoExist))
		p.pushOut(t, k)
	}
	q := *p.node
	q.Datapath = open(t, Options{Dir: dir})
	p.node = &q
	src, dst := p.tcp(t, p.client, ack)
	p.reply(t, dst, src, ack)
}
