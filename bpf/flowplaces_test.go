package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
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
	must(t, p.maps[weftMapLive].Update(&k, &row, ebpf.UpdateNoExist))
	p.pushOut(t, k)
}

// Wherever the two rows of a living flow are, it goes on, ends, begins anew, and makes way for
// what its client sends to the backend itself.
func TestRowsOfAFlowMayBeInBothTables(t *testing.T) {
	for _, v6 := range []bool{false, true} {
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
				t.Run(fmt.Sprintf("v6=%v where=%d %s", v6, where, name), func(t *testing.T) {
					p := newLaneWith(t, v6, true, Options{MaxBriefFlows: 64 * briefWays})
					p.establish(t, p.client)
					there, back := p.tuples(TCP, p.client)
					for i, k := range []weftTuple{there, back} {
						if where&(1<<i) != 0 {
							p.moveOn(t, k)
						}
					}
					p.tcp(t, p.client, ack)
					p.reply(t, p.backend, p.client, ack)
					for i, s := range ends {
						if s.back {
							src, _ := p.reply(t, p.backend, p.client, s.flags)
							if want := p.vip; s.want != "" && src != want || s.want == "" && src != p.backend {
								t.Errorf("step %d: the client has it from %s", i, src)
							}
						} else if _, dst := p.tcp(t, p.client, s.flags); dst != p.backend {
							t.Errorf("step %d: it came to %s", i, dst)
						}
						if got := p.where(t, p.client); got != s.want {
							t.Fatalf("step %d: the flow is %q, want %q", i, got, s.want)
						}
					}
					if _, err := p.Collect(Timeouts{TCP: -1, Ended: -1}, nil); err != nil {
						t.Error(err)
					}
					if got := p.where(t, p.client); got != "" {
						t.Errorf("after its time the flow is %q", got)
					}
				})
			}
		}
	}
}

// The same of datagrams: one to the backend itself takes the tuple of the flow's answers, and
// the flow takes it back.
func TestDatagramsTakeRowsOfBothTables(t *testing.T) {
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

// What has ended makes room before what is new, and what lives leaves it to what is new.
func TestEndedFlowsMakeRoomFirst(t *testing.T) {
	p := newLaneWith(t, false, true, Options{MaxBriefFlows: briefWays})
	half, lives := p.clientAt(40000), p.clientAt(40001)
	p.tcp(t, half, syn)
	p.establish(t, lives)
	inLive := func() (rows int) {
		must(t, scan(p.Datapath, weftMapLive, func(*weftTuple, *weftFlow) { rows++ }))
		return rows
	}
	for i := range 5 * briefWays {
		client := p.clientAt(41000 + i)
		p.establish(t, client)
		p.tcp(t, client, rst)
		if rows := inLive(); rows != 0 {
			t.Fatalf("after %d flows that ended %d rows are in live", i+1, rows)
		}
	}
	p.tcp(t, p.clientAt(42000), syn)
	p.tcp(t, p.clientAt(42001), syn) // in the places of the last that ended
	p.tcp(t, p.clientAt(42002), syn)
	if rows := inLive(); rows != 2 {
		t.Errorf("%d rows are in live, want those of the flow that lives", rows)
	}
	for client, want := range map[netip.AddrPort]string{half: "brief", lives: "live", p.clientAt(42000): "brief", p.clientAt(42002): "brief"} {
		if got := p.where(t, client); got != want {
			t.Errorf("the flow of %s is %q, want %q", client, got, want)
		}
	}
}
