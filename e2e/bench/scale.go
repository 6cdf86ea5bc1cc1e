package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weftnet/weft/e2e/cluster"
)

// scaleSize is a cluster of the Kubernetes API: 50 endpoints of Services on each node.
type scaleSize struct{ nodes, services, endpoints int }

var scaleSizes = []scaleSize{{1000, 6000, 50000}, {5000, 30000, 250000}}

const (
	scaleRate    = 50               // changed slices a second
	scaleFor     = 20 * time.Second // so long
	scaleEvents  = 1000             // objects in a measure of what one costs
	kubeletEvery = 300              // seconds between a node's reports of its status
	nodesASlice  = 100              // of so many nodes one slice changes in a second
)

// scaleDaemon measures a daemon in clusters of 1,000 and 5,000 nodes, made objects of a made
// API: what it is sent and what CPU it needs at its start (scale_start_*), for one changed
// EndpointSlice (scale_slice_*), for a node's status (scale_node_*), and steadily with
// those of all nodes (scale_steady_*). In the larger one, of 30,000 Services with 250,000
// endpoints, also how long it takes until all is in the kernel, from what the source says
// (service_cold_30k_s) and from the process's start (service_start_30k_s), how long one
// change of 50 a second (service_30k_change_*), and its memory (service_30k_pss_mib).
func scaleDaemon(ctx context.Context, o options, r *report) error {
	for _, size := range scaleSizes {
		m := &scaleMeter{o: o, r: r, size: size}
		if m.wantsAny() {
			if err := m.measure(ctx); err != nil {
				return fmt.Errorf("%d nodes: %w", size.nodes, err)
			}
		}
	}
	return nil
}

// scaleMeter measures in one cluster.
type scaleMeter struct {
	o      options
	r      *report
	size   scaleSize
	api    *madeAPI
	node   *cluster.Node
	nodes  []*corev1.Node
	slices []*discoveryv1.EndpointSlice
	sent   int // slices that were changed
}

// names are the metrics; those of the largest cluster only have no number of nodes.
func (m *scaleMeter) names() (all []string) {
	for _, what := range []string{"start_mib", "start_cpu_s", "slice_kib", "slice_cpu_ms", "node_kib", "node_cpu_ms", "steady_kib_s", "steady_cpu_percent"} {
		all = append(all, m.name(what))
	}
	if m.largest() {
		all = append(all, "service_cold_30k_s", "service_start_30k_s", "service_30k_change_p50_ms", "service_30k_change_p99_ms", "service_30k_pss_mib")
	}
	return all
}

func (m *scaleMeter) name(what string) string { return fmt.Sprintf("scale_%s_%d", what, m.size.nodes) }

func (m *scaleMeter) largest() bool { return m.size == scaleSizes[len(scaleSizes)-1] }

func (m *scaleMeter) wantsAny() bool { return slices.ContainsFunc(m.names(), m.o.run.MatchString) }

func (m *scaleMeter) add(name, unit string, v float64) error {
	if !m.o.run.MatchString(name) || !slices.Contains(m.names(), name) {
		return nil
	}
	return m.r.add(name, unit, "", [parties][]float64{weft: {v}})
}

func (m *scaleMeter) measure(ctx context.Context) (err error) {
	c, err := cluster.New(cluster.Spec{Bin: m.o.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m.node = c.Nodes[0]
	api, flags, err := newMadeAPI(m.node)
	defer api.close()
	if err != nil {
		return err
	}
	m.api = api
	m.fill()
	if err := m.start(ctx, flags); err != nil {
		return err
	}
	if err := pause(ctx, 15*time.Second); err != nil { // as in daemonMetrics
		return err
	}
	settled, err := m.node.PSS()
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{m.changes, m.events, m.steady} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	changed, err := m.node.PSS()
	if err != nil {
		return err
	}
	return m.add("service_30k_pss_mib", "MiB", max(settled, changed))
}

// fill puts the objects into the API.
func (m *scaleMeter) fill() {
	for i := range m.size.nodes - 1 {
		n := scaleNode(i)
		m.nodes = append(m.nodes, n)
		m.api.Put(n)
	}
	for i := range m.size.services {
		s, e := scaleService(i, m.size.services, m.size.endpoints, m.size.nodes-1)
		m.slices = append(m.slices, e)
		m.api.Put(s, e)
	}
	runtime.GC() // ours, so that it does not disturb the daemon
}

// start starts the daemon and waits until all is in the kernel.
func (m *scaleMeter) start(ctx context.Context, flags []string) error {
	begin := time.Now()
	if err := m.node.Start(append(flags, "--max-nodes", "8192")...); err != nil {
		return err
	}
	if err := m.ready(ctx); err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	cpu, err := m.node.CPUTime()
	if err != nil {
		return err
	}
	sent := float64(m.api.server.Sent()) / (1 << 20)
	if err := programmed(ctx, []*cluster.Node{m.node}, m.size.services, "service-00001"); err != nil {
		return err
	}
	v, err := metrics(ctx, m.node)
	if err != nil {
		return err
	}
	return errors.Join(
		m.add("service_cold_30k_s", "s", v["weft_first_sync_seconds"]), m.add("service_start_30k_s", "s", took),
		m.add(m.name("start_mib"), "MiB", sent), m.add(m.name("start_cpu_s"), "s", cpu.Seconds()))
}

// ready waits until the daemon is ready. It asks seldom: each question has it make its
// lists of all objects.
func (m *scaleMeter) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		s, err := m.node.Client().Status(ctx)
		if err == nil && s.Ready {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("the daemon is not ready: %w\n%s", errors.Join(err, ctx.Err()), m.node.LogTail(20))
		}
	}
}

