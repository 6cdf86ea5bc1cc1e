package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// asker is a machine that may announce one address, and the nodes before it.
type asker struct {
	*Machine
	start, now time.Time
	ahead      map[netip.Addr]string
	silent     string
}

func newAsker(ahead int) *asker {
	a := &asker{start: time.Unix(1e9, 0), ahead: map[netip.Addr]string{}}
	nonce := uint64(0)
	a.Machine, a.now = New("self", a.start, nil, func() uint64 { nonce++; return nonce }), a.start
	var names []string
	ips := map[string]netip.Addr{}
	for i := range ahead {
		name, ip := fmt.Sprint("n", i), netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		names = append(names, name)
		ips[name], a.ahead[ip] = ip, name
	}
	a.Set(a.now, map[netip.Addr]Candidate{netip.MustParseAddr("192.0.2.1"): {Ahead: names, May: true}}, ips)
	return a
}

// step says who was asked, and whether the address is begun to be announced.
func (a *asker) step() (asked map[string]bool, began bool) {
	asked = map[string]bool{}
	do := a.Step(a.now)
	for _, m := range do.Send {
		name := a.ahead[m.To]
		if m.Kind != kindQuestion {
			continue
		}
		asked[name] = true
		if name != a.silent {
			d := m.Datagram
			d.Kind, d.Flags = kindAnswer, flagOn|flagHeld
			a.Hear(a.now, m.To, d)
		}
	}
	return asked, len(do.Began) > 0
}

func (a *asker) run(until time.Time) {
	for a.now.Before(until) {
		a.step()
		a.now = a.now.Add(a.Wait())
	}
}

// However often and late it is stepped, nobody is asked sooner than it should be, so that a
// live node is as patiently waited for as is said.
func TestALateStepAndPokesCostNoPatience(t *testing.T) {
	for late := time.Duration(0); late < Every; late += Every / 10 {
		a := newAsker(1)
		a.run(a.start.Add(5 * time.Second))
		a.now = a.start.Add(5*time.Second + late)
		a.silent = "n0"
		first := time.Time{}
		for {
			asked, began := a.step()
			if first.IsZero() && asked["n0"] {
				first = a.now
			}
			if began {
				break
			}
			wait := a.Wait()
			if a.now.Sub(a.start) < 6*time.Second {
				wait = min(wait, 10*time.Millisecond) // poked
			}
			a.now = a.now.Add(wait)
		}
		least, most := 3*Every+answerWait, 4*Every+answerWait
		if got := a.now.Sub(first); got < least || got > most {
			t.Errorf("late by %s: taken over %s after the first question, want from %s to %s", late, got, least, most)
		}
	}
}

// Of many nodes before it the one that is asked seldom is found dead no later than its
// questions allow.
func TestDeathOfWhoIsAskedSeldomIsFoundInTime(t *testing.T) {
	for _, jitter := range []time.Duration{0, 200 * time.Microsecond} {
		a := newAsker(5)
		a.run(a.start.Add(20 * time.Second))
		a.silent = "n4"
		first := time.Time{}
		for {
			if asked, _ := a.step(); first.IsZero() && asked["n4"] {
				first = a.now
			}
			if a.peers["n4"].state == dead {
				break
			}
			a.now = a.now.Add(a.Wait() + jitter)
		}
		if got, most := a.now.Sub(first), answerWait+2*Every+answerWait+5*time.Millisecond; got > most {
			t.Errorf("steps late by %s: dead %s after the first question, want at most %s", jitter, got, most)
		}
	}
}

// Who has nobody before it begins when it has been well for long enough, not at its next idle step.
func TestBeginsWhenItIsSettled(t *testing.T) {
	a := newAsker(0)
	a.now = a.start.Add(310 * time.Millisecond)
	for {
		if _, began := a.step(); began {
			break
		}
		a.now = a.now.Add(a.Wait())
	}
	if got := a.now.Sub(a.start); got != settle {
		t.Errorf("it begins after %s, want %s", got, settle)
	}
}
