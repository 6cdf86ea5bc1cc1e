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
	"strings"
	"syscall"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/engine"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/e2e/kind/scenario"
	"github.com/weftnet/weft/e2e/kind/upstream"
)

func main() {
	engine.Main()
	var o options
	flag.StringVar(&o.families, "family", "dual", "address families of the clusters: dual, ipv4, ipv6, or several with commas")
	flag.StringVar(&o.focus, "focus", upstream.Conformance, "regular expression for upstream's specs; empty: none")
	flag.IntVar(&o.procs, "procs", 4, "specs that run at a time")
	flag.StringVar(&o.network, "network", "reference", "what to install: a manifest's file, or reference (ptp and kube-proxy)")
	flag.StringVar(&o.image, "image", "", "archive of the image that the manifest names, for all nodes")
	flag.StringVar(&o.out, "out", "", "folder for reports and, on failure, logs; empty: one below the cache")
	flag.BoolVar(&o.full, "full", false, "all families, and all of upstream's specs that need no cloud")
	flag.BoolVar(&o.hold, "hold", false, "leave the cluster up until Ctrl-C, after the tests")
	flag.BoolVar(&o.buildOnly, "build-only", false, "only make what a cluster needs")
	flag.Parse()
	if o.full {
		o.families, o.focus = "dual,ipv4,ipv6", upstream.Full
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once; the next run cleans up
	err := o.run(ctx, progress.New(os.Stdout))
	if ctx.Err() != nil {
		err = errors.New("interrupted") // whatever has failed, has failed by that
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

type options struct {
	families, focus, out  string
	network, image        string
	procs                 int
	full, hold, buildOnly bool
}

func (o options) run(ctx context.Context, log *progress.Log) (err error) {
	if os.Getuid() != 0 {
		return errors.New("namespaces and the container engine need root: sudo make e2e")
	}
	given, err := o.chosen()
	if err != nil {
		return err
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
	made, err := build.Prepare(ctx, store)
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
	var errs []error
	for _, family := range strings.Split(o.families, ",") {
		if ctx.Err() == nil {
			errs = append(errs, o.test(ctx, log, eng, made, given, cluster.Family(family)))
		}
	}
	return errors.Join(errs...)
}

// test makes one cluster and tests it.
func (o options) test(ctx context.Context, log *progress.Log, eng *engine.Engine, made build.Prepared, given network, family cluster.Family) (err error) {
	out := filepath.Join(o.out, string(family))
	if err := os.RemoveAll(out); err != nil {
		return fmt.Errorf("remove the last run's reports: %w", err)
	}
	c, err := cluster.Up(ctx, eng, cluster.Tools{Kind: made.Kind, Kubectl: made.Kubectl}, out, cluster.Spec{
		Family: family, Image: made.NodeKey, KubeProxy: given.kubeProxy,
	}, log)
	if err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, log.Step("collect logs", func() error { return c.Logs(clean, filepath.Join(out, "logs")) }))
		}
		if o.hold && ctx.Err() == nil {
			o.lookAround(c, eng)
			<-ctx.Done()
		}
		err = errors.Join(err, log.Step("remove the cluster", func() error { return c.Down(clean) }))
	}()
	if made.TestArchive != "" {
		if err := c.LoadImage(ctx, made.TestArchive); err != nil {
			return err
		}
	}
	if err := c.Install(ctx, given.name, given.install); err != nil {
		return err
	}
	played := scenario.Play(ctx, c, log, scenario.Short())
	return errors.Join(played, o.upstream(ctx, log, c, made, out))
}

// upstream runs upstream's tests and says what became of each.
func (o options) upstream(ctx context.Context, log *progress.Log, c *cluster.Cluster, made build.Prepared, out string) error {
	if o.focus == "" || ctx.Err() != nil {
		return nil
	}
	tools := upstream.Tools{Tests: made.Tests, Ginkgo: made.Ginkgo, Kubectl: made.Kubectl}
	specs, err := upstream.Run{Focus: o.focus, Procs: o.procs}.Do(ctx, c, tools, out, log)
	if err != nil {
		return err
	}
	upstream.Print(os.Stdout, specs)
	if failed := upstream.Failures(specs); len(failed) > 0 {
		return fmt.Errorf("%d of upstream's specs failed on the %s cluster; see %s", len(failed), c.Spec.Family, out)
	}
	return nil
}

func (o options) lookAround(c *cluster.Cluster, eng *engine.Engine) {
	fmt.Printf("\nThe cluster is up until Ctrl-C. To look around:\n  %s\n",
		strings.Join(c.Kubectl(context.Background(), "--kubeconfig="+c.Kubeconfig(), "get", "pods", "-A").Args, " "))
}
