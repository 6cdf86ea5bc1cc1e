// Command bench measures Weft beside its limits and its peers, in one run of
// interleaved rounds, and prints ratios: `make bench`, as root.
//
// The limits are a bare veth pair (same node) and plain routing without an overlay
// (other node). The peer is bridge, kernel VXLAN and iptables as flannel makes them,
// and for CNI calls bridge and host-local; for Services kube-proxy's rules of both modes
// on top, with a line for each; for policies the same in nftables' sets, and in iptables with
// ipset; from outside kube-proxy with an address that is there as MetalLB would announce it.
// TCP is cubic, both ends of a load are pinned to one CPU for all parties alike; a value is
// the median of its rounds. The machine's noise is in absolute numbers and mostly not in the
// ratios.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
)

// options are the flags.
type options struct {
	run    *regexp.Regexp
	rounds int
	time   time.Duration
	pods   int
	nodes  int
	idle   time.Duration
	bin    string // folder of Weft's binaries
	dir    string // scratch
}

func main() {
	load.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context) (err error) {
	var o options
	pattern := flag.String("run", ".", "regexp of the metrics to measure")
	out := flag.String("out", "", "file for the results as JSON lines")
	flag.IntVar(&o.rounds, "rounds", 6, "rounds of each traffic metric")
	flag.DurationVar(&o.time, "time", time.Second, "length of each party's turn in a round")
	flag.IntVar(&o.pods, "pods", 250, "pods on the node for the CNI and daemon metrics")
	flag.IntVar(&o.nodes, "nodes", 1000, "nodes known for the daemon metrics")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long the idle daemon is watched")
	flag.Parse()
	if o.run, err = regexp.Compile(*pattern); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("network namespaces and BPF need root: sudo make bench")
	}
	if o.dir, err = os.MkdirTemp("", "weft-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	o.bin = filepath.Join(o.dir, "weft")
	if err := cluster.Build(ctx, o.bin); err != nil {
		return err
	}
	r, err := newReport(os.Stdout, *out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, part := range []func(context.Context, options, *report) error{
		trafficMetrics, cniMetrics, daemonMetrics, serviceTraffic, outsideTraffic, serviceDaemon, scaleDaemon, policyTraffic, policyDaemon, policyPeer,
	} {
		if err := part(ctx, o, r); err != nil {
			return err
		}
	}
	if r.lines == 0 {
		return fmt.Errorf("no metric matches %q", *pattern)
	}
	return nil
}
