package daemon

import (
	"math/big"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
)

// metrics is what the daemon counts itself. The rest is read when it is asked for.
type metrics struct {
	registry  *prometheus.Registry
	calls     *prometheus.CounterVec   // verb, code
	durations *prometheus.HistogramVec // verb
}

func newMetrics(n *node, dp *bpf.Datapath) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_cni_calls_total", Help: "CNI calls by verb and CNI error code; 0 is success.",
		}, []string{"verb", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_cni_duration_seconds", Help: "Duration of CNI calls in the daemon.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 13), // 1 ms to 4 s
		}, []string{"verb"}),
	}
	m.registry.MustRegister(
		m.calls, m.durations, n.programmed, n.policies.took,
		&collector{n: n, dp: dp},
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(), collectors.WithoutGoCollectorRuntimeMetrics()),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// done counts a call that began at start.
func (m *metrics) done(verb string, start time.Time, err error) {
	m.calls.WithLabelValues(verb, codeOf(err)).Inc()
	m.durations.WithLabelValues(verb).Observe(time.Since(start).Seconds())
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// collector reads the node's state.
type collector struct {
	n  *node
	dp *bpf.Datapath
}

var (
	descInfo      = desc("build_info", "Build and node; always 1.", "version", "layout", "node", "overlay")
	descReady     = desc("ready", "1 if pods can be attached.")
	descFirst     = desc("first_sync_seconds", "From what the source said first to all of it being in the kernel.")
	descMTU       = desc("mtu_bytes", "MTU of the pods.")
	descPeers     = desc("peers", "Other nodes known.")
	descPackets   = desc("packets_total", "Packets dropped, or left to the kernel's stack, by reason.", "kind", "reason")
	descRows      = desc("table_rows", "Rows wanted in a kernel table.", "table")
	descRepairs   = desc("table_repairs_total", "Rows found missing, wrong or left over.", "table")
	descBad       = desc("table_failing", "1 if rows of a table cannot be written.", "table")
	descServed    = desc("services", "Services that are served.")
	descServers   = desc("service_backends", "Backends in the sets of Services.")
	descFlows     = desc("flows", "Live flows that are translated per packet, at the last look.")
	descRoom      = desc("flows_limit", "Live flows that there is room for at least; when it is used up, new ones may be refused.")
	descTrouble   = desc("service_problems", "Services and host ports that cannot be served as they want.")
	descLBUsed    = desc("load_balancer_used", "Addresses of a load balancer pool that Services have.", "pool", "family")
	descLBFree    = desc("load_balancer_free", "Addresses of a load balancer pool that can be given.", "pool", "family")
	descLBLacks   = desc("load_balancer_refused", "Services that do not have the load balancer's addresses that they want.")
	descLBLeads   = desc("load_balancer_leader", "1 if this daemon gives load balancers' addresses.")
	descPolicy    = desc("policy_policies", "Policies of the cluster.", "kind")
	descPolSets   = desc("policy_sets", "Different sets of rules that pods of this node have.")
	descPolPods   = desc("policy_pods", "Pods of this node: open, isolated in a direction or both, or closed because it is not known what applies.", "state")
	descAllowed   = desc("policy_flows", "Flows of isolated pods that both ends have spoken in, at the last look.")
	descPolRoom   = desc("policy_flows_limit", "Flows of isolated pods that there is room for in the map that nothing is pushed out of.")
	descRecords   = desc("policy_records_lost_total", "Drops that were counted but not recorded, because there were too many at once.")
	descUsed      = desc("pool_used", "Addresses leased.", "pool")
	descCooling   = desc("pool_cooling", "Addresses released, within the reuse delay.", "pool")
	descSize      = desc("pool_size", "Addresses that can be leased.", "pool")
	descEarly     = desc("pool_reused_early_total", "Addresses leased within the reuse delay because no other was left.", "pool")
	descProblem   = desc("problems", "Things that a person should look at, see `weft status`.", "what")
	descAnnounced = desc("announced_addresses", "Load balancers' addresses that this node announces.")
	descAddresses = desc("load_balancer_addresses", "Load balancers' addresses of the cluster that are Weft's to announce.")
	descTakeovers = desc("announce_takeovers_total", "Addresses that this node began to announce because those before it did not.")
	descLost      = desc("lost_nodes", "Other nodes that do not answer any more: their pods get no new connections as long as others do.")
	descDeadPeers = desc("announce_dead_nodes", "Nodes that do not answer, of those that this node probes.")
	descMute      = desc("dsr_mute_nodes", "Nodes whose answers to clients do not arrive, so that snat is used towards them.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("weft_"+name, help, labels, nil)
}

// Describe sends nothing: which series there are follows from the state.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything now.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	offer := c.n.net()
	gauge(descInfo, 1, api.Version, c.dp.Layout(), c.n.cfg.NodeName, c.n.cfg.Overlay)
	gauge(descReady, truth(offer.Ready == nil))
	gauge(descFirst, time.Duration(c.n.firstTook.Load()).Seconds())
	gauge(descMTU, float64(offer.MTU))
	gauge(descPeers, float64(c.n.peerCount()))
	if counters, err := c.dp.Counters(); err != nil {
		out <- prometheus.NewInvalidMetric(descPackets, err)
	} else {
		for _, k := range counters {
			count(descPackets, k.Count, k.Kind, k.Reason)
		}
	}
	for _, t := range c.n.tables.shown() {
		s := t.Stats()
		gauge(descRows, float64(s.Rows), s.Name)
		count(descRepairs, s.Repairs, s.Name)
		gauge(descBad, truth(s.Err != nil), s.Name)
	}
	served, backends, troubled := c.n.services.count()
	gauge(descServed, float64(served))
	gauge(descServers, float64(backends))
	gauge(descFlows, float64(c.n.liveFlows.Load()))
	gauge(descRoom, float64(c.dp.FlowRoom()))
	gauge(descTrouble, float64(troubled))
	announced, takeovers := c.n.announcer.announcements()
	gauge(descAnnounced, float64(announced.Own))
	gauge(descAddresses, float64(announced.Addresses))
	count(descTakeovers, takeovers)
	gauge(descMute, float64(c.n.returns.muteNodes()))
	gauge(descLost, float64(c.n.lostNodes.Load()))
	gauge(descDeadPeers, float64(len(announced.Dead)))
	if a := c.n.allocator; a != nil {
		usage, refused := a.use()
		for _, u := range usage {
			gauge(descLBUsed, float64(u.Used), u.Pool, u.Family)
			gauge(descLBFree, u.Free, u.Pool, u.Family)
		}
		gauge(descLBLacks, float64(refused))
		gauge(descLBLeads, truth(a.leads.Load()))
	}
	p := c.n.policies.count()
	gauge(descPolicy, float64(p.network), kindNetworkPolicy)
	gauge(descPolicy, float64(p.cluster), kindClusterPolicy)
	gauge(descPolSets, float64(p.sets))
	for state, pods := range p.pods {
		gauge(descPolPods, float64(pods), state)
	}
	gauge(descAllowed, float64(c.n.allowedFlows.Load()))
	gauge(descPolRoom, float64(c.dp.AllowedRoom()))
	count(descRecords, c.n.records.Lost())
	for _, p := range c.n.pools.Pools() {
		name := p.Prefix.String()
		gauge(descUsed, float64(p.Used), name)
		gauge(descCooling, float64(p.Cooling), name)
		size, _ := new(big.Float).SetInt(p.Size).Float64()
		gauge(descSize, size, name)
		count(descEarly, p.ReusedEarly, name)
	}
	kinds := map[string]int{}
	for _, p := range c.n.allProblems() {
		kinds[p.What]++
	}
	for what, n := range kinds {
		gauge(descProblem, float64(n), what)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
