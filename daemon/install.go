package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/plugin"
)

// installOptions is what is installed where.
func installOptions(cfg Config) (plugin.InstallOptions, error) {
	binary, err := cfg.binary()
	chain, bad := plugin.ParseChain(cfg.CNIChain)
	return plugin.InstallOptions{
		Binary: binary, BinDir: cfg.BinDir, ConfDir: cfg.ConfDir,
		Socket: cfg.Socket, StateDir: cfg.StateDir, Chain: chain,
	}, errors.Join(err, bad)
}

// Install writes the CNI binary and configuration, and does nothing else.
func Install(cfg Config) error {
	o, err := installOptions(cfg)
	if err != nil {
		return err
	}
	return plugin.Install(o)
}

// install writes the CNI binary and configuration once the node can serve, or has pods
// already, and puts them back whenever they vanish, until ctx is done. They stay when
// the daemon ends: without them no pod could be removed (docs/ARCHITECTURE.md).
//
// It ends the daemon where it cannot put them back but its next container can.
func (n *node) install(ctx context.Context) error {
	for n.net().Ready != nil && len(n.pools.Leases()) == 0 {
		if !sleep(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	report := func(err error) {
		n.problems.err(problemInstall, err)
		n.installed.Store(err == nil)
		for _, dir := range []string{n.cfg.BinDir, n.cfg.ConfDir} {
			if err != nil && deadMount(dir) {
				end(fmt.Errorf("%s %w", dir, errDeadMount))
			}
		}
	}
	o, err := installOptions(n.cfg)
	if err != nil {
		report(err)
		return nil
	}
	report(plugin.Install(o))
	plugin.Watch(ctx, o, n.log, report)
	return removed(ctx)
}

// removed is why install ended ctx by itself; nil if it did not.
func removed(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, errDeadMount) {
		return err
	}
	return nil
}

var errDeadMount = errors.New("was removed on the node, and this container keeps what was there: it must start anew")

// deadMount says whether a folder that a container has from its node was removed there.
// Nothing can be made in it, not even if there is another of its name on the node.
func deadMount(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Nlink == 0
}

// sleep is false if ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
