package bpf

import "testing"

// What goes on between two isolated pods of a node finds the rows of both in one set, and each is
// as if it had been asked alone: of both it is known what was said last, and what is over.
func TestRowsOfBothPodsGoOnTogether(t *testing.T) {
	t.Parallel()
	const past = 5 // ticks
	for _, v6 := range []bool{false, true} {
		for _, proto := range []Protocol{TCP, UDP} {
			p := newLane(t, v6, false)
			open, shut := RuleSet(2000), RuleSet(3000)
			p.rules(t, open, 0, allowAll)
			p.isolate(t, p.client.Addr(), open, open)
			p.isolate(t, p.backend.Addr(), open, open)
			passes := func(when string, there, back bool) {
				t.Helper()
				if got := p.there(t, proto, ack) == tcxRedirect; got != there {
					t.Errorf("v6=%t %s, %s: what the client sends passes: %t", v6, proto, when, got)
				}
				if got := p.back(t, proto, ack) == tcxRedirect; got != back {
					t.Errorf("v6=%t %s, %s: what the backend sends passes: %t", v6, proto, when, got)
				}
			}
			// rows does something to the row of each pod, and is how many there are.
			rows := func(do func(ofClient bool, row *weftAllowed) (stays bool)) (n int) {
				p.changeAllowedNew(t, func(set *weftAllowedSet) {
					for i := range set.Slot {
						s := &set.Slot[i]
						if set.Tag[i] == 0 {
							continue
						}
						if n++; !do(s.T.Src == toAddr(p.client.Addr()), &s.Row) {
							set.Tag[i] = 0
							n--
						}
					}
				})
				return n
			}
			// have wants both rows to have these flags, beside who opened it, and to be fresh.
			have := func(when string, ofClient, ofBackend uint32) {
				t.Helper()
				n := rows(func(isClients bool, row *weftAllowed) bool {
					want := ofBackend
					if isClients {
						want = ofClient | allowedByPod
					}
					if row.Flags != want {
						t.Errorf("v6=%t %s, %s: the client's %t: flags %#x, want %#x", v6, proto, when, isClients, row.Flags, want)
					}
					if idle := idleSince(uptime(), row.Seen); idle > 3*flowTick {
						t.Errorf("v6=%t %s, %s: the client's %t: idle for %s", v6, proto, when, isClients, idle)
					}
					return true
				})
				if n != 2 {
					t.Errorf("v6=%t %s, %s: %d rows, want both", v6, proto, when, n)
				}
			}
			age := func() {
				rows(func(_ bool, row *weftAllowed) bool { row.Seen -= past; return true })
			}
			const lives = allowedAnswered | allowedLive
			p.there(t, proto, syn)
			have("asked", 0, 0)
			p.back(t, proto, syn|ack)
			have("answered", allowedAnswered, allowedAnswered)
			passes("settled", true, true)
			have("settled", lives, lives)
			age()
			p.there(t, proto, ack)
			have("the client went on", lives, lives)
			age()
			p.back(t, proto, ack)
			have("the backend went on", lives, lives)

			for range 2 {
				p.isolate(t, p.backend.Addr(), shut, open)
				passes("the receiver is shut", false, false)
				passes("still", false, false)
				p.isolate(t, p.backend.Addr(), open, open)
				passes("open again", true, true)
			}
			p.isolate(t, p.client.Addr(), open, shut)
			passes("the client is shut", false, false)
			p.isolate(t, p.client.Addr(), open, open)
			passes("open again", true, true)

			// Where one has lost its row, it is asked.
			for _, gone := range []bool{true, false} {
				if n := rows(func(ofClient bool, _ *weftAllowed) bool { return ofClient != gone }); n != 1 {
					t.Fatalf("v6=%t %s: %d rows, want one", v6, proto, n)
				}
				if got := p.there(t, proto, ack); got != tcxRedirect {
					t.Errorf("v6=%t %s: the client's row is gone %t: verdict %d", v6, proto, gone, int32(got))
				}
				if n := rows(func(bool, *weftAllowed) bool { return true }); n != 2 {
					t.Errorf("v6=%t %s: the client's row is gone %t: %d rows after a packet, want both", v6, proto, gone, n)
				}
				passes("both are back", true, true)
				p.there(t, proto, ack)
			}
			if proto != TCP {
				continue
			}
			const podFin, peerFin = 1 << 2, 1 << 3
			have("before the end", lives, lives)
			p.there(t, proto, fin|ack)
			have("the client ends", lives|podFin, lives|peerFin)
			p.back(t, proto, fin|ack)
			over := uint32(lives | podFin | peerFin | allowedClosed)
			have("the backend, too", over, over)
			p.there(t, proto, ack)
			have("the last word", over, over)
		}
	}
}

// A flow between two isolated pods that was silent for too long is over: what the other end sends
// then is not of it, though the rows of both are still there.
func TestSilentFlowOfBothPodsIsOver(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p := newLane(t, v6, false)
		open, shut := RuleSet(2000), RuleSet(3000)
		p.rules(t, open, 0, allowAll)
		p.isolate(t, p.client.Addr(), shut, open)
		p.isolate(t, p.backend.Addr(), open, shut)
		p.there(t, UDP, 0)
		p.back(t, UDP, 0)
		for _, c := range []struct {
			silent uint32
			passes bool
		}{{100, true}, {120, false}} {
			p.changeAllowedNew(t, func(set *weftAllowedSet) {
				for i := range set.Slot {
					set.Slot[i].Row.Seen -= c.silent
				}
			})
			if got := p.back(t, UDP, 0) == tcxRedirect; got != c.passes {
				t.Errorf("v6=%t: an answer after %d ticks passes: %t", v6, c.silent, got)
			}
			p.there(t, UDP, 0)
			p.back(t, UDP, 0)
		}
	}
}

// Another processor may have taken note of a packet in the next tick of the clock already.
func TestFlowSeenInTheNextTickIsNotSilent(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, both := range []bool{false, true} {
			p := newLane(t, v6, false)
			p.rules(t, setOut, 0, allowAll)
			p.isolate(t, p.client.Addr(), setIn, setOut)
			if both {
				p.isolate(t, p.backend.Addr(), setOut, setIn)
			}
			p.there(t, UDP, 0)
			p.back(t, UDP, 0)
			p.changeAllowedNew(t, func(set *weftAllowedSet) {
				for i := range set.Slot {
					set.Slot[i].Row.Seen += 2
				}
			})
			if got := p.back(t, UDP, 0); got != tcxRedirect {
				t.Errorf("v6=%t, both isolated: %t: verdict %d, counters %v", v6, both, int32(got), p.counts(t))
			}
		}
	}
}
