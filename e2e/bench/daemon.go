package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
)

// daemonMetrics measures the memory and the idle CPU of a daemon with many pods that
// knows many nodes.
func daemonMetrics(ctx context.Context, o options, r *report) (err error) {
	memory, cpu := o.run.MatchString("daemon_pss_mib"), o.run.MatchString("daemon_idle_cpu_percent")
	if !memory && !cpu {
		return nil
	}
	c, err := cluster.New(cluster.Spec{Bin: o.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.WriteObject("far", cluster.FarNodes(o.nodes-1)); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Start(ready); err != nil {
		return err
	}
	n := c.Nodes[0]
	for i := range o.pods {
		if _, err := n.AddPod(ctx, fmt.Sprint("pod-", i)); err != nil {
			return err
		}
	}
	if err := pause(ctx, 15*time.Second); err != nil { // what the start left to do
		return err
	}
	before, err := n.CPUTime()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, o.idle); err != nil {
		return err
	}
	after, err := n.CPUTime()
	if err != nil {
		return err
	}
	percent := 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	if memory {
		mib, err := n.PSS()
		if err != nil {
			return err
		}
		if err := r.add("daemon_pss_mib", "MiB", "", [parties][]float64{weft: {mib}}); err != nil {
			return err
		}
	}
	if cpu {
		return r.add("daemon_idle_cpu_percent", "%", "", [parties][]float64{weft: {percent}})
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
