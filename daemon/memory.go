package daemon

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

// settled is how long after the start its garbage (the parsed source above all) is
// given back to the system.
const settled = 5 * time.Second

// giveBack returns unused memory to the system once the node has settled. The runtime
// would do it too, over minutes. From then on it looks once a minute what limit suits.
func giveBack(ctx context.Context) error {
	if !sleep(ctx, settled) {
		return nil
	}
	debug.FreeOSMemory()
	forgetProgram()
	if os.Getenv("GOGC") != "" {
		return nil
	}
	for now := gcPercent; ; {
		if p := gcPercentFor(liveHeap()); p != now {
			now = p
			debug.SetGCPercent(now)
		}
		if !sleep(ctx, time.Minute) {
			return nil
		}
	}
}

// forgetProgram lets go of the pages of the program's own file. Much of it only the start
// needs, and the kernel maps sixteen pages where one is touched; what runs comes back at
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
