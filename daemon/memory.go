package daemon

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"
	"sync"
	"time"

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

// While the daemon starts it may have startRoom of garbage, or startPercent of what is live,
// if that is less. What it reads is ten times what it keeps: otherwise it would collect a
// hundred times before 30,000 Services are in the kernel.
const (
	startRoom    = 64 << 20
	startPercent = 150
	startMost    = time.Minute
)

// startPercentFor is what suits a live heap of so many bytes while the daemon starts.
func startPercentFor(live uint64) int {
	return int(max(gcPercent, min(startPercent, startRoom*100/max(live, 1))))
}

// garbage sets how early it is collected, unless whoever started the daemon has said
// so (GOGC).
type garbage struct {
	mu      sync.Mutex
	started bool
}

// begin gives the daemon the room that it may have until end, or for startMost: what it
// waits for may not come.
func (g *garbage) begin() {
	if os.Getenv("GOGC") == "" {
		g.adjust()
		time.AfterFunc(startMost, g.end)
	}
}

// adjust takes up what is live, after each collection.
func (g *garbage) adjust() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started {
		return
	}
	debug.SetGCPercent(startPercentFor(liveHeap()))
	sentinel := &struct{ _ *byte }{} // it is gone with the next collection
	runtime.AddCleanup(sentinel, (*garbage).adjust, g)
}

// end has garbage collected early from now on.
func (g *garbage) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || os.Getenv("GOGC") != "" {
		return
	}
	g.started = true
	debug.SetGCPercent(gcPercent)
}

// The garbage of the start (the parsed source above all) and of a burst of pods is given
// back to the system when there was little new for lookEvery. While it is not worth the effort
// that is looked at every lookSeldom.
const (
	lookEvery  = pace.Often
	lookSeldom = pace.Usual
	little     = 2 << 20 // bytes allocated in lookEvery; an idle node with 1,000 others has one MiB
	worth      = 3 << 20 // bytes allocated since it was last given back: just before the runtime would collect (gcPercent)
)

// allocated is what was ever allocated, in bytes.
func allocated() uint64 {
	sample := []gometrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	gometrics.Read(sample)
	return sample[0].Value.Uint64()
}

// giveBack returns unused memory to the system whenever the node has settled, until ctx is
// done. The runtime would do it too, over minutes. It also looks what limit suits.
// It ends the start.
func (g *garbage) giveBack(ctx context.Context) error {
	g.end()
	limited := os.Getenv("GOGC") == ""
	percent := gcPercent
	last, given, wait := allocated(), uint64(0), lookEvery
	for sleep(ctx, pace.Next(wait)) {
		now := allocated()
		if now-last < little && now-given > worth {
			debug.FreeOSMemory()
			forgetProgram()
			given = now
		}
		if last, wait = now, lookSeldom; now-given > worth {
			wait = lookEvery
		}
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
