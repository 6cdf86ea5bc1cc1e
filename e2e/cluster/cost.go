package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PSS is the daemon's share of memory in MiB (proc_pid_smaps(5), smaps_rollup).
func (n *Node) PSS() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.PID()))
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

// Cost is what the daemon has cost so far.
type Cost struct {
	CPU     time.Duration
	Wakeups uint64 // of its threads, after they had nothing to do
}

// CPUTime is what the daemon has used of the CPUs.
func (n *Node) CPUTime() (time.Duration, error) {
	c, err := n.Cost()
	return c.CPU, err
}

// Cost reads it: /proc/PID/task/TID/schedstat, whose first number is nanoseconds, and
// status, which has voluntary context switches.
func (n *Node) Cost() (c Cost, err error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.PID()))
	if err != nil {
		return c, fmt.Errorf("read cost of the daemon: %w", err)
	}
	for _, t := range tasks {
		dir := fmt.Sprintf("/proc/%d/task/%s/", n.PID(), t.Name())
		stat, err := os.ReadFile(dir + "schedstat")
		var status []byte
		if err == nil {
			status, err = os.ReadFile(dir + "status")
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // it has ended
			continue
		} else if err != nil {
			return c, fmt.Errorf("read cost of the daemon: %w", err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		if err != nil {
			return c, fmt.Errorf("read cost of the daemon: %w", err)
		}
		c.CPU += time.Duration(ns)
		for line := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				switches, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
				if err != nil {
					return c, fmt.Errorf("read cost of the daemon: %w", err)
				}
				c.Wakeups += switches
			}
		}
	}
	return c, nil
}

// FarNodes are Node objects of so many nodes that are nowhere, dual-stack.
func FarNodes(count int) string {
	var b strings.Builder
	for i := range count {
		high, low := i/250, i%250+1
		b.WriteString("---\n" + NodeYAML(fmt.Sprintf("far-%d", i), []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 32+high, low)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:32:%x::/64", i)),
		}, []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.19.%d.%d", high, low))}))
	}
	return b.String()
}
