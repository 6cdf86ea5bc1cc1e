package daemon

import (
	"runtime"
	"testing"
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
