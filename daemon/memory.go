package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// gcPercent collects earlier than Go's default of 100: the live heap of a node
// with 250 pods and 1,000 peers is a few MiB, and the daemon idles.
const gcPercent = 20

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
// would do it too, over minutes.
func giveBack(ctx context.Context) error {
	if sleep(ctx, settled) {
		debug.FreeOSMemory()
	}
	return nil
}
