// Package pace has what a daemon does every now and then happen at the same moments. What an
// idle process costs is mostly how often it wakes up, not what it does then: ten timers
// of their own wake it ten times as often as ten that end together.
package pace

import (
	"time"

	"golang.org/x/sys/unix"
)

// The periods. Each is a multiple of those before it, so that whatever is due comes together.
const (
	Often   = 4 * time.Second
	Usual   = 8 * time.Second
	Seldom  = 32 * time.Second
	Minutes = 64 * time.Second
)

// Next is how long it takes until the next common moment of a period: more than nothing, at
// most the period. The moments are multiples of it by the machine's uptime, so that those
// of different machines are not the same. The period must be positive.
func Next(every time.Duration) time.Duration { return After(1, every) }

// After is how long it takes until the first common moment of a period once so much time, which
// must be positive, has passed.
func After(wait, every time.Duration) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil { // every kernel has it
		return wait + every
	}
	return after(time.Duration(t.Nano()), wait, every)
}

// after is After at a time since the start of the machine.
func after(now, wait, every time.Duration) time.Duration {
	return wait - 1 + until(now+wait-1, every)
}

// until is how long it takes from a time until the next moment.
func until(now, every time.Duration) time.Duration { return every - now%every }
