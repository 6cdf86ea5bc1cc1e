package bpf

import (
	"os"
	"testing"
)

// known is a flow whose backend has been looked up, and goes on without that.
func known(t *testing.T, o Options) *lane {
	t.Helper()
	p := laneOf(t, newUncheckedNode(t, 1, o), false, true)
	p.establish(t, p.client)
	p.tcp(t, p.client, ack)
	p.vanishUnheard(t)
	p.tcp(t, p.client, ack)
	return p
}

// vanishUnheard removes the backend's row, and the programs are not told.
func (p *lane) vanishUnheard(t *testing.T) {
	t.Helper()
	must(t, p.maps[weftMapAlive].Delete(toAlive(Place{p.backend.Addr(), p.backend.Port(), TCP})))
}

// refused sends what the client has for a backend that is gone, and wants it refused.
func (p *lane) refused(t *testing.T, when string) {
	t.Helper()
	p.from(t, p.clientMAC, datagram(TCP, p.client, p.vip, 64, ack, nil), false)
	if n := p.counts(t)["reject backend-gone"]; n != 1 {
		t.Errorf("%s: %d packets to a backend that is gone were refused, want 1", when, n)
	}
}

func (d *Datapath) aliveRevision(t *testing.T) (v uint32) {
	t.Helper()
	at := uint32(0)
	must(t, d.maps[weftMapAliveRevision].Lookup(&at, &v))
	return v
}

// Rows that are set without the programs being told are said not to be set.
func TestChangesOfBackendsThatAreNotToldAreNotMade(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	m := d.maps[weftMapAliveRevision]
	closed, err := m.Clone()
	must(t, err)
	must(t, closed.Close())
	d.maps[weftMapAliveRevision] = closed
	n, err := d.Services().Alive.(alive).SetAll([]Place{{addr("10.244.9.9"), servePort, TCP}}, []uint32{1})
	d.maps[weftMapAliveRevision] = m
	if err == nil || n != 0 {
		t.Errorf("%d rows are set, err %v; want none and why", n, err)
	}
}

// What the programs know of a backend counts until the next change of any.
func TestBackendsAreLookedUpAgain(t *testing.T) {
	t.Parallel()
	elsewhere := Place{addr("10.244.9.9"), servePort, TCP}
	for _, c := range []struct {
		when   string
		change func(Services) error
	}{
		{"one came", func(s Services) error { return s.Alive.Set(elsewhere, 1) }},
		{"many came", func(s Services) error {
			_, err := s.Alive.(alive).SetAll([]Place{elsewhere}, []uint32{1})
			return err
		}},
		{"one went", func(s Services) error { return s.Alive.Delete(elsewhere) }},
	} {
		p := known(t, Options{})
		must(t, c.change(p.Services()))
		p.refused(t, c.when)
	}
}

// A daemon that ends between a change and the word of it leaves that to the next one.
func TestBackendsAreLookedUpAfterAStart(t *testing.T) {
	t.Parallel()
	dir := bpffs(t)
	p := known(t, Options{Dir: dir})
	p.again(t, Options{Dir: dir}).refused(t, "another daemon came")
}

// A count that begins anew, as its pin was lost, says nothing by what it was before.
func TestBackendsAreLookedUpWhenTheCountBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := bpffs(t)
	p := laneOf(t, newUncheckedNode(t, 1, Options{Dir: dir}), false, true)
	for range 8 {
		must(t, p.lookAgain())
	}
	was := p.aliveRevision(t)
	must(t, os.Remove(p.pins[weftMapAliveRevision]))
	q := p.again(t, Options{Dir: dir})
	p.establish(t, p.client)
	p.tcp(t, p.client, ack) // by the former programs
	must(t, q.Commit())
	q.vanishUnheard(t)
	for q.aliveRevision(t) < was {
		must(t, q.lookAgain())
	}
	q.refused(t, "the count is again what it was")
}

// The count's pin is put back by the next change, so that the next daemon counts on.
func TestCountOfChangesIsPinnedAgain(t *testing.T) {
	t.Parallel()
	d := open(t, Options{})
	pin := d.pins[weftMapAliveRevision]
	must(t, os.Remove(pin))
	must(t, d.Services().Alive.Set(Place{addr("10.244.9.9"), servePort, TCP}, 1))
	if _, err := os.Stat(pin); err != nil {
		t.Error(err)
	}
}

// When another daemon's programs are in force, what the former ones knew is not.
func TestBackendsAreLookedUpAfterCommit(t *testing.T) {
	t.Parallel()
	p := known(t, Options{})
	must(t, p.Commit())
	p.refused(t, "programs were moved")
}

// Changes are counted modulo 2^16: when the same count comes again, it is of other things.
func TestBackendsAreLookedUpWhenTheCountComesAgain(t *testing.T) {
	t.Parallel()
	p := known(t, Options{})
	was := p.aliveRevision(t)
	must(t, p.lookAgain())
	for uint16(p.aliveRevision(t)) != uint16(was) {
		must(t, p.lookAgain())
	}
	p.refused(t, "the count came again")
}

// A place of `brief` that is another flow's says nothing of that one's backend.
func TestKnownBackendIsThatOfTheFlow(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	p.establish(t, p.client)
	p.tcp(t, p.client, ack)
	b, err := p.openBrief()
	must(t, err)
	defer b.done()
	there, _ := p.tuples(TCP, p.client)
	_, at, _ := b.find(&there)
	if at == nil {
		t.Fatal("the flow is not in brief")
	}
	was := b.sets[0].Known
	if was == [briefWays]uint16{} {
		t.Fatal("no backend is known")
	}
	for i := range b.sets[0].Tag { // all places are free
		b.sets[0].Tag[i] = 0
	}
	for i := range briefWays / 2 {
		p.tcp(t, p.clientAt(20000+i), syn)
	}
	if got := b.sets[0].Known; got != [briefWays]uint16{} {
		t.Errorf("new flows know %v of their backends, want nothing", got)
	}
}
