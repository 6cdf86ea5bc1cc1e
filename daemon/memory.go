package daemon

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/pace"
)

// gcPercent collects earlier than Go's default of 100: the live heap of a node with
// 250 pods and 1,000 peers is 7 MiB, of which the daemon may add half. Less makes the
// collector a good part of what an idle daemon costs.
const gcPercent = 50

// Where the live heap is greater than bigHeap, with thousands of Services, half would be
// too much to add.
const (
	bigHeap      = 32 << 20
	bigGCPercent = 20
)

// gcPercentFor is what suits a live heap of so many bytes.
func gcPercentFor(live uint64) int {
	if live > bigHeap {
		return bigGCPercent
	}
	return gcPercent
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	sample := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(sample)
	return sample[0].Value.Uint64()
}

// limitMemory sets what a daemon with these limits should have, unless whoever
// started it has said otherwise (GOGC).
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// The garbage of the start (the parsed source above all) and of a burst of pods is given
// back to the system when there was little new for lookEvery.
const (
	lookEvery = pace.Often
	little    = 1 << 20 // bytes allocated in lookEvery
	worth     = 8 << 20 // bytes allocated since it was last given back
)

// allocated is what was ever allocated, in bytes.
func allocated() uint64 {
	sample := []gometrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	gometrics.Read(sample)
	return sample[0].Value.Uint64()
}

// giveBack returns unused memory to the system whenever the node has settled, until ctx is
// done. The runtime would do it too, over minutes. It also looks what limit suits.
func giveBack(ctx context.Context) error {
	limited := os.Getenv("GOGC") == ""
	percent := gcPercent
	for last, given := allocated(), uint64(0); sleep(ctx, pace.Next(lookEvery)); {
		now := allocated()
		if now-last < little && now-given > worth {
			debug.FreeOSMemory()
			forgetProgram()
			given = now
		}
		last = now
		if p := gcPercentFor(liveHeap()); limited && p != percent {
			percent = p
			debug.SetGCPercent(percent)
		}
	}
	return nil
}

// forgetProgram lets go of the pages of the program's own file. Much of it only the start,
// or a burst, needs, and the kernel maps sixteen pages where one is touched; what runs comes back at
// once from the page cache.
func forgetProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return // it is only memory
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode string
		if !strings.HasSuffix(strings.TrimSpace(line), " "+exe) {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err == nil && mode[1] == '-' { // never written to
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
