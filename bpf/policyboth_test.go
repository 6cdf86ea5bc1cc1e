package bpf

import "testing"

// Between two isolated pods of a node the receiver's row of a settled flow is looked at once a
// second, and whenever policies change.
func TestReceiversRowIsLookedAtOnceASecond(t *testing.T) {
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
			all := func(bool, *weftAllowed) bool { return true }
			settle := func() {
				for range 3 {
					passes("settled", true, true)
				}
			}
			p.there(t, proto, syn)
			p.back(t, proto, syn|ack)
			settle()
			rows(func(_ bool, row *weftAllowed) bool {
				if row.Both == 0 {
					t.Errorf("v6=%t %s: a row has not that the other end lets it in: %+v", v6, proto, row)
				}
				return true
			})
			for range 2 {
				p.isolate(t, p.backend.Addr(), shut, open)
				passes("the receiver is shut", false, false)
				passes("still", false, false)
				p.isolate(t, p.backend.Addr(), open, open)
				settle()
			}
			p.isolate(t, p.client.Addr(), open, shut)
			passes("the client is shut", false, false)
			p.isolate(t, p.client.Addr(), open, open)
			settle()

			// In the next second the receiver's row is made again, if it is gone.
			if n := rows(func(ofClient bool, row *weftAllowed) bool {
				row.Both -= 2
				return ofClient
			}); n != 1 {
				t.Fatalf("v6=%t %s: %d rows, want the client's", v6, proto, n)
			}
			if p.there(t, proto, ack) != tcxRedirect || rows(all) != 2 {
				t.Errorf("v6=%t %s: %d rows after the next second, want both", v6, proto, rows(all))
			}
		}
	}
}
