package e2e

// severalCases are policies that add up.
var severalCases = []policyCase{
	{name: "two policies add up", policies: []string{
		np("x/p", "pod=a, ingress: [{from: [{pod=b}]}]"), np("x/q", "pod=a, ingress: [{from: [{ns=z}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "z/a > x/a tcp:80 yes", "x/c > x/a tcp:80 no", "u/a > x/a tcp:80 no"}},
	{name: "deny all and allow some", policies: []string{
		np("x/none", "pods=*, policyTypes: [Ingress, Egress]"), np("x/in", "pod=a, ingress: [{from: [{pod=b}], ports: [tcp:80]}]"),
		np("x/out", "pod=b, policyTypes: [Egress], egress: [{to: [{pod=a}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/b > x/a tcp:81 no", "x/b > x/c tcp:80 no", "x/a > x/b tcp:80 no"}, also: "sctp service"},
	{name: "allow all wins", policies: []string{np("x/none", "pods=*"), np("x/all", "pods=*, ingress: [{}]")},
		want: []string{"u/a > x/a tcp:80 yes", "node-2 > x/a tcp:80 yes"}},
	{name: "one policy of each direction", policies: []string{
		np("x/in", "pods=*, ingress: [{from: [{ns=u}]}]"), np("x/out", "pods=*, policyTypes: [Egress], egress: [{to: [{ns=z}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "x/a > u/a tcp:80 no", "x/a > z/a tcp:80 yes", "z/a > x/a tcp:80 no", "x/a > x/b tcp:80 no"}},
	{name: "policies about overlapping pods", policies: []string{
		np("x/ab", "podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{ports: [tcp:80]}]"),
		np("x/bc", "podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, ingress: [{ports: [udp:80]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "u/a > x/a udp:80 no", "u/a > x/b tcp:80 yes", "u/a > x/b udp:80 yes", "u/a > x/c tcp:80 no"}},
	{name: "the same in two namespaces", policies: []string{
		np("x/p", "pod=a, ingress: [{from: [{pod=b}]}]"), np("u/p", "pod=a, ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "u/b > u/a tcp:80 yes", "u/b > x/a tcp:80 no"}},
	{name: "the same policy twice", policies: []string{
		np("x/p", "pod=a, ingress: [{from: [{pod=b}]}]"), np("x/q", "pod=a, ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/c > x/a tcp:80 no"}},
	{name: "ports of two policies from one peer", policies: []string{
		np("x/p", "pod=a, ingress: [{from: [{pod=b}], ports: [tcp:80]}]"), np("x/q", "pod=a, ingress: [{from: [{pod=b}], ports: [udp:81]}, {from: [{pod=c}], ports: [tcp:81]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/b > x/a udp:81 yes", "x/b > x/a tcp:81 no", "x/c > x/a tcp:81 yes", "x/c > x/a tcp:80 no"}},
	{name: "seven policies", policies: []string{
		np("x/p1", "pods=*"), np("x/p2", "pod=a, ingress: [{from: [{pod=b}]}]"), np("x/p3", "pod=a, ingress: [{from: [{ns=u, pod=c}], ports: [udp:80]}]"),
		np("x/p4", "pod=b, ingress: [{from: [net(z/a)]}]"), np("x/p5", "pods=*, policyTypes: [Egress], egress: [{to: [{ns=*}], ports: [tcp:80-81]}]"),
		np("x/p6", "pod=c, policyTypes: [Egress], egress: [{to: [net(outside)]}]"), np("u/p7", "pods=*, ingress: [{from: [{team=red}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/b > x/a udp:80 no", "u/c > x/a udp:80 yes", "z/a > x/b tcp:81 yes", "x/c > outside tcp:80 yes", "x/a > outside tcp:80 no", "z/a > u/a tcp:80 no"}, also: "sctp service"},
	{name: "a policy goes, one stays", policies: []string{np("x/p2", "pod=a, ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/b > x/a udp:80 yes", "u/c > x/a udp:80 no", "x/c > x/b tcp:80 yes"}},
}

// labelCases follow each other: the policy stays, labels change.
var labelCases = []policyCase{
	{name: "labels: a policy by roles", policies: []string{byRoles}, want: []string{"x/b > x/a tcp:80 yes"}},
	{name: "labels: a pod becomes a server", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}"},
		want: []string{"x/b > x/a tcp:80 no", "x/c > x/b tcp:80 yes"}},
	{name: "labels: a pod becomes a client", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "x/b": "{role: client}"},
		want: []string{"x/b > x/a tcp:80 yes", "x/c > x/a tcp:80 no", "u/b > x/a tcp:80 no"}},
	{name: "labels: a pod of another namespace becomes a client", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "u/b": "{role: client}"},
		want: []string{"u/b > x/a tcp:80 yes", "x/b > x/a tcp:80 no"}},
	{name: "labels: a namespace joins a team", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "ns/z": "{team: clients}"},
		want: []string{"z/a > x/a tcp:80 yes", "z/c > x/a tcp:80 yes", "u/b > x/a tcp:80 no"}},
	{name: "labels: another namespace does instead", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "ns/u": "{team: clients}"},
		want: []string{"z/a > x/a tcp:80 no", "u/b > x/a tcp:80 yes"}},
	{name: "labels: its own namespace does", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "ns/x": "{team: clients}"},
		want: []string{"x/b > x/a tcp:80 yes", "u/b > x/a tcp:80 no"}},
	{name: "labels: the server is none any more", policies: []string{byRoles}, labels: map[string]string{"x/b": "{role: client}"},
		want: []string{"u/b > x/a tcp:80 yes"}},
	{name: "labels: a pod without any", policies: []string{byRoles}, labels: map[string]string{"x/a": "{role: server}", "x/b": "{}", "ns/u": "{}"},
		want: []string{"x/b > x/a tcp:80 no", "u/b > x/a tcp:80 no"}},
}

var byRoles = np("x/roles", "podSelector: {matchLabels: {role: server}}, ingress: [{from: [{ns=*, podSelector: {matchLabels: {role: client}}}, {team=clients}]}]")

// serviceCases go through Services: policies see the backend and its port.
var serviceCases = []policyCase{
	{name: "service: the backend's port, coming in", policies: []string{np("x/p", "pods=*, ingress: [{ports: [tcp:80]}]")},
		want: []string{"service u/a > x/a tcp:80 yes", "service u/a > x/a udp:80 no", "node-1 u/a > x/a tcp:80 yes"}, also: "service nodeport"},
	{name: "service: the Service's port does not count", policies: []string{np("x/p", "pods=*, ingress: [{ports: [tcp:90]}]"), np("u/p", "pods=*, policyTypes: [Egress], egress: [{ports: [tcp:90]}]")},
		want: []string{"service u/a > x/a tcp:80 no", "service u/a > z/a tcp:80 no", "service z/a > x/a tcp:80 no"}, also: "service"},
	{name: "service: the Service's address does not count", policies: []string{np("x/p", "pods=*, policyTypes: [Egress], egress: [{to: [net(services)]}]")},
		want: []string{"service x/a > u/a tcp:80 no", "service x/a > x/a tcp:80 yes"}, also: "service"},
	{name: "service: to the backend by selector", policies: []string{np("x/p", "pods=*, policyTypes: [Egress], egress: [{to: [{ns=u}], ports: [tcp:80]}]")},
		want: []string{"service x/a > u/b tcp:80 yes", "service x/a > z/b tcp:80 no", "service x/a > u/b udp:80 no"}, also: "service nodeport"},
	{name: "service: to the backend by block", policies: []string{np("x/p", "pods=*, policyTypes: [Egress], egress: [{to: [net(pods-2)]}]")},
		want: []string{"service x/a > u/b tcp:80 yes", "service x/a > u/a tcp:80 no"}, also: "service"},
	{name: "service: from a pod through it", policies: []string{np("x/p", "pods=*, ingress: [{from: [{ns=u, pod=b}]}]")},
		want: []string{"service u/b > x/a tcp:80 yes", "service u/a > x/a tcp:80 no", "service x/a > x/a udp:80 yes", "node-2 u/b > x/a tcp:80 yes", "node-1 u/b > x/a tcp:80 no"}, also: "service nodeport"},
	{name: "service: from the outside, whose address is kept by the backend's node", policies: []string{np("x/p", "pods=*, ingress: [{from: [net(client)]}]")},
		want: []string{"node-1 outside > x/a tcp:80 yes", "node-2 outside > x/a tcp:80 no", "node-2 outside > x/c udp:80 yes", "u/a > x/a tcp:80 no"}, also: "nodeport"},
	{name: "service: from all but the outside", policies: []string{np("x/p", "pods=*, ingress: [{from: [net(all but client)]}]")},
		want: []string{"node-1 outside > x/a tcp:80 no", "node-2 outside > x/a tcp:80 yes", "u/a > x/a tcp:80 yes"}, also: "nodeport"},
	{name: "service: to a node, as that node's ports are reached", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [net(node-2)]}]")},
		want: []string{"node-2 x/a > u/b tcp:80 yes", "node-1 x/a > u/b tcp:80 no", "service x/a > u/b tcp:80 no"}, also: "service nodeport"},
}

// clusterCases are ClusterNetworkPolicies. (In these, ns=x of a subject or a peer is all of
// the namespace's pods.)
var clusterCases = []policyCase{
	{name: "cluster: admin denies", policies: []string{cnp("deny", "Admin", 10, "subject: {ns=x}, ingress: [{name: no-u, action: Deny, from: [{ns=u}]}]")},
		want: []string{"u/a > x/a tcp:80 no", "z/a > x/a tcp:80 yes", "node-2 > x/a tcp:80 yes"}, also: "sctp service"},
	{name: "cluster: admin accepts what a policy denies", policies: []string{
		cnp("accept", "Admin", 10, "subject: {ns=*}, ingress: [{action: Accept, from: [{ns=u}]}]"), np("x/none", "pods=*")},
		want: []string{"u/a > x/a tcp:80 yes", "z/a > x/a tcp:80 no"}, also: "service"},
	{name: "cluster: admin denies what a policy allows", policies: []string{
		cnp("deny", "Admin", 10, "subject: {ns=*}, ingress: [{action: Deny, from: [{ns=u}], protocols: [tcp:80]}]"), np("x/all", "pods=*, ingress: [{}]")},
		want: []string{"u/a > x/a tcp:80 no", "u/a > x/a tcp:81 yes", "u/a > u/b tcp:80 no", "u/a > u/a tcp:80 yes"}},
	{name: "cluster: lower priorities first", policies: []string{
		cnp("late", "Admin", 20, "subject: {ns=x}, ingress: [{action: Deny, from: [{ns=*}]}]"), cnp("soon", "Admin", 10, "subject: {ns=x}, ingress: [{action: Accept, from: [{ns=u}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "z/a > x/a tcp:80 no"}},
	{name: "cluster: rules in order", policies: []string{
		cnp("p", "Admin", 10, "subject: {ns=x}, ingress: [{action: Accept, from: [{ns=u}], protocols: [tcp:80]}, {action: Deny, from: [{ns=u}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "u/a > x/a udp:80 no", "z/a > x/a udp:80 yes"}},
	{name: "cluster: pass leaves it to policies", policies: []string{
		cnp("pass", "Admin", 10, "subject: {ns=x}, ingress: [{action: Pass, from: [{ns=u}]}]"), cnp("deny", "Admin", 20, "subject: {ns=x}, ingress: [{action: Deny, from: [{ns=*}]}]"),
		np("x/p", "pod=a, ingress: [{ports: [tcp:80]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "u/a > x/a tcp:81 no", "u/a > x/b tcp:81 yes", "z/a > x/b tcp:81 no"}},
	{name: "cluster: baseline denies where no policy isolates", policies: []string{
		cnp("default", "Baseline", 0, "subject: {ns=*}, ingress: [{name: closed, action: Deny, from: [{ns=*}]}]"), np("x/p", "pod=a, ingress: [{from: [{ns=u}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "z/a > x/a tcp:80 no", "u/a > x/b tcp:80 no", "node-2 > x/b tcp:80 yes"}},
	{name: "cluster: baseline, a pass and the end", policies: []string{
		cnp("pass", "Admin", 10, "subject: {ns=x}, egress: [{action: Pass, to: [{ns=u}]}]"), cnp("default", "Baseline", 0, "subject: {ns=x}, egress: [{action: Deny, to: [{ns=u}]}]")},
		want: []string{"x/a > u/a tcp:80 no", "x/a > z/a tcp:80 yes"}},
	{name: "cluster: networks that go out", policies: []string{
		cnp("nets", "Admin", 10, "subject: {ns=x}, egress: [{action: Deny, to: [{net(outside)}]}, {action: Deny, to: [{net(u/b)}], protocols: [udp:80-81]}]")},
		want: []string{"x/a > outside tcp:80 no", "x/a > u/b udp:80 no", "x/a > u/b tcp:80 yes", "x/a > node-2 tcp:80 yes"}},
	{name: "cluster: nodes that go out", policies: []string{
		cnp("nodes", "Admin", 10, "subject: {ns=x}, egress: [{action: Deny, to: [{nodes: {}}], protocols: [tcp:80]}]")},
		want: []string{"x/a > node-1 tcp:80 no", "x/a > node-2 tcp:80 no", "x/a > node-2 udp:81 yes", "x/a > u/b tcp:80 yes"}},
	{name: "cluster: a named port", policies: []string{
		cnp("named", "Admin", 10, "subject: {ns=x}, ingress: [{action: Deny, from: [{ns=*}], protocols: [{destinationNamedPort: web}]}]")},
		want: []string{"u/a > x/a tcp:80 no", "u/a > x/a tcp:81 yes", "u/a > x/c tcp:81 no", "u/a > x/a udp:80 yes"}},
	{name: "cluster: some pods of namespaces", policies: []string{
		cnp("pods", "Admin", 10, "subject: {pods: {ns=*, pod=a}}, ingress: [{action: Deny, from: [{pods: {ns=*, pod=b}}]}]")},
		want: []string{"u/b > x/a tcp:80 no", "x/b > x/a tcp:80 no", "u/b > x/c tcp:80 yes", "u/c > x/a tcp:80 yes"}},
}
