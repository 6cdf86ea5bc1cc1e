package daemon

import (
	"context"
	"time"

	"github.com/weftnet/weft/plugin"
)

// installOptions is what is installed where.
func installOptions(cfg Config) (plugin.InstallOptions, error) {
	binary, err := cfg.binary()
	return plugin.InstallOptions{
		Binary: binary, BinDir: cfg.BinDir, ConfDir: cfg.ConfDir,
		Socket: cfg.Socket, StateDir: cfg.StateDir,
	}, err
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
func (n *node) install(ctx context.Context) error {
	for n.net().Ready != nil && len(n.pools.Leases()) == 0 {
		if !sleep(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	report := func(err error) {
		n.problems.err(problemInstall, err)
		n.installed.Store(err == nil)
	}
	o, err := installOptions(n.cfg)
	if err != nil {
		report(err)
		return nil
	}
	report(plugin.Install(o))
	for {
		err := plugin.Watch(ctx, o, n.log, report)
		if ctx.Err() != nil {
			return nil
		}
		report(err)
		if !sleep(ctx, sweepEvery) {
			return nil
		}
	}
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
