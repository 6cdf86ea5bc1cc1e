package overlay

import (
	"context"
	"net/netip"
	"time"
)

// MaxProbes is how many peers the daemon probes in one round (of 10 s).
const MaxProbes = 8

// ProbeTarget is one node to probe over the overlay.
type ProbeTarget struct {
	Name   string
	Local  netip.Addr // our gateway address
	Remote netip.Addr // the peer's gateway address, of the same family
	MTU    int        // biggest inner IP packet: Peer.MTU
}

// ProbeResult is what a probe found out about the way to a peer.
type ProbeResult struct {
	Reachable bool // small datagrams without a checksum are answered
	// BadOffload: those whose checksum our device has to complete are not. The
	// remedy is [Offload] on the uplink and on weft-vxlan.
	BadOffload bool
	MTUProblem bool          // those of the size MTU are not
	RTT        time.Duration // the shortest seen; 0 if not reachable
}

// Probe asks one peer's [ServeProbe]; it takes about a second if anything is
// wrong, and milliseconds if not. An error means that the probe could not be
// made, not that the peer did not answer.
func Probe(ctx context.Context, t ProbeTarget) (ProbeResult, error) { return ProbeResult{}, nil }

// ServeProbe answers probes on the gateway addresses local until ctx is done.
// The addresses need not be there yet.
func ServeProbe(ctx context.Context, local []netip.Addr) error {
	<-ctx.Done()
	return nil
}
