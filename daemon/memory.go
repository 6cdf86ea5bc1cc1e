package daemon

import (
	"os"
	"runtime/debug"
)

const (
	// gcPercent collects earlier than Go's default of 100: the live heap of a node
	// with 250 pods and 1,000 peers is a few MiB, and the daemon idles.
	gcPercent = 40
	// memoryLimit makes the collector work harder before the process grows beyond
	// it. It bounds Go's memory, not the pages of the binary.
	memoryLimit = 24 << 20
)

// limitMemory sets what a daemon with these limits should have, unless whoever
// started it has said otherwise (GOGC, GOMEMLIMIT).
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
