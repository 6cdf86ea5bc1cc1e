package upstream

// Conformance are the specs that every Kubernetes network must pass.
const Conformance = `\[sig-network\].*\[Conformance\]`

// Full is all that a network without a cloud and without NetworkPolicy is asked for.
const Full = Conformance + `|` +
	`\[sig-network\] (` +
	`Services|Service CIDRs|EndpointSlice|Endpoints|Traffic Distribution|Topology Hints|HostPort|Conntrack|Proxy version|` +
	`Networking Granular Checks|Networking should allow|NoSNAT|Connectivity Pod Lifecycle|DNS should|DNS HostNetwork|` +
	`\[Feature:IPv6DualStack\]` +
	`)|` +
	`\[sig-network\].*(session affinity|externalTrafficPolicy|internalTrafficPolicy|terminating|rejected)`
