package upstream

// Conformance are the specs that every Kubernetes network must pass.
const Conformance = `\[sig-network\].*\[Conformance\]`

// Short is Conformance and a third of the specs of NetworkPolicy: of each kind of rule one.
const Short = Conformance + `|` +
	`\[sig-network\] Netpol NetworkPolicy between server and client should (` +
	`support a 'default-deny-all' policy|support allow-all policy|stop enforcing policies after they are deleted|` +
	`enforce updated policy|enforce multiple, stacked policies with overlapping podSelectors|` +
	`work with Ingress, Egress specified together|enforce policy based on Ports|` +
	`allow ingress access from namespace on one named port|allow egress access on one named port|` +
	`allow ingress access from updated (pod|namespace)|enforce except clause|ensure an IP overlapping both|` +
	`enforce policy based on Multiple PodSelectors|not allow access by TCP when a policy specifies only UDP)|` +
	`\[sig-network\] Netpol \[LinuxOnly\] NetworkPolicy between server and client using UDP should enforce policy based on Ports`

// Full is all that a network without a cloud is asked for on a cluster of one address
// family. Session affinity, traffic policies, terminating endpoints
// and rejection are among the Services; upstream's LoadBalancers want a cloud's controller.
const Full = Conformance + `|` +
	`\[sig-network\] (` +
	`Services|Service CIDRs|EndpointSlice|Endpoints|Traffic Distribution|Topology Hints|HostPort|Conntrack|Proxy version|` +
	`Networking Granular Checks|Networking should allow|NoSNAT|Connectivity Pod Lifecycle|DNS should|DNS HostNetwork|Netpol` +
	`)`

// FullDual is Full and what only a dual-stack cluster can do. On others these specs do not
// skip themselves.
const FullDual = Full + `|\[sig-network\] \[Feature:IPv6DualStack\]`

// Zoned are the specs that skip themselves on fewer than three zones with two nodes each.
const Zoned = `\[sig-network\] (Traffic Distribution|Topology Hints)`
