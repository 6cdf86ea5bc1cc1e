package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/engine"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/e2e/kind/scenario"
	"github.com/weftnet/weft/e2e/kind/upstream"
)

// plan is one cluster and what it is asked for.
type plan struct {
	name        string // of its folder for reports
	spec        cluster.Spec
	focus       string
	network     network
	first, last []scenario.Scenario // played before and after upstream's tests
}

func (o options) plans() ([]plan, error) {
	byManifest, err := o.chosen(false)
	if err != nil {
		return nil, err
	}
	byCLI, err := o.chosen(true)
	if err != nil {
		return nil, err
	}
	short, err := o.choose(byManifest, scenario.Short())
	if err != nil {
		return nil, err
	}
	long, err := o.choose(byManifest, scenario.Long())
	if err != nil {
		return nil, err
	}
	outside, err := o.choose(byManifest, scenario.Outside())
	if err != nil {
		return nil, err
	}
	last, err := o.choose(byManifest, scenario.Last())
	if err != nil {
		return nil, err
	}
	if o.scenarios != "" && len(short)+len(long)+len(outside)+len(last) == 0 {
		return nil, fmt.Errorf("-scenarios: none of %s is called %q", byManifest.name, o.scenarios)
	}
	all := append(short, long...)
	with := func(focus string) string { return focus + "|" + upstream.Policies }
	if !byManifest.weft { // the reference knows no policies
		with = func(focus string) string { return focus }
		if o.focus == upstream.Short {
			o.focus = upstream.Conformance
		}
	}
	if !o.full {
		if o.scenarios != "" {
			short = append(all, outside...)
		}
		return []plan{{string(o.spec.Family), o.spec, o.focus, byManifest, short, last}}, nil
	}
	return []plan{
		{"dual", cluster.Spec{Family: cluster.Dual}, with(upstream.FullDual), byManifest, all, last},
		{"ipv4", cluster.Spec{Family: cluster.IPv4}, with(upstream.Full), byCLI, all, last},
		{"ipv6", cluster.Spec{Family: cluster.IPv6}, with(upstream.Full), byCLI, all, last},
		{"outside", cluster.Spec{Family: cluster.Dual}, upstream.LoadBalancers, byManifest, outside, nil},
		{"zones", cluster.Spec{Family: cluster.Dual, Workers: 6, Zones: 3}, upstream.Zoned, byManifest, nil, nil},
	}, nil
}

// test makes one cluster and tests it.
func (o options) test(ctx context.Context, log *progress.Log, eng *engine.Engine, made build.Prepared, p plan) (err error) {
	out := filepath.Join(o.out, p.name)
	if err := os.RemoveAll(out); err != nil {
		return fmt.Errorf("remove the last run's reports: %w", err)
	}
	checkout, err := filepath.Abs(o.checkout)
	if err != nil {
		return fmt.Errorf("find the checkout: %w", err)
	}
	p.spec.Image, p.spec.KubeProxy = made.NodeKey, p.network.kubeProxy
	tools := cluster.Tools{Kind: made.Kind, Kubectl: made.Kubectl, Plugins: made.Plugins, Checkout: checkout}
	c, err := cluster.Up(ctx, eng, tools, out, p.spec, log)
	if err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		if err != nil && ctx.Err() == nil {
			tell(clean, c, p.network.weft)
			err = errors.Join(err, log.Step("collect logs in "+filepath.Join(out, "logs"), func() error { return c.Logs(clean, filepath.Join(out, "logs")) }))
		}
		if o.hold && ctx.Err() == nil {
			if err != nil { // Ctrl-C is all that the end will tell of
				fmt.Fprintln(os.Stderr, "e2e:", err)
			}
			lookAround(c)
			err = errors.Join(err, c.Hold(ctx))
		}
		err = errors.Join(err, log.Step("remove the cluster", func() error { return c.Down(clean) }))
	}()
	if made.TestArchive != "" {
		if err := c.LoadImage(ctx, made.TestArchive); err != nil {
			return err
		}
	}
	if err := scenario.Remember(ctx, c); err != nil {
		return err
	}
	if err := c.Install(ctx, p.network.name, p.network.install); err != nil {
		return err
	}
	played := scenario.Play(ctx, c, log, p.first)
	passed := o.upstream(ctx, log, c, made, p.focus, out)
	return errors.Join(played, passed, scenario.Play(ctx, c, log, p.last))
}

// upstream runs upstream's tests and says what became of each.
func (o options) upstream(ctx context.Context, log *progress.Log, c *cluster.Cluster, made build.Prepared, focus, out string) error {
	if focus == "" || ctx.Err() != nil {
		return nil
	}
	tools := upstream.Tools{Tests: made.Tests, Ginkgo: made.Ginkgo, Kubectl: made.Kubectl}
	specs, err := upstream.Run{Focus: focus, Procs: o.procs}.Do(ctx, c, tools, out, log)
	if err != nil {
		return err
	}
	upstream.Print(os.Stdout, specs)
	if failed := upstream.Failures(specs); len(failed) > 0 {
		return fmt.Errorf("%d of upstream's specs failed on the %s cluster; see %s", len(failed), c.Spec.Family, out)
	}
	return nil
}

// lookAround says how to reach a cluster.
func lookAround(c *cluster.Cluster) {
	fmt.Printf("\nThe cluster is up until Ctrl-C. To look around:\n  %s\n",
		strings.Join(c.Kubectl(context.Background(), "--kubeconfig="+c.Kubeconfig(), "get", "pods", "-A").Args, " "))
}
