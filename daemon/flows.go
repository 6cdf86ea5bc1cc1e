package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/pace"
)

const (
	// flowsEvery is how often translated flows are looked through.
	flowsEvery = pace.Seldom
	// unmarkEvery is after how many of these looks the clients without flows are
	// forgotten: their packets only cost a little more.
	unmarkEvery = 20
	// allowedLooks is at how many more looks flows of isolated pods are looked through when
	// there is no such pod and no such flow any more: those that have ended are still there.
	allowedLooks = 5
	// endEvery is how long at least there is between two looks for sockets that are
	// connected to backends that are gone.
	endEvery = 500 * time.Millisecond
)

// noSockets is the setting by which sockets are left alone.
const noSockets = "none"

// cgroup is the folder of the cgroup whose sockets are served; empty: none are, and the
// error says why if they should be.
func (c Config) cgroup() (string, error) {
	switch {
	case c.Cgroup == noSockets:
		return "", nil
	case c.Cgroup != "":
		var fs unix.Statfs_t
		if err := unix.Statfs(c.Cgroup, &fs); err != nil {
			return "", fmt.Errorf("no socket is served: look at cgroup %s: %w", c.Cgroup, err)
		}
		if fs.Type != unix.CGROUP2_SUPER_MAGIC {
			return "", fmt.Errorf("no socket is served: the setting cgroup is %s, which is not on a cgroup2 file system: leave it empty for the highest cgroup, or set it to none", c.Cgroup)
		}
		return c.Cgroup, nil
	}
	return bpf.FindCgroup()
}

// collectFlows forgets flows that were silent too long, those of isolated pods too, and what else is remembered and of
// no use, until ctx is done.
func (n *node) collectFlows(ctx context.Context, dp *bpf.Datapath) error {
	gone := isGone(dp)
	alone := 0 // looks at allowed flows in a row that found neither one nor an isolated pod
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace.Next(flowsEvery)):
		}
		live, adopted := int64(0), false
		_, err := dp.Collect(bpf.DefaultTimeouts, func(f bpf.Flow) {
			live++
			adopted = adopted || f.Adopted && f.Protocol == bpf.TCP
		})
		if err == nil && !adopted {
			err = dp.LeavePodsToPackets(false)
		}
		if err == nil {
			_, err = dp.Forget(gone)
		}
		if err == nil && round%unmarkEvery == unmarkEvery-1 {
			err = dp.Unmark()
		}
		n.liveFlows.Store(live)
		if alone++; n.policies.pods.takeIsolated() {
			alone = 0
		}
		if alone <= allowedLooks { // the programs add none then
			allowed := int64(0)
			_, allowedErr := dp.CollectAllowed(bpf.DefaultTimeouts, func(bpf.AllowedFlow) { allowed++ })
			err = errors.Join(err, allowedErr)
			if n.allowedFlows.Store(allowed); allowed > 0 || allowedErr != nil {
				alone = 0
			}
		}
		n.problems.err(problemFlows, err)
	}
}

// endSockets ends, after each change of Services, the sockets that are connected to
// backends that are gone, until ctx is done. One that connects just then is found by
// the next look, a minute later if not before.
func (n *node) endSockets(ctx context.Context, dp *bpf.Datapath, pods *endpoint.Manager) error {
	gone := isGone(dp)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.backendsChanged:
		case <-time.After(pace.Next(wholeEvery)):
		}
		ended, err := dp.EndSockets(gone, namespaces(pods.List())...)
		if ended > 0 {
			n.log.Info("connections to backends that are gone were ended", "sockets", ended)
		}
		if err != nil {
			err = fmt.Errorf("end connections to backends that are gone: %w", err)
		}
		n.problems.err(problemSockets, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(endEvery):
		}
	}
}

// isGone says of a backend whether it is gone.
func isGone(dp *bpf.Datapath) func(bpf.Place, uint32) bool {
	alive := dp.Services().Alive
	return func(at bpf.Place, generation uint32) bool {
		now, ok := held(alive, at)
		return !ok || now != generation
	}
}

// namespaces is the paths of the node's network namespace and those of its pods.
func namespaces(pods []api.Endpoint) []string {
	paths := []string{"/proc/self/ns/net"}
	for _, p := range pods {
		if p.Netns != "" {
			paths = append(paths, p.Netns)
		}
	}
	return paths
}
