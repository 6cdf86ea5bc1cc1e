package e2e

import "slices"

// policyCases is the truth table.
func policyCases() []policyCase {
	return slices.Concat(podCases)
}

var podCases = []policyCase{
	{name: "no policy", want: []string{"x/a > u/b tcp:80 yes", "service x/a > x/a tcp:80 yes"}, also: "sctp service nodeport"},
	{name: "deny all that comes in", policies: []string{np("x/none", "pods=*")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/a tcp:80 yes", "x/a > u/a udp:81 yes", "node-1 > x/a tcp:80 yes", "node-2 > x/a tcp:80 no"}, also: "sctp service nodeport"},
	{name: "deny all that goes out", policies: []string{np("x/none", "pods=*, policyTypes: [Egress]")},
		want: []string{"x/b > x/a tcp:80 no", "x/a > x/a tcp:80 yes", "u/a > x/a udp:81 yes", "x/a > node-1 tcp:80 no", "x/a > outside tcp:80 no"}, also: "sctp service nodeport"},
	{name: "one pod of its namespace", policies: []string{np("x/p", "pod=a, ingress: [{from: [{pod=b}]}]")},
		want: []string{"x/b > x/a tcp:80 yes", "x/c > x/a tcp:80 no", "u/b > x/a tcp:80 no", "x/c > x/b tcp:80 yes"}},
}
