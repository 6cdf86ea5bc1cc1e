package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

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
	policyAPI   bool // whether network-policy-api's suite is run, too
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
		return []plan{{string(o.spec.Family), o.spec, o.focus, o.policyAPI, byManifest, short, last}}, nil
	}
	return o.chosenOf([]plan{
		{"dual", cluster.Spec{Family: cluster.Dual}, with(upstream.FullDual), byManifest.weft, byManifest, all, last},
		{"ipv4", cluster.Spec{Family: cluster.IPv4}, with(upstream.Full), false, byCLI, all, last},
		// network-policy-api's suite asks the first address of a pod: on dual-stack that is IPv4.
		{"ipv6", cluster.Spec{Family: cluster.IPv6}, with(upstream.Full), byManifest.weft, byCLI, all, last},
		{"outside", cluster.Spec{Family: cluster.Dual}, upstream.LoadBalancers, false, byManifest, outside, nil},
		{"zones", cluster.Spec{Family: cluster.Dual, Workers: 6, Zones: 3}, upstream.Zoned, false, byManifest, nil, nil},
	})
}

// chosenOf are the plans that -only names.
func (o options) chosenOf(all []plan) ([]plan, error) {
	matches, err := regexp.Compile(o.only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var names []string
	chosen := slices.DeleteFunc(all, func(p plan) bool {
		names = append(names, p.name)
		return !matches.MatchString(p.name)
	})
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-only: no cluster is called %q; they are %s", o.only, strings.Join(names, ", "))
	}
	return chosen, nil
}

// patience is how long a cluster may take to come up, to tell why something failed, or to be
// removed: a multiple of what it takes on a busy machine. What hangs must not keep the next
// cluster from being tested.
const patience = 20 * time.Minute

// test makes one cluster and tests it: each part also if one before it failed.
func (o options) test(ctx context.Context, log *progress.Log, eng *engine.Engine, made build.Prepared, p plan, rep *report) (err error) {
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
	bringing, brought := context.WithTimeout(ctx, patience)
	defer brought()
	c, err := cluster.Up(bringing, eng, tools, out, p.spec, log)
	if err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		if err != nil && ctx.Err() == nil {
			tell(clean, c, p.network.weft)
			err = errors.Join(err, log.Step("collect logs in "+filepath.Join(out, "logs"), func() error {
				collecting, stop := context.WithTimeout(clean, patience)
				defer stop()
				return c.Logs(collecting, filepath.Join(out, "logs"))
			}))
		}
		if o.hold && ctx.Err() == nil {
			if err != nil { // Ctrl-C is all that the end will tell of
				fmt.Fprintln(os.Stderr, "e2e:", err)
			}
			lookAround(c)
			err = errors.Join(err, c.Hold(ctx))
		}
		err = errors.Join(err, log.Step("remove the cluster", func() error {
			removing, stop := context.WithTimeout(clean, patience)
			defer stop()
			return c.Down(removing)
		}))
	}()
	if made.TestArchive != "" {
		if err := c.LoadImage(bringing, made.TestArchive); err != nil {
			return err
		}
	}
	if err := scenario.Remember(bringing, c); err != nil {
		return err
	}
	if err := c.Install(bringing, p.network.name, p.network.install); err != nil {
		return err
	}
	var errs []error
	play := func(scenarios []scenario.Scenario) {
		played, err := scenario.Play(ctx, c, log, scenarios)
		rep.scenarios(p.name, played, err)
		errs = append(errs, err)
	}
	ask := func(what string, run func() ([]upstream.Spec, error)) {
		if ctx.Err() != nil {
			return
		}
		specs, err := run()
		rep.add(p.name, what, specs, err)
		upstream.Print(os.Stdout, specs)
		if failed := upstream.Failures(specs); len(failed) > 0 {
			err = errors.Join(err, fmt.Errorf("%d of %s failed on the %s cluster; see %s", len(failed), what, c.Spec.Family, out))
		}
		errs = append(errs, err)
	}
	play(p.first)
	if p.focus != "" {
		ask("upstream's specs", func() ([]upstream.Spec, error) {
			tools := upstream.Tools{Tests: made.Tests, Ginkgo: made.Ginkgo, Kubectl: made.Kubectl}
			return upstream.Run{Focus: p.focus, Procs: o.procs}.Do(ctx, c, tools, out, log)
		})
	}
	if p.policyAPI {
		ask("network-policy-api's tests", func() ([]upstream.Spec, error) {
			return upstream.PolicyAPI(ctx, c, made.PolicyAPI, out, log)
		})
	}
	play(p.last)
	return errors.Join(errs...)
}

// each tests all clusters, also after one that failed, until ctx ends.
func each(ctx context.Context, plans []plan, rep *report, test func(plan) error) error {
	var errs []error
	for _, p := range plans {
		if ctx.Err() == nil {
			err := test(p)
			rep.ended(p.name, err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lookAround says how to reach a cluster.
func lookAround(c *cluster.Cluster) {
	fmt.Printf("\nThe cluster is up until Ctrl-C. To look around:\n  %s\n",
		strings.Join(c.Kubectl(context.Background(), "--kubeconfig="+c.Kubeconfig(), "get", "pods", "-A").Args, " "))
}
