package main

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/plugins"
	"github.com/weftnet/weft/internal/testnet"
)

const bridgeName = "bridge+host-local"

// caller makes CNI calls as a runtime does, on one node.
type caller struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	node *testnet.NS
}

// cniMetrics measures cni_*: the calls of libcni, with the start of the plugin.
func cniMetrics(ctx context.Context, o options, r *report) (err error) {
	names := []string{
		"cni_add_p50", "cni_add_p99", "cni_del_p50",
		"cni_add_p50_16", "cni_add_p99_16", "cni_del_p50_16", "cni_add_growth",
	}
	if !slices.ContainsFunc(names, o.run.MatchString) {
		return nil
	}
	callers, done, err := callers(ctx, o)
	defer func() { err = errors.Join(err, done()) }()
	if err != nil {
		return err
	}
	for _, set := range []struct {
		suffix   string
		parallel int
	}{{"", 1}, {"_16", 16}} {
		if !o.run.MatchString("cni_add_p50"+set.suffix) && !o.run.MatchString("cni_add_p99"+set.suffix) &&
			!o.run.MatchString("cni_del_p50"+set.suffix) {
			continue
		}
		var adds, dels [parties][]float64
		for i := range max(o.rounds, 2) {
			order := []party{weft, peer}
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				a, d, err := churn(ctx, callers[p], 48, set.parallel)
				if err != nil {
					return err
				}
				adds[p], dels[p] = append(adds[p], a...), append(dels[p], d...)
			}
		}
		for _, m := range []struct {
			name   string
			values [parties][]float64
			q      float64
		}{{"cni_add_p50", adds, 0.5}, {"cni_add_p99", adds, 0.99}, {"cni_del_p50", dels, 0.5}} {
			if name := m.name + set.suffix; o.run.MatchString(name) {
				w, b := quantile(m.values[weft], m.q), quantile(m.values[peer], m.q)
				if err := r.addOf(name, "ms", bridgeName, len(m.values[weft]), *w, *b); err != nil {
					return err
				}
			}
		}
	}
	if !o.run.MatchString("cni_add_growth") {
		return nil
	}
	var g [parties]float64
	for _, p := range []party{weft, peer} {
		if g[p], err = growth(ctx, callers[p], o.pods); err != nil {
			return err
		}
	}
	return r.addOf("cni_add_growth", "ratio", bridgeName, 1, g[weft], g[peer])
}

// callers prepares a node with Weft and a node for bridge and host-local. done must be
// called in any case.
func callers(ctx context.Context, o options) (all [parties]*caller, done func() error, err error) {
	c, err := cluster.New(cluster.Spec{Bin: o.bin})
	if err != nil {
		return all, func() error { return nil }, err
	}
	done = c.Close
	n := c.Nodes[0]
	// Room for all rounds: an address is not used again for a while.
	n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/64")}
	if err := c.WriteNode(n); err != nil {
		return all, done, err
	}
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.Start(ready); err != nil {
		return all, done, err
	}
	list, err := n.ConfList()
	if err != nil {
		return all, done, err
	}
	all[weft] = &caller{cni: n.CNI(), list: list, node: n.NS}

	bin := filepath.Join(o.dir, "bridge-bin")
	if err := plugins.Build(ctx, bin); err != nil {
		return all, done, err
	}
	node, err := testnet.Create("weft-bench")
	if err != nil {
		return all, done, err
	}
	done = func() error { return errors.Join(node.Close(), c.Close()) }
	list, err = plugins.Bridge("10.97.0.0/16", "fd00:97::/64", filepath.Join(o.dir, "host-local"))
	if err != nil {
		return all, done, err
	}
	all[peer] = &caller{
		cni:  libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(o.dir, "cache"), nil),
		list: list, node: node,
	}
	return all, done, nil
}

// churn adds n pods, some of them side by side, and deletes them; it returns each
// call's time in ms. Their namespaces are made before and removed after.
func churn(ctx context.Context, c *caller, n, parallel int) (adds, dels []float64, err error) {
	pods, remove, err := namespaces(n)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return nil, nil, err
	}
	if adds, err = c.all(ctx, pods, parallel, c.add); err != nil {
		return nil, nil, err
	}
	dels, err = c.all(ctx, pods, parallel, c.del)
	return adds, dels, err
}

// growth is the median ADD of the last ten of n pods over that of the first ten.
func growth(ctx context.Context, c *caller, n int) (ratio float64, err error) {
	pods, remove, err := namespaces(n)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return 0, err
	}
	adds, err := c.all(ctx, pods, 1, c.add)
	if err != nil {
		return 0, err
	}
	if _, err := c.all(ctx, pods, 1, c.del); err != nil {
		return 0, err
	}
	return *median(adds[n-10:]) / *median(adds[:10]), nil
}

func namespaces(n int) (pods []*testnet.NS, remove func() error, err error) {
	remove = func() error {
		var errs []error
		for _, p := range pods {
			errs = append(errs, p.Close())
		}
		return errors.Join(errs...)
	}
	for range n {
		p, err := testnet.Create("weft-bench-pod")
		if err != nil {
			return pods, remove, err
		}
		pods = append(pods, p)
	}
	return pods, remove, nil
}

// all calls f for each pod, so many at a time, and returns the calls' times in ms. The
// plugins run in the node's namespace, for which each caller has a thread there.
func (c *caller) all(ctx context.Context, pods []*testnet.NS, parallel int, f func(context.Context, *testnet.NS) error) ([]float64, error) {
	times, errs := make([]float64, len(pods)), make([]error, len(pods))
	next := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				begin := time.Now()
				errs[i] = f(ctx, pods[i])
				times[i] = float64(time.Since(begin)) / float64(time.Millisecond)
			}
		})
	}
	for i := range pods {
		next <- i
	}
	close(next)
	wg.Wait()
	return times, errors.Join(errs...)
}

func (c *caller) runtime(p *testnet.NS) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.Name, NetNS: p.Path(), IfName: "eth0"}
}

func (c *caller) add(ctx context.Context, p *testnet.NS) error {
	return c.node.Do(func() error {
		_, err := c.cni.AddNetworkList(ctx, c.list, c.runtime(p))
		return err
	})
}

func (c *caller) del(ctx context.Context, p *testnet.NS) error {
	return c.node.Do(func() error { return c.cni.DelNetworkList(ctx, c.list, c.runtime(p)) })
}
