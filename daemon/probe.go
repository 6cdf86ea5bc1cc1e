package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/internal/pace"
	"github.com/weftnet/weft/overlay"
)

// probeEvery is how often a few peers are probed.
const probeEvery = pace.Usual

// reach is what the last probe of a node found out.
type reach struct {
	at     time.Time // zero: not probed yet
	result overlay.ProbeResult
	err    error // the probe could not be made
	lost   bool  // it does not answer those either by which nodes watch each other
}

func (r reach) ok() bool {
	return !r.at.IsZero() && r.err == nil && !r.lost && r.result.Reachable && !r.result.BadOffload && !r.result.MTUProblem
}

func (r reach) String() string {
	if r.lost {
		return "no answer"
	}
	return r.found()
}

// found is what the probe says: through the overlay a node may answer that is lost.
func (r reach) found() string {
	switch {
	case r.at.IsZero():
		return "unknown"
	case r.err != nil:
		return r.err.Error()
	case r.result.BadOffload:
		return "checksum"
	case !r.result.Reachable:
		return "no answer"
	case r.result.MTUProblem:
		return "mtu"
	}
	return "ok"
}

// silentProbes is how many of the peers of a round are such as did not answer, if there are.
const silentProbes = 2

// keepOldest puts e into a list of at most so many entries, those not probed for longest first:
// of two that are alike the one that came first. To sort a thousand would take longer than to
// probe them.
func keepOldest(list []*entry, e *entry, most int) []*entry {
	at := len(list)
	for at > 0 && e.reach.at.Before(list[at-1].reach.at) {
		at--
	}
	if at == most {
		return list
	}
	list = slices.Insert(list, at, e)
	return list[:min(most, len(list))]
}

// choose picks the peers of the next round: those not probed for longest, with two
// places for such as did not answer, so that a peer's return is seen soon also among
// a thousand.
func (b *book) choose() []overlay.ProbeTarget {
	bad := make([]*entry, 0, silentProbes+1)
	for _, e := range b.sorted() {
		if len(e.rows) > 0 && !e.reach.at.IsZero() && !e.reach.ok() {
			bad = keepOldest(bad, e, silentProbes)
		}
	}
	rest := make([]*entry, 0, overlay.MaxProbes+1)
	for _, e := range b.sorted() {
		if len(e.rows) > 0 && !slices.Contains(bad, e) {
			rest = keepOldest(rest, e, overlay.MaxProbes-len(bad))
		}
	}
	var out []overlay.ProbeTarget
	for _, e := range append(bad, rest...) {
		if t, ok := b.target(e); ok {
			out = append(out, t)
		}
	}
	return out
}

// target is how to probe a node: between the gateway addresses of a family.
func (b *book) target(e *entry) (overlay.ProbeTarget, bool) {
	for _, p := range e.rows {
		for _, local := range overlay.GatewayAddrs(b.self.PodCIDRs) {
			remote := overlay.GatewayAddrs([]netip.Prefix{p.Prefix})
			if len(remote) > 0 && remote[0].Is4() == local.Is4() {
				silent := !e.reach.at.IsZero() && e.reach.err == nil && !e.reach.result.Reachable
				return overlay.ProbeTarget{Name: e.node.Name, Local: local, Remote: remote[0], MTU: p.MTU, Silent: silent}, true
			}
		}
	}
	return overlay.ProbeTarget{}, false
}

// probe asks a few peers every now and then, until ctx is done.
func (n *node) probe(ctx context.Context) error {
	for {
		n.mu.Lock()
		targets := n.book.choose()
		n.mu.Unlock()
		results := make([]reach, len(targets))
		var g errgroup.Group
		for i, t := range targets {
			g.Go(func() error {
				r, err := overlay.Probe(ctx, t)
				results[i] = reach{at: time.Now(), result: r, err: err}
				return nil
			})
		}
		_ = g.Wait() // errors are in the results
		if ctx.Err() != nil {
			return nil
		}
		n.learn(targets, results)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace.Next(probeEvery)):
		}
	}
}

// learn takes up what probes found out: problems, and checksum offload that must go.
func (n *node) learn(targets []overlay.ProbeTarget, results []reach) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, t := range targets {
		e := n.book.entries[t.Name]
		if e == nil {
			continue
		}
		results[i].lost = e.reach.lost
		e.reach = results[i]
		if results[i].result.BadOffload {
			n.turnOff(e)
		}
	}
	var silent, damaged, narrow, failed []string
	for _, e := range n.book.sorted() {
		switch r := e.reach; r.found() {
		case "unknown", "ok":
		case "no answer":
			silent = append(silent, e.node.Name)
		case "checksum":
			damaged = append(damaged, e.node.Name)
		case "mtu":
			narrow = append(narrow, fmt.Sprintf("%s (%d bytes)", e.node.Name, e.rows[0].MTU))
		default:
			failed = append(failed, fmt.Sprintf("probe %s: %v", e.node.Name, r.err))
		}
	}
	n.problems.set(problemProbe, few(3, failed)...)
	n.problems.sum(problemUnreachable, names("no answer through the overlay from %s: is weftd running there, and does "+
		fmt.Sprintf("anything between drop UDP port %d? If so, let it pass, or set `port` to another on all nodes", n.cfg.Port), silent))
	n.problems.sum(problemChecksum, names("checksums are damaged on the way to %s: transmit checksum offload of "+
		"the uplink and of "+overlay.DeviceName+" is being turned off", damaged))
	n.problems.sum(problemNarrow, names("packets of the full size are lost on the way to %s: something between "+
		"carries less than its MTU and sends no \"too big\"; set `mtu` lower on all nodes", narrow))
}

// names is a text about some names, or empty if there are none.
func names(format string, list []string) string {
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(format, strings.Join(few(5, list), ", "))
}

// turnOff adds the devices on the way to a node to those without checksum offload.
// They stay there: that all is well now does not say that it would be with it.
func (n *node) turnOff(e *entry) {
	names := []string{overlay.DeviceName}
	for _, u := range n.around.uplinks {
		if len(e.rows) > 0 && u.Index == e.rows[0].LinkIndex {
			names = append(names, u.Name)
		}
	}
	for _, name := range names {
		if !slices.Contains(n.offload, name) {
			n.log.Warn("turn off transmit checksum offload", "ifname", name, "node", e.node.Name)
			n.offload = append(n.offload, name)
			offerLatest(n.poke, struct{}{})
		}
	}
}

// serveProbes answers other nodes' probes on the gateway addresses, until ctx is done.
func (n *node) serveProbes(ctx context.Context) error {
	var stop context.CancelFunc = func() {}
	done := make(chan struct{})
	close(done)
	for {
		select {
		case <-ctx.Done():
			stop()
			<-done
			return nil
		case local := <-n.gateways:
			stop()
			<-done
			var serve context.Context
			serve, stop = context.WithCancel(ctx)
			done = make(chan struct{})
			go func() {
				defer close(done)
				n.problems.err(problemProbeServer, overlay.ServeProbe(serve, local))
			}()
		}
	}
}
