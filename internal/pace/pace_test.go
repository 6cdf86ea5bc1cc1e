package pace

import (
	"testing"
	"time"
)

// What has a longer period comes when something of each shorter one comes, too.
func TestPeriodsMeet(t *testing.T) {
	periods := []time.Duration{Often, Usual, Seldom, Minutes}
	for i, short := range periods {
		for _, long := range periods[i:] {
			for now := time.Duration(1); now < 3*Minutes; now += 777 * time.Millisecond {
				at := now + until(now, long)
				if before := at - 1; until(before, short) != 1 {
					t.Fatalf("at %s: the next moment of %s is %s, which is none of %s", now, long, at, short)
				}
			}
		}
	}
}

// Who wakes up at a moment waits a whole period for the next; nobody waits longer.
func TestNextIsWithinOnePeriod(t *testing.T) {
	for now, want := range map[time.Duration]time.Duration{
		0:             Usual,
		1:             Usual - 1,
		Usual - 1:     1,
		Usual:         Usual,
		Usual + 1:     Usual - 1,
		3*Usual + 200: Usual - 200,
	} {
		if got := until(now, Usual); got != want {
			t.Errorf("until(%d, %s): got %s, want %s", now, Usual, got, want)
		}
	}
	for _, every := range []time.Duration{1, time.Millisecond, Usual} {
		if got := Next(every); got <= 0 || got > every {
			t.Errorf("Next(%s): got %s, want more than 0 and at most that", every, got)
		}
	}
}

// What may not come before a time comes at the first moment from then on.
func TestAfterIsTheFirstMomentAfterATime(t *testing.T) {
	for _, c := range []struct{ now, wait, want time.Duration }{
		{0, 1, Usual}, {0, Usual, Usual}, {0, Usual + 1, 2 * Usual}, {1, Usual, 2*Usual - 1}, {Usual - 1, 1, 1},
		{Usual - 1, 2, Usual + 1}, {5*Usual + 7, 3 * Usual, 4*Usual - 7},
	} {
		if got := after(c.now, c.wait, Usual); got != c.want {
			t.Errorf("after(%s, %s): got %s, want %s", c.now, c.wait, got, c.want)
		}
	}
	if got := After(Usual, Often); got < Usual || got > Usual+Often {
		t.Errorf("After(%s, %s): got %s", Usual, Often, got)
	}
}
