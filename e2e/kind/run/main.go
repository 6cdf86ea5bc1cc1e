// Command run tests Weft in a kind cluster, from nothing: it makes what the cluster needs
// (the first time: half an hour), brings the cluster up, installs a network, runs
// upstream's tests, and takes everything down. `make e2e` calls it, as root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/echo"
	"github.com/weftnet/weft/e2e/kind/engine"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/e2e/kind/upstream"
)

func main() {
	engine.Main()
	echo.Main()
	var o options
	flag.StringVar((*string)(&o.spec.Family), "family", "dual", "address families of the cluster: dual, ipv4, ipv6")
	flag.IntVar(&o.spec.Workers, "workers", 2, "nodes beside the control plane")
	flag.IntVar(&o.spec.Zones, "zones", 0, "zones that the workers are spread over")
	flag.StringVar(&o.focus, "focus", upstream.Short, "regular expression for upstream's specs; empty: none")
	flag.IntVar(&o.procs, "procs", 4, "specs that run at a time")
	flag.StringVar(&o.network, "network", "weft", "what to install: weft, by the checkout's manifest; another manifest of Weft's; or reference (ptp and kube-proxy)")
	flag.StringVar(&o.image, "image", "", "archive of the image that the manifest names; empty: the checkout's bin/weft-image.tar")
	flag.StringVar(&o.checkout, "checkout", ".", "folder of Weft's sources, with what make image has put into bin/")
	flag.StringVar(&o.out, "out", "", "folder for reports and, on failure, logs; empty: one below the cache")
	flag.StringVar(&o.scenarios, "scenarios", "", "regular expression for scenarios; empty: the short ones, with -full all")
	flag.StringVar(&o.held, "held", "", "folder of a cluster that another run holds (its -out, and the family): only play scenarios there")
	flag.BoolVar(&o.full, "full", false, "clusters of all families, all scenarios, and all of upstream's specs that need no cloud")
	flag.StringVar(&o.only, "only", "", "regular expression for those of -full's clusters that are made: dual, ipv4, ipv6, outside, zones; empty: all")
	flag.BoolVar(&o.policyAPI, "policy-api", false, "also the conformance suite of network-policy-api; with -full on the dual-stack and the IPv6 cluster")
	flag.BoolVar(&o.hold, "hold", false, "leave the cluster up until Ctrl-C, after the tests")
	flag.BoolVar(&o.buildOnly, "build-only", false, "only make what a cluster needs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once; the next run cleans up
	var rep report
	err := o.run(ctx, progress.New(os.Stdout), &rep)
	if ctx.Err() != nil {
		err = errors.New("interrupted") // whatever has failed, has failed by that
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	rep.print(os.Stdout)
	if err != nil {
		os.Exit(1)
	}
}

type options struct {
	spec                  cluster.Spec
	focus, out            string
	network, image        string
	checkout              string
	scenarios, held, only string
	procs                 int
	full, hold, buildOnly bool
	policyAPI             bool
}

func (o options) run(ctx context.Context, log *progress.Log, rep *report) (err error) {
	if os.Getuid() != 0 {
		return errors.New("namespaces and the container engine need root: sudo make e2e")
	}
	if o.held != "" {
		return o.playHeld(ctx, log, rep)
	}
	plans, err := o.plans()
	if err != nil {
		return err
	}
	if err := engine.Able(ctx); err != nil {
		return fmt.Errorf("no container engine can run here, so nothing is tested: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find the cache: %w", err)
	}
	cache = filepath.Join(cache, "weft", "kind")
	store, err := build.Open(ctx, cache, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	wanted := build.Wanted{PolicyAPI: o.buildOnly, SCTP: upstream.SCTP()}
	for _, p := range plans {
		wanted.PolicyAPI = wanted.PolicyAPI || p.policyAPI
	}
	made, err := build.Prepare(ctx, store, wanted)
	if err != nil || o.buildOnly {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(cache, "out")
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return fmt.Errorf("find the folder for reports: %w", err)
	}
	var eng *engine.Engine
	err = log.Step("start the container engine", func() error {
		eng, err = engine.Start(ctx, filepath.Join(cache, "engine"), log)
		if err != nil {
			return err
		}
		return eng.Load(ctx, made.NodeArchive, made.NodeImage, made.NodeKey)
	})
	if eng != nil {
		defer func() { err = errors.Join(err, log.Step("stop the engine", eng.Close)) }()
	}
	if err != nil {
		return err
	}
	return each(ctx, plans, rep, func(p plan) error { return o.test(ctx, log, eng, made, p, rep) })
}
