package upstream

// Conformance are the specs that every Kubernetes network must pass.
const Conformance = `\[sig-network\].*\[Conformance\]`

// Full is all that a network without a cloud is asked for on a cluster of one address
// family, but for Policies. Session affinity, traffic policies, terminating endpoints
// and rejection are among the Services.
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

// LoadBalancers are the specs of Services that get addresses from outside the cluster, but
// for two: that a Service has the finalizer of a cloud's controller; and that, without
// session affinity, its backends all answer under the traffic policy Local, also if each is
// on another node, which an address announced by one node does not do.
const LoadBalancers = `\[sig-network\] LoadBalancers (ExternalTrafficPolicy|\[Feature:LoadBalancer\] should ` +
	`(be able to (change|create|preserve|switch session affinity for LoadBalancer service with Cluster)|have|not|only))`

// Policies are the specs of NetworkPolicy. Those with SCTP between pods need its sockets;
// that a policy names it, none.
const Policies = `\[sig-network\] Netpol`

// SomePolicies is a third of these, of each kind some: those that say most in the shortest
// time.
const SomePolicies = Policies + ` (` +
	`API should support creating NetworkPolicy API with endport|` +
	`NetworkPolicy between server and client should (` +
	`support a 'default-deny-all'|work with Ingress, Egress specified together|` +
	`enforce policy to allow ingress traffic from pods in all namespaces|` +
	`enforce policy based on (Multiple PodSelectors|PodSelector or NamespaceSelector|Ports)|` +
	`enforce multiple, stacked policies|enforce except clause|` +
	`allow ingress access from (namespace on one named port|updated)|` +
	`allow egress access (on one named port|to server in CIDR)|ensure an IP overlapping both|` +
	`stop enforcing policies after they are deleted|not mistakenly treat` +
	`)|` +
	`\[LinuxOnly\] NetworkPolicy between server and client using UDP should enforce policy based on Ports` +
	`)`

// Short is what is asked for without -full.
const Short = Conformance + `|` + SomePolicies
