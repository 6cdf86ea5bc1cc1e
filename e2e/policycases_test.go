package e2e

import "slices"

// policyCases is the truth table. It begins with no policy, so that what does not work
// then is no policy's fault.
func policyCases() []policyCase {
	return slices.Concat(
		[]policyCase{{name: "no policy", want: []string{"x/a > u/b tcp:80 yes", "service x/a > x/a tcp:80 yes"}, also: "sctp service nodeport fragments errors"}},
		podCases, pieceCases, blockCases, portCases, severalCases, labelCases, serviceCases, clusterCases,
		[]policyCase{{name: "no policy again", want: []string{"x/a > u/b tcp:80 yes", "node-2 > x/a tcp:80 yes"}, also: "sctp service nodeport fragments errors"}},
	)
}

// podCases are selectors of pods and namespaces, in both directions.
var podCases = []policyCase{
	{name: "deny all that comes in", policies: []string{np("x/none", "pods=*")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/a tcp:80 yes", "x/a > u/a udp:81 yes", "node-1 > x/a tcp:80 yes", "node-2 > x/a tcp:80 no"}, also: "sctp service nodeport"},
	{name: "deny all that goes out", policies: []string{np("x/none", "pods=*, policyTypes: [Egress]")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/a tcp:80 yes", "u/a > x/a udp:81 yes", "x/a > node-1 tcp:80 no", "x/a > outside tcp:80 no"}, also: "sctp service nodeport"},
	{name: "deny all in both directions", policies: []string{np("x/none", "pods=*, policyTypes: [Ingress, Egress]")},
		want: []string{"x/a > u/a tcp:80 no", "u/a > x/a tcp:80 no", "x/c > x/c udp:81 yes", "node-2 > x/c tcp:80 yes"}, also: "sctp"},
	{name: "deny all of all namespaces", policies: []string{
		np("x/none", "pods=*, policyTypes: [Ingress, Egress]"), np("u/none", "pods=*, policyTypes: [Ingress, Egress]"), np("z/none", "pods=*, policyTypes: [Ingress, Egress]")},
		want: []string{"z/a > z/b tcp:80 no", "z/a > z/a tcp:80 yes", "node-1 > z/b udp:81 yes"}},
	{name: "types are implied: ingress always", policies: []string{np("x/p", "pod=a")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/b tcp:80 yes"}},
	{name: "types are implied: egress if there are rules", policies: []string{np("x/p", "pod=a, egress: [{to: [{pod=b}]}]")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/b tcp:80 yes", "x/a > x/c tcp:80 no"}},
	{name: "types are explicit: rules of the other direction do not count", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/c > x/a tcp:80 yes", "x/a > x/b tcp:80 no"}},
	{name: "allow all that comes in", policies: []string{np("x/all", "pods=*, ingress: [{}]")},
		want: []string{"u/a > x/a tcp:80 yes", "node-2 > x/a tcp:80 yes"}, also: "sctp"},
	{name: "allow all that goes out", policies: []string{np("x/all", "pods=*, policyTypes: [Egress], egress: [{}]")},
		want: []string{"x/a > outside tcp:80 yes", "x/a > node-2 udp:81 yes"}, also: "sctp"},
	{name: "an empty list of rules", policies: []string{np("x/p", "pod=a, policyTypes: [Ingress], ingress: []")},
		want: []string{"x/b > x/a tcp:80 no"}},
	{name: "an empty list of peers is all", policies: []string{np("x/p", "pod=a, ingress: [{from: []}]")},
		want: []string{"u/c > x/a tcp:80 yes"}},
	{name: "from a pod of its namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/c > x/a tcp:80 no", "u/b > x/a tcp:80 no", "x/c > x/b tcp:80 yes"}},
	{name: "to a pod of its namespace", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [{pod=c}]}]")},
		want: []string{"x/a > x/c tcp:80 yes", "x/a > x/b tcp:80 no", "x/a > u/c tcp:80 no", "x/b > x/a tcp:80 yes"}},
	{name: "from all pods of its namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{pods=*}]}]")},
		want: []string{"x/c > x/a udp:81 yes", "u/a > x/a tcp:80 no", "node-2 > x/a tcp:80 no"}},
	{name: "from pods that nobody is", policies: []string{np("x/p", "pod=a, ingress: [{from: [{pod=nobody}]}]")},
		want: []string{"x/b > x/a tcp:80 no"}},
	{name: "about pods that nobody is", policies: []string{np("x/p", "pod=nobody")},
		want: []string{"u/b > x/a tcp:80 yes"}},
	{name: "from a namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=u}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "x/b > x/a tcp:80 no", "z/a > x/a tcp:80 no"}, also: "sctp"},
	{name: "to a namespace", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [{ns=z}]}]")},
		want: []string{"x/a > z/b tcp:80 yes", "x/a > x/b tcp:80 no", "x/a > outside tcp:80 no"}, also: "sctp"},
	{name: "from namespaces of a team", policies: []string{np("x/p", "pods=*, ingress: [{from: [{team=blue}]}]")},
		want: []string{"u/a > x/a tcp:80 yes", "z/a > x/b tcp:80 yes", "x/b > x/a tcp:80 no"}},
	{name: "from all namespaces", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=*}]}]")},
		want: []string{"z/c > x/a tcp:80 yes", "x/b > x/a tcp:80 yes", "node-2 > x/a tcp:80 no"}},
	{name: "to all namespaces", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [{ns=*}]}]")},
		want: []string{"x/a > z/c tcp:80 yes", "x/a > outside tcp:80 no", "x/a > node-2 tcp:80 no"}},
	{name: "from a namespace that does not exist", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=nowhere}]}]")},
		want: []string{"x/b > x/a tcp:80 no"}},
	{name: "from a pod of a namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=u, pod=b}]}]")},
		want: []string{"u/b > x/a tcp:80 yes", "u/a > x/a tcp:80 no", "x/b > x/a tcp:80 no", "z/b > x/a tcp:80 no"}},
	{name: "from a pod or a namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=u}, {pod=b}]}]")},
		want: []string{"u/b > x/a tcp:80 yes", "u/a > x/a tcp:80 yes", "x/b > x/a tcp:80 yes", "x/c > x/a tcp:80 no", "z/b > x/a tcp:80 no"}},
	{name: "to a pod of a namespace", policies: []string{np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [{ns=u, pod=b}]}]")},
		want: []string{"x/a > u/b udp:80 yes", "x/a > u/a udp:80 no", "x/a > x/b udp:80 no"}},
	{name: "from pods of all namespaces", policies: []string{np("x/p", "pods=*, ingress: [{from: [{ns=*, pod=c}]}]")},
		want: []string{"z/c > x/a tcp:80 yes", "u/c > x/b tcp:80 yes", "z/b > x/a tcp:80 no"}},
	{name: "two rules", policies: []string{np("x/p", "pod=a, ingress: [{from: [{pod=b}]}, {from: [{ns=z, pod=c}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "z/c > x/a tcp:80 yes", "x/c > x/a tcp:80 no"}},
	{name: "expressions: in", policies: []string{np("x/p", "pod=a, ingress: [{from: [{ns=*, podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}}]}]")},
		want: []string{"u/b > x/a tcp:80 yes", "u/c > x/a tcp:80 no"}},
	{name: "expressions: not in, of namespaces", policies: []string{np("x/p", "pod=a, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [u]}]}}]}]")},
		want: []string{"u/b > x/a tcp:80 no", "z/c > x/a tcp:80 yes", "x/c > x/a tcp:80 yes"}},
	{name: "expressions: exists", policies: []string{np("x/p", "podSelector: {matchExpressions: [{key: pod, operator: Exists}]}, ingress: [{from: [{podSelector: {matchExpressions: [{key: none, operator: Exists}]}}]}]")},
		want: []string{"x/b > x/a tcp:80 no"}},
	{name: "expressions: does not exist", policies: []string{np("x/p", "podSelector: {matchExpressions: [{key: role, operator: DoesNotExist}]}, ingress: [{from: [{podSelector: {matchExpressions: [{key: role, operator: Exists}]}}]}]")},
		labels: map[string]string{"x/b": "{pod: b, role: db}"}, want: []string{"x/b > x/a tcp:80 yes", "x/c > x/b tcp:80 yes", "x/c > x/a tcp:80 no"}},
	{name: "both ends must allow", policies: []string{
		np("x/p", "pod=a, policyTypes: [Egress], egress: [{to: [{ns=u}]}]"), np("u/p", "pod=b, ingress: [{from: [{ns=z}]}]")},
		want: []string{"x/a > u/b tcp:80 no", "x/a > u/a tcp:80 yes", "z/a > u/b tcp:80 yes"}},
	{name: "a closed circle", policies: []string{
		np("x/p", "pods=*, policyTypes: [Ingress, Egress], ingress: [{from: [{ns=u}]}], egress: [{to: [{ns=u}]}]"),
		np("u/p", "pods=*, policyTypes: [Ingress, Egress], ingress: [{from: [{ns=x}]}], egress: [{to: [{ns=x}]}]")},
		want: []string{"x/a > u/b tcp:80 yes", "u/b > x/a tcp:80 yes", "x/a > x/b tcp:80 no", "z/a > x/a tcp:80 no"}},
}