// changeSlice gives the next slice another first endpoint.
func (m *scaleMeter) changeSlice() {
	m.sent++
	e := m.slices[m.sent*7919%len(m.slices)].DeepCopy()
	e.Endpoints[0].Addresses[0] = fmt.Sprintf("10.%d.%d.%d", 200+m.sent>>16, m.sent>>8&255, m.sent&255)
	m.api.Put(e)
}

// report has the next node report its status, as its kubelet does when nothing changes.
func (m *scaleMeter) report(i int) { m.api.Put(m.nodes[i%len(m.nodes)]) }

// every calls f so often, evenly, until d is over.
func every(ctx context.Context, wait, d time.Duration, f func(int)) error {
	tick := time.NewTicker(wait)
	defer tick.Stop()
	end := time.After(d)
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
			f(i)
		}
	}
}

// changes measures how long changed slices take.
func (m *scaleMeter) changes(ctx context.Context) error {
	before, err := metrics(ctx, m.node)
	if err != nil {
		return err
	}
	if err := every(ctx, time.Second/scaleRate, scaleFor, func(int) { m.changeSlice() }); err != nil {
		return err
	}
	after, err := metrics(ctx, m.node)
	if err != nil {
		return err
	}
	var errs []error
	for name, q := range map[string]float64{"service_30k_change_p50_ms": 0.5, "service_30k_change_p99_ms": 0.99} {
		seconds, err := between(before, after, programSeconds, q)
		errs = append(errs, err, m.add(name, "ms", 1000*seconds))
	}
	return errors.Join(errs...)
}

// events measures what one changed slice and one node's status cost, at 50 a second.
func (m *scaleMeter) events(ctx context.Context) error {
	for _, e := range []struct {
		name string
		put  func(int)
	}{{"slice", func(int) { m.changeSlice() }}, {"node", m.report}} {
		n, kib, cpu, err := m.cost(ctx, time.Second/scaleRate, scaleEvents*time.Second/scaleRate, e.put)
		if err != nil {
			return err
		}
		err = errors.Join(m.add(m.name(e.name+"_kib"), "KiB", kib/n), m.add(m.name(e.name+"_cpu_ms"), "ms", 1000*cpu/n))
		if err != nil {
			return err
		}
	}
	return nil
}

// steady measures what the daemon needs with the events of all nodes.
func (m *scaleMeter) steady(ctx context.Context) error {
	wait := time.Second * nodesASlice / time.Duration(m.size.nodes)
	const reports = kubeletEvery / nodesASlice // so many nodes report less often than slices change
	_, kib, cpu, err := m.cost(ctx, wait, m.o.idle, func(i int) {
		m.changeSlice()
		if i%reports == 0 {
			m.report(i / reports)
		}
	})
	if err != nil {
		return err
	}
	seconds := m.o.idle.Seconds()
	return errors.Join(m.add(m.name("steady_kib_s"), "KiB/s", kib/seconds), m.add(m.name("steady_cpu_percent"), "%", 100*cpu/seconds))
}

// cost is how many events there were, and the KiB and the seconds of CPU that they cost the
// daemon.
func (m *scaleMeter) cost(ctx context.Context, wait, d time.Duration, f func(int)) (n, kib, cpu float64, err error) {
	before, err := m.node.CPUTime()
	if err != nil {
		return 0, 0, 0, err
	}
	sent := m.api.server.Sent()
	if err := every(ctx, wait, d, func(i int) { f(i); n++ }); err != nil {
		return 0, 0, 0, err
	}
	after, err := m.node.CPUTime()
	return n, float64(m.api.server.Sent()-sent) / 1024, (after - before).Seconds(), err
}
