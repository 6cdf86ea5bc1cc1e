package upstream

// Conformance are the specs that every Kubernetes network must pass.
const Conformance = `\[sig-network\].*\[Conformance\]`

// Full is all that a network without a cloud and without NetworkPolicy is asked for on a
// cluster of one address family. Session affinity, traffic policies, terminating endpoints
// and rejection are among the Services; upstream's LoadBalancers want a cloud's controller.
const Full = Conformance + `|` +
	`\[sig-network\] (` +
	`Services|Service CIDRs|EndpointSlice|Endpoints|Traffic Distribution|Topology Hints|HostPort|Conntrack|Proxy version|` +
	`Networking Granular Checks|Networking should allow|NoSNAT|Connectivity Pod Lifecycle|DNS should|DNS HostNetwork` +
	`)`

// FullDual is Full and what only a dual-stack cluster can do. On others these specs do not
// skip themselves.
const FullDual = Full + `|\[sig-network\] \[Feature:IPv6DualStack\]`

// Zoned are the specs that skip themselves on fewer than three zones with two nodes each.
const Zoned = `\[sig-network\] (Traffic Distribution|Topology Hints)`
