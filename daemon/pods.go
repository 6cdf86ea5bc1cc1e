package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/pace"
)

// sweepEvery is how often all pods are looked at.
const sweepEvery = pace.Usual

// lookAfter sweeps the pods, and remakes them when what the node offers changes,
// until ctx is done.
func (n *node) lookAfter(ctx context.Context, pods *endpoint.Manager) error {
	tick := time.NewTimer(pace.Next(sweepEvery))
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			err = errors.Join(pods.Sweep(ctx), n.pools.Tidy())
			tick.Reset(pace.Next(sweepEvery))
		case <-n.remake:
			mtu := n.net().MTU
			n.log.Info("give the pods what the node now offers", "mtu", mtu)
			err = pods.SetMTU(mtu)
		}
		if ctx.Err() == nil {
			n.problems.err(problemPods, err)
		}
	}
}

// watchPods repairs pods on events, until ctx is done. When events cannot be had, the
// sweep goes on without them, and they are tried for again.
func (n *node) watchPods(ctx context.Context, pods *endpoint.Manager) error {
	for {
		err := pods.Watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		n.problems.set(problemWatch, fmt.Sprintf("no events from the pods' network namespaces, they are looked at every %s: %v", sweepEvery, err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}
