package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
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

// CPUTime is what the daemon has used of the CPUs (/proc/PID/task/TID/schedstat, whose
// first number is nanoseconds).
func (n *Node) CPUTime() (time.Duration, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.PID()))
	if err != nil {
		return 0, fmt.Errorf("read CPU time of the daemon: %w", err)
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", n.PID(), t.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("read CPU time of the daemon: %w", err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of the daemon: %w", err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
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
