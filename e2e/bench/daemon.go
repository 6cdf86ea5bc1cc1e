package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
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
	if err := c.WriteObject("many", manyNodes(o.nodes-1)); err != nil {
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
	before, err := cpuTime(n.PID())
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, o.idle); err != nil {
		return err
	}
	after, err := cpuTime(n.PID())
	if err != nil {
		return err
	}
	percent := 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	if memory {
		mib, err := pss(n.PID())
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

// manyNodes are Node objects with addresses that exist nowhere.
func manyNodes(n int) string {
	var b strings.Builder
	for i := range n {
		high, low := i/250, i%250+1
		b.WriteString("---\n" + cluster.NodeYAML(fmt.Sprintf("far-%d", i), []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 32+high, low)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:32:%x::/64", i)),
		}, []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.19.%d.%d", high, low))}))
	}
	return b.String()
}

// pss is a process's share of memory in MiB (proc_pid_smaps(5), smaps_rollup).
func pss(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of the daemon: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "Pss:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("read memory of the daemon: smaps_rollup has no Pss")
}

// cpuTime is what a process has used of the CPUs (proc_pid_schedstat: nanoseconds for
// each thread).
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time of the daemon: %w", err)
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("read CPU time of the daemon: %w", err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
