package announce

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A link where somebody says that it has an address: when it is asked, or at other times.
func TestOnlyWhoInsistsIsAConflict(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	begin := time.Unix(1e9, 0)
	at := []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 290 * time.Second}
	for _, c := range []struct {
		name string
		says func(since time.Duration, asked bool) bool
		want [4]bool // a conflict at these times
	}{
		{"nobody", func(time.Duration, bool) bool { return false }, [4]bool{}},
		{"who had it before, and stops", func(s time.Duration, _ bool) bool { return s < 4*time.Second }, [4]bool{}},
		{"another node for a moment", func(s time.Duration, _ bool) bool { return s == time.Minute }, [4]bool{}},
		{"a machine that has it", func(_ time.Duration, asked bool) bool { return asked }, [4]bool{false, true, true, true}},
		{"one that has it for a while", func(s time.Duration, asked bool) bool { return asked && s < 90*time.Second }, [4]bool{false, true, true, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var x Conflicts
			claims := map[netip.Addr]Claim{}
			for since := time.Duration(0); since < 5*time.Minute; since += time.Second {
				now := begin.Add(since)
				for a, c := range claims { // two clocks are read to know it
					c.At = c.At.Add(time.Millisecond)
					claims[a] = c
				}
				ask := x.Take(now, map[netip.Addr]time.Time{a: begin}, claims)
				if c.says(since, len(ask) > 0) {
					claims[a] = Claim{MAC: [6]byte{2, 1}, At: now}
				}
				if i := slices.Index(at, since); i >= 0 && c.want[i] != (len(x.List(now)) > 0) {
					t.Errorf("after %s: conflicts %v", since, x.List(now))
				}
			}
			if x.Take(begin, nil, claims); len(x.List(begin.Add(5*time.Minute))) > 0 {
				t.Error("an address that is not announced is in conflict")
			}
		})
	}
}
