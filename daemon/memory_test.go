package daemon

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

func TestBigHeapsAreCollectedEarlier(t *testing.T) {
	big := make([]byte, bigHeap)
	runtime.GC()
	if live := liveHeap(); live <= bigHeap || gcPercentFor(live) != bigGCPercent {
		t.Errorf("with %d bytes live: %d %%", live, gcPercentFor(live))
	}
	runtime.KeepAlive(big)
	big = nil
	runtime.GC()
	if live := liveHeap(); live >= bigHeap || gcPercentFor(live) != gcPercent {
		t.Errorf("with %d bytes live: %d %%", live, gcPercentFor(live))
	}
}

// TestTheStartHasRoomForGarbage looks at the limit that the collector has while the daemon
// starts, with little and with much that lives, and after it.
func TestTheStartHasRoomForGarbage(t *testing.T) {
	t.Setenv("GOGC", "")
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	defer debug.SetGCPercent(percent())
	var c garbage
	c.begin()
	if p, want := percent(), startPercentFor(liveHeap()); p != want {
		t.Errorf("at the beginning: %d %%, want %d", p, want)
	}
	many := make([]byte, 2*startRoom)
	testnet.Until(t, 20*time.Second, func() error {
		runtime.GC()
		if p := percent(); p != gcPercent {
			return fmt.Errorf("with %d bytes live: %d %%, want %d", liveHeap(), p, gcPercent)
		}
		return nil
	})
	runtime.KeepAlive(many)
	many = nil
	testnet.Until(t, 20*time.Second, func() error {
		runtime.GC()
		if p := percent(); p <= gcPercent {
			return fmt.Errorf("with %d bytes live: %d %%, want more than %d", liveHeap(), p, gcPercent)
		}
		return nil
	})
	c.end()
	for range 10 {
		runtime.GC()
	}
	if p := percent(); p != gcPercent {
		t.Errorf("at the end: %d %%, want %d", p, gcPercent)
	}
}
