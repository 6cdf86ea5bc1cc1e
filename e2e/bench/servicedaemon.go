package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/internal/testnet"
)

// spare is the endpoints of each Service besides the first, in the metrics of the daemon.
const spare = 4

// serviceDaemon measures service_cold_*_s, service_start_*_s, service_change_* and
// service_pss_mib_*: one node, Services of five endpoints. Cold is from what the source
// says first to all of it being in the kernel, start all from the process's start until it
// is ready, reading the folder and loading the programs included. They have no peer; the
// limit is the same without Services.
func serviceDaemon(ctx context.Context, o options, r *report) error {
	for _, n := range []struct {
		count int
		name  string
	}{{100, "100"}, {10000, "10k"}} {
		if err := serviceDaemonOf(ctx, o, r, n.count, n.name); err != nil {
			return err
		}
	}
	return nil
}

func serviceDaemonOf(ctx context.Context, o options, r *report, count int, suffix string) (err error) {
	cold, start, pss := "service_cold_"+suffix+"_s", "service_start_"+suffix+"_s", "service_pss_mib_"+suffix
	p50, p99 := "service_change_p50_ms_"+suffix, "service_change_p99_ms_"+suffix
	wanted := false
	for _, name := range []string{cold, start, pss, p50, p99} {
		wanted = wanted || o.run.MatchString(name)
	}
	if !wanted {
		return nil
	}
	c, err := cluster.New(cluster.Spec{Bin: o.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	n := c.Nodes[0]
	emptyStart, emptyCold, err := startTimes(ctx, n)
	if err != nil {
		return err
	}
	if err := n.Kill(); err != nil {
		return err
	}
	services := manyServices(count, nobody(0, spare+1), nobody(1, spare+1))
	if err := writeServices(c, services, spare); err != nil {
		return err
	}
	fullStart, fullCold, err := startTimes(ctx, n)
	if err != nil {
		return err
	}
	if err := programmed(ctx, c.Nodes, count, services[count-1].Name); err != nil {
		return err
	}
	for _, m := range []struct {
		name        string
		full, empty float64
	}{{cold, fullCold, emptyCold}, {start, fullStart, emptyStart}} {
		if !o.run.MatchString(m.name) {
			continue
		}
		if err := r.add(m.name, "s", "", [parties][]float64{weft: {m.full}, limit: {m.empty}}); err != nil {
			return err
		}
	}
	if o.run.MatchString(pss) {
		if err := pause(ctx, 15*time.Second); err != nil { // as in daemonMetrics
			return err
		}
		mib, err := n.PSS()
		if err != nil {
			return err
		}
		if err := r.add(pss, "MiB", "", [parties][]float64{weft: {mib}}); err != nil {
			return err
		}
	}
	if !o.run.MatchString(p50) && !o.run.MatchString(p99) {
		return nil
	}
	before, err := metrics(ctx, n)
	if err != nil {
		return err
	}
	if err := changeServices(ctx, c, services, 10*time.Second); err != nil {
		return err
	}
	after, err := metrics(ctx, n)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		q    float64
	}{{p50, 0.5}, {p99, 0.99}} {
		seconds, err := between(before, after, programSeconds, m.q)
		if err != nil {
			return err
		}
		if o.run.MatchString(m.name) {
			if err := r.add(m.name, "ms", "", [parties][]float64{weft: {1000 * seconds}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// startTimes starts a daemon, and returns how long it took until it was ready, and how long
// of that the first synchronisation, in seconds.
func startTimes(ctx context.Context, n *cluster.Node) (start, cold float64, err error) {
	begin := time.Now()
	if err := n.Start(); err != nil {
		return 0, 0, err
	}
	if err := ready(ctx, n); err != nil {
		return 0, 0, err
	}
	start = time.Since(begin).Seconds()
	m, err := metrics(ctx, n)
	return start, m["weft_first_sync_seconds"], err
}

// ready waits until the daemon says that it is ready, which it is when all Services are
// in the kernel.
func ready(ctx context.Context, n *cluster.Node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return testnet.Wait(ctx, func() error {
		s, err := n.Client().Status(ctx)
		if err == nil && !s.Ready {
			err = fmt.Errorf("not ready: %v", s.Problems)
		}
		return err
	})
}

// changeServices changes 51 EndpointSlices a second, one after the other, by a file of
// its own each.
func changeServices(ctx context.Context, c *cluster.Cluster, services []rival.Service, d time.Duration) error {
	tick := time.NewTicker(time.Second / 51)
	defer tick.Stop()
	for i, end := 0, time.After(d); ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
		}
		// A slice more of always the same 51 Services, with an endpoint that is new each time.
		s := services[i%51*7919%len(services)]
		s.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), s.Endpoint.Port())
		text := slice(s, 0, 0)
		if err := c.WriteObject(fmt.Sprintf("change-%03d", i%51), renamed(text, s.Name, i%51)); err != nil {
			return err
		}
	}
}
