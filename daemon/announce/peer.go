package announce

import (
	"net/netip"
	"slices"
	"time"
)

// Times of probing.
const (
	// Every is how often nodes are probed whose death would be this node's matter at once.
	Every = 200 * time.Millisecond
	// answerWait is how long an answer may take, missable how many probes in a row may
	// stay without one. Asking is counted, not time: a daemon that gets no CPU for seconds
	// must not take the others for dead.
	answerWait = 300 * time.Millisecond
	missable   = 3
	// seldom is how often the other nodes are probed that must be, if there are few;
	// if there are many, so many a second of them all.
	seldom       = 3 * time.Second
	seldomBudget = 20
	// silenceLimit is when a node whose daemon is dead counts as dead: a second after it
	// has stopped to answer for its addresses by itself (bpf.SilenceLimit).
	silenceLimit = 16 * time.Second
	// urgentMost is how many addresses a node is asked about at once.
	urgentMost = 16
)

// peer is another node as its answers show it.
type peer struct {
	addr   netip.Addr // where it is asked
	state  peerState
	well   time.Time // alive since
	life   int       // counts its lives: what it said in a former one is void
	missed int       // probes in a row
	seen   int       // those of them beside which another peer answered
	rounds []round   // whose answers may still come
	next   time.Time
	turn   int // which address is next
}

type peerState int

const (
	unknown peerState = iota // no answer yet, but not missed often enough either
	alive
	dead
)

// round is the questions sent at one time.
type round struct {
	at       time.Time
	open     map[uint64]netip.Addr // by nonce
	answered bool
	batch    *batch // nil: nobody wants to know
	witness  bool   // only asked to see whether it is this node that is cut off
}

// batch is the rounds of many peers that were asked at the same time.
type batch struct {
	asked, answered int
}

// excused says that it means nothing that a witness has not answered, as enough others have.
// Otherwise, where datagrams are lost by chance, each that is lost would have more nodes asked.
func (r *round) excused() bool {
	return r.witness && r.batch.answered*fewAnswer >= r.batch.asked
}

// expire counts what was not answered in time. It says whether the peer died of it.
func (p *peer) expire(now time.Time) (died bool) {
	p.rounds = slices.DeleteFunc(p.rounds, func(r round) bool {
		if now.Sub(r.at) < answerWait {
			return false
		}
		if !r.answered && !r.excused() {
			p.missed++
			if r.batch != nil && r.batch.answered > 0 {
				p.seen++
			}
		}
		return true
	})
	if p.missed <= missable || p.state == dead {
		return false
	}
	p.state = dead
	return true
}

// answered finds the round whose question a datagram answers; false: none.
func (p *peer) answered(d Datagram) (*round, bool) {
	for i := range p.rounds {
		r := &p.rounds[i]
		if a, ok := r.open[d.Nonce]; ok && a == d.Addr {
			delete(r.open, d.Nonce)
			return r, true
		}
	}
	return nil, false
}

// hear takes up that a round was answered.
func (p *peer) hear(now time.Time, r *round) {
	r.answered, p.missed, p.seen = true, 0, 0
	if p.state != alive {
		p.state, p.well = alive, now
		p.life++
	}
}

// ask makes the next round, about these addresses.
func (p *peer) ask(now time.Time, about []netip.Addr, nonce func() uint64) []Datagram {
	r := round{at: now, open: map[uint64]netip.Addr{}}
	var out []Datagram
	for _, a := range about {
		d := Datagram{Kind: kindQuestion, Nonce: nonce(), Addr: a}
		r.open[d.Nonce] = a
		out = append(out, d)
	}
	p.rounds = append(p.rounds, r)
	return out
}
