package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
	"github.com/weftnet/weft/overlay"
)

// Run is the daemon of one node, until ctx is done: then it stops serving and leaves
// everything in place, so that packets flow on. It works in the network namespace of
// the process. Killed at any point, it finds at its next start what it left.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	var memory garbage
	memory.begin()
	if err := preflight(cfg); err != nil {
		return err
	}
	if err := openSysctls("/proc/sys"); err != nil {
		return err
	}
	lock, err := patient(ctx, lockPatience, log, acquire, cfg.StateDir)
	if err != nil {
		return err
	}
	defer lock.release()
	pins, err := patient(ctx, pinsPatience, log, acquireDir, cfg.BPFDir)
	if err != nil {
		return err
	}
	defer pins.release()

	takeOver := cfg.Services && !bpf.ServesServices(cfg.BPFDir) // from kube-proxy, if there is one
	dp, err := bpf.Open(bpf.Options{
		Dir: cfg.BPFDir, Config: bpf.Config{VNI: cfg.VNI, Port: cfg.Port, AnnouncePort: cfg.announcePort(), Netfilter: !cfg.Services || takeOver},
		MaxEndpoints: families*cfg.MaxPods + hostRows, MaxPeers: families * cfg.MaxNodes, Log: log,
	})
	if err != nil {
		return fmt.Errorf("open datapath: %w", err)
	}
	defer dp.Close()
	counters, err := dp.Counters()
	if err != nil {
		return err
	}
	records, err := dp.Records()
	if err != nil {
		return err
	}
	defer records.Close()
	cgroup, cgroupErr := cfg.cgroup()
	t := newTables(cfg.StateDir, cgroup, dp)
	pools, err := ipam.Open(cfg.StateDir, ipam.Options{ReuseDelay: reuseDelay(cfg), Log: log})
	if err != nil {
		return fmt.Errorf("open leases: %w", err)
	}
	var pods *endpoint.Manager
	src, err := openSource(cfg, log, func(r api.Ref) map[string]string { return pods.Labels(r) })
	if err != nil {
		return err
	}
	n := newNode(cfg, log, t, pools, src)
	n.records = records
	if cfg.Services {
		n.announcer = newAnnouncer(cfg, n, dp)
		n.returns = newReturner(n, dp)
	}
	n.policies = newPolicies(policyDeps{
		node: cfg.NodeName, stateDir: cfg.StateDir, log: log, problems: n.problems,
		source: src.Snapshot, unpoliced: src.Unpoliced, noLabels: cfg.fromFolder(), rules: t.rules, classes: t.classes,
		held:    t.heldIsolation,
		isolate: func(r api.Ref) error { return pods.Isolate(r) },
		adopt:   func(p endpoint.Pod) error { return adoptConnections(t, dp, p) },
		rejudge: dp.Rejudge,
	})
	n.problems.err(problemCgroup, cgroupErr)
	if cgroup != "" {
		t.sockets.Put(ownerSelf, bpf.SocketPrograms())
	}
	pods = endpoint.New(endpoint.Deps{
		IPAM: pools, Routes: t.routes, Neighs: t.neighs, Rows: t.rows, Links: t.links,
		RowTarget: t.rowTarget, LinkTarget: t.linkTarget,
		Net: n.net, Changed: n.statuses.put, Ports: n.services.setPorts, Policies: n.policies, Log: log, StateDir: cfg.StateDir,
	})
	hadGateways := len(n.net().Gateways) > 0
	if err := pods.Restore(ctx); err != nil {
		n.problems.err(problemPods, err)
	}

	syncPods := func() {
		if err := src.SyncPods(pods.List()); err != nil {
			log.Warn("write status files, will retry", "err", err)
		}
	}
	if hadGateways { // before Services are made of what the source says: our pods are backends
		syncPods()
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return src.Run(ctx) })
	group.Go(func() error { return n.serve(ctx, dp, pods) })
	group.Go(func() error { return n.serveHealthPort(ctx) })
	group.Go(func() error { return n.servePage(ctx) })
	group.Go(func() error { return n.readDrops(ctx) })
	group.Go(func() error { return n.writeStatuses(ctx) })
	group.Go(func() error { return n.announceAddresses(ctx) })
	group.Go(func() error {
		events, err := overlay.Watch(ctx, log)
		if err != nil {
			return fmt.Errorf("watch the kernel: %w", err)
		}
		selfTest := func() error {
			if err := dp.SelfTest(); err != nil {
				return fmt.Errorf("datapath does not work on this kernel, the former one stays in force: %w", err)
			}
			return nil
		}
		settle := func() error {
			if !hadGateways { // only now is it known what the pods' rows are
				n.problems.err(problemPods, pods.Restore(ctx))
				syncPods()
			}
			t.all().AllowPrune()
			if err := n.pass(work{retry: true, source: !hadGateways}); err != nil {
				log.Warn("synchronisation is not complete, will retry", "err", err)
			}
			if err := selfTest(); err != nil {
				return err
			}
			n.problems.err(problemFlows, leavePods(dp))
			if err := dp.Commit(); err != nil {
				return fmt.Errorf("put datapath in force: %w", err)
			}
			if takeOver {
				takeFlowsOver(t, dp, log)
				n.problems.err(problemFlows, errors.Join(dp.TakeOver(), leavePods(dp)))
			}
			if err := forgetDatagrams(t, dp); err != nil {
				log.Warn("datagrams of pods with a bandwidth limit may stay unanswered", "err", err)
			}
			n.begin()
			return nil
		}
		// A new layout needs all rows, also those of Services, before it may be in force.
		former, err := dp.Former()
		if err != nil {
			return err
		}
		err = n.firstSync(ctx, hadGateways && !former)
		if errors.Is(err, errRecalled) {
			err = n.serveRecalled(selfTest)
		} else if err == nil {
			err = settle()
		}
		if err != nil {
			return ignoreDone(ctx, err)
		}
		group.Go(func() error { return n.loop(ctx, events, settle) })
		group.Go(func() error { return n.lookAfter(ctx, pods) })
		group.Go(func() error { return n.watchPods(ctx, pods) })
		group.Go(func() error { return n.probe(ctx) })
		group.Go(func() error { return n.serveProbes(ctx) })
		group.Go(func() error { return n.returns.run(ctx) })
		group.Go(func() error { return n.services.serveHealth(ctx) })
		group.Go(func() error { return n.allocator.run(ctx) })
		group.Go(func() error { return n.collectFlows(ctx, dp) })
		group.Go(func() error { return n.watchRoom(ctx, dp, counters) })
		group.Go(func() error { return n.endSockets(ctx, dp, pods) })
		group.Go(func() error { return n.install(ctx) })
		group.Go(func() error { return memory.giveBack(ctx) })
		return nil
	})
	err = group.Wait()
	n.flushStatuses() // of the calls that ended last
	return ignoreDone(ctx, err)
}

// families is how many addresses a pod has at most, and pod prefixes a node: as many
// rows they take in the maps.
const families = 2

// hostRows is the room in the map of endpoints for the node's own addresses.
const hostRows = 16

// ignoreDone is nil for the end that was asked for.
func ignoreDone(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// preflight says what this machine lacks.
func preflight(cfg Config) error {
	if os.Geteuid() != 0 {
		return errors.New("weftd must run as root: it makes network devices and loads BPF programs (try sudo)")
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if err := bpf.Preflight(cfg.BPFDir); err != nil {
		return fmt.Errorf("this machine cannot run Weft: %w", err)
	}
	return preflightSource(cfg)
}

// reuseDelay is the setting as package ipam takes it, where zero is the default.
func reuseDelay(cfg Config) time.Duration {
	if cfg.ReuseDelay == 0 {
		return -1
	}
	return cfg.ReuseDelay
}
