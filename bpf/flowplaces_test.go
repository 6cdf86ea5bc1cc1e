package bpf

import (
	"fmt"
	"net/netip"
	"testing"
)

// tuples are those of a client's flow to p's Service, and of its answers.
func (p *lane) tuples(proto Protocol, client netip.AddrPort) (there, back weftTuple) {
	there = weftTuple{Src: toAddr(client.Addr()), Dst: toAddr(p.vip.Addr()), Sport: client.Port(), Dport: p.vip.Port(), Proto: uint8(proto)}
	back = weftTuple{Src: toAddr(p.backend.Addr()), Dst: there.Src, Sport: p.backend.Port(), Dport: there.Sport, Proto: there.Proto}
	return there, back
}

// moveOn moves a row from `brief` to `live`, as a set does that needs its room.
func (p *lane) moveOn(t testing.TB, k weftTuple) {
	t.Helper()
	row, ok, err := p.inBrief(&k)
	if err != nil || !ok {
		t.Fatalf("%+v is not in brief (%v)", k, err)
	}
	must(t, p.putLive(&k, &row))
	p.pushOut(t, k)
}

// live establishes the flow of the lane's client, and moves both its rows to `live`, or neither.
func (p *lane) live(t testing.TB, moved bool) {
	t.Helper()
	p.establish(t, p.client)
	if moved {
		there, back := p.tuples(TCP, p.client)
		p.moveOn(t, there)
		p.moveOn(t, back)
	}
}

// Wherever the two rows of a living flow are, it goes on, ends, begins anew, and makes way for
// what its client sends to the backend itself.
func TestRowsOfAFlowMayBeInBothTables(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, true)
		port := 40000
		for where := range 4 {
			for name, ends := range map[string][]struct {
				back  bool
				flags byte
				want  string // of where
			}{
				"client closes":  {{false, fin | ack, "live"}, {true, ack, "live"}, {true, fin | ack, "ended"}, {false, ack, "ended"}},
				"backend closes": {{true, fin | ack, "live"}, {false, fin | ack, "ended"}, {true, ack, "ended"}},
				"client resets":  {{false, rst, "ended"}},
				"backend resets": {{true, rst, "ended"}},
				"begins anew":    {{false, rst, "ended"}, {false, syn, "brief"}, {true, syn | ack, "brief"}, {false, ack, "live"}},
				"direct answer":  {{false, rst, "ended"}, {true, syn | ack, ""}},
			} {
				port++
				client := p.clientAt(port)
				p.establish(t, client)
				there, back := p.tuples(TCP, client)
				for i, k := range []weftTuple{there, back} {
					if where&(1<<i) != 0 {
						p.moveOn(t, k)
					}
				}
				p.tcp(t, client, ack)
				p.reply(t, p.backend, client, ack)
				for i, s := range ends {
					step := fmt.Sprintf("v6=%t where=%d %s, step %d", v6, where, name, i)
					if s.back {
						src, _ := p.reply(t, p.backend, client, s.flags)
						if want := p.vip; s.want != "" && src != want || s.want == "" && src != p.backend {
							t.Errorf("%s: the client has it from %s", step, src)
						}
					} else if _, dst := p.tcp(t, client, s.flags); dst != p.backend {
						t.Errorf("%s: it came to %s", step, dst)
					}
					if got := p.where(t, client); got != s.want {
						t.Errorf("%s: the flow is %q, want %q", step, got, s.want)
					}
				}
			}
		}
		if _, err := p.Collect(Timeouts{TCP: -1, Ended: -1}, nil); err != nil {
			t.Error(err)
		}
		if left := len(p.flows(t, weftMapLive)); left != 0 {
			t.Errorf("v6=%t: after their time %d rows are left", v6, left)
		}
	}
}

// The same of datagrams: one to the backend itself takes the tuple of the flow's answers, and
// the flow takes it back.
func TestDatagramsTakeRowsOfBothTables(t *testing.T) {
	t.Parallel()
	for where := range 4 {
		p := newLane(t, false, true)
		p.ask(t, UDP, p.client, p.vip, 0, load)
		p.answers(t, UDP, p.client, p.client, p.vip, 0, load)
		p.ask(t, UDP, p.client, p.vip, 0, load)
		there, back := p.tuples(UDP, p.client)
		for i, k := range []weftTuple{there, back} {
			if where&(1<<i) != 0 {
				p.moveOn(t, k)
			}
		}
		for range 2 {
			p.ask(t, UDP, p.client, p.backend, 0, load)
			p.answers(t, UDP, p.client, p.client, p.backend, 0, load)
			if _, now := p.ask(t, UDP, p.client, p.vip, 0, load); now != p.backend {
				t.Errorf("where=%d: the backend is %s now, was %s", where, now, p.backend)
			}
			p.answers(t, UDP, p.client, p.client, p.vip, 0, load)
			p.ask(t, UDP, p.client, p.vip, 0, load)
			if got := p.where(t, p.client); got != "live" {
				t.Errorf("where=%d: the flow is %q, want live", where, got)
			}
		}
	}
}

// In a full set what lives moves out of the way first, then what has ended makes room, the oldest
// first, then what is new.
func TestEndedFlowsMakeRoomBeforeNewOnes(t *testing.T) {
	t.Parallel()
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	half, lives := p.clientAt(40000), p.clientAt(40001)
	p.tcp(t, half, syn)
	p.establish(t, lives)
	want := func(when string, of map[netip.AddrPort]string) {
		t.Helper()
		for client, want := range of {
			if got := p.where(t, client); got != want {
				t.Errorf("%s: the flow of %s is %q, want %q", when, client, got, want)
			}
		}
	}
	end := func(i int) netip.AddrPort {
		client := p.clientAt(41000 + i)
		p.establish(t, client)
		p.tcp(t, client, rst)
		return client
	}
	first, second := end(0), end(1)
	want("full", map[netip.AddrPort]string{half: "brief", lives: "live", first: "ended", second: "ended"})
	if rows := p.rowsOf(t, weftMapLive); rows != 0 {
		t.Errorf("%d rows have moved, as long as there was room", rows)
	}
	third := end(2)
	want("one more", map[netip.AddrPort]string{half: "brief", lives: "live", first: "ended", second: "ended", third: "ended"})
	if rows := p.rowsOf(t, weftMapLive); rows != 2 {
		t.Errorf("%d rows have moved, want those of the flow that lives", rows)
	}
	fourth := end(3)
	want("full again", map[netip.AddrPort]string{half: "brief", lives: "live", first: "", second: "ended", third: "ended", fourth: "ended"})
	if rows := p.rowsOf(t, weftMapLive); rows != 2 {
		t.Errorf("%d rows have moved, want two as before", rows)
	}
}

// rowsOf is how many rows a map has.
func (d *Datapath) rowsOf(t testing.TB, name string) (rows int) {
	t.Helper()
	must(t, scan(d, name, func(*weftTuple, *weftFlow) { rows++ }))
	return rows
}
