package e2e

// pieceCases ask by datagrams in fragments, too, of which each is judged by the ports that
// only the first has, and by ICMP errors, which pass if what they are about did.
var pieceCases = []policyCase{
	{name: "pieces: nothing comes in", policies: []string{np("x/none", "pods=*")}, also: "service fragments errors",
		want: []string{"u/a > x/a fragments:80 no", "x/a > u/a fragments:80 yes", "node-1 > x/a fragments:81 yes", "node-2 > x/a fragments:81 no",
			"x/a > u/a closed:83 yes", "u/a > x/a icmp:83 yes", "u/a > x/a closed:83 no", "x/a > u/a icmp:83 yes", "x/a > x/b closed:83 no", "x/b > x/a icmp:83 yes"}},
	{name: "pieces: nothing goes out", policies: []string{np("x/none", "pods=*, policyTypes: [Egress]")}, also: "service fragments errors",
		want: []string{"x/a > u/a fragments:80 no", "x/a > outside fragments:81 no", "service x/a > u/a fragments:80 no", "u/a > x/a fragments:80 yes",
			"x/a > u/a closed:83 no", "u/a > x/a icmp:83 yes", "u/a > x/a closed:83 yes", "x/a > u/a icmp:83 yes"}},
	{name: "pieces: nothing in, nothing out", policies: []string{np("x/none", "pods=*, policyTypes: [Ingress, Egress]")}, also: "fragments errors",
		want: []string{"x/a > u/a fragments:80 no", "u/a > x/a fragments:81 no", "x/a > u/a closed:83 no", "u/a > x/a icmp:83 no", "x/a > u/a icmp:83 no"}},
	{name: "pieces: only the ports that are asked, coming in", policies: []string{np("x/p", "pods=*, policyTypes: [Ingress, Egress], ingress: [{from: [{ns=u}], ports: [udp:80, udp:83]}]")}, also: "service fragments errors",
		want: []string{"u/a > x/a fragments:80 yes", "u/c > x/a fragments:80 yes", "u/a > x/a fragments:81 no", "service u/a > x/c fragments:80 yes", "z/a > x/a fragments:80 no",
			"u/a > x/a closed:83 yes", "x/a > u/a icmp:83 yes", "z/a > x/a closed:83 no", "x/a > z/a icmp:83 no", "u/a > x/a icmp:83 no"}},
	{name: "pieces: only the ports that are asked, going out", policies: []string{np("x/p", "pods=*, policyTypes: [Ingress, Egress], egress: [{to: [{ns=z}, net(outside)], ports: [udp:81, udp:83]}]")}, also: "service fragments errors",
		want: []string{"x/a > z/a fragments:81 yes", "x/a > z/b fragments:81 yes", "x/a > z/a fragments:80 no", "service x/a > z/a fragments:80 no", "x/a > outside fragments:81 yes", "x/a > node-2 fragments:81 no",
			"x/a > z/a closed:83 yes", "z/a > x/a icmp:83 yes", "x/a > u/a closed:83 no", "u/a > x/a icmp:83 no"}},
	{name: "pieces: between isolated pods", policies: []string{
		np("x/p", "pods=*, policyTypes: [Ingress, Egress], egress: [{to: [{ns=u}], ports: [udp:80-83]}]"), np("u/p", "pods=*, policyTypes: [Ingress, Egress], ingress: [{from: [{ns=x, pod=a}], ports: [udp:80, udp:83]}]")}, also: "service fragments errors",
		want: []string{"x/a > u/c fragments:80 yes", "x/a > u/c fragments:81 no", "x/b > u/c fragments:80 no", "x/a > u/b closed:83 yes", "u/b > x/a icmp:83 yes", "x/b > u/b closed:83 no", "u/b > x/b icmp:83 no"}},
	{name: "pieces: all protocols of some", policies: []string{np("x/p", "pods=*, policyTypes: [Ingress, Egress], ingress: [{from: [{ns=u}]}]")}, also: "fragments errors",
		want: []string{"u/a > x/a fragments:80 yes", "z/a > x/a fragments:80 no", "u/a > x/a icmp:83 yes", "z/a > x/a icmp:83 no", "x/a > u/a icmp:83 yes", "x/a > z/a icmp:83 no"}},
	{name: "pieces: a cluster's policy denies ports", policies: []string{cnp("deny", "Admin", 10, "subject: {ns=x}, ingress: [{name: no-u, action: Deny, from: [{ns=u}], protocols: [udp:81-83]}]")}, also: "fragments errors",
		want: []string{"u/a > x/a fragments:80 yes", "u/a > x/a fragments:81 no", "z/a > x/a fragments:81 yes", "u/a > x/a closed:83 no", "x/a > u/a icmp:83 yes", "x/a > u/a closed:83 yes", "u/a > x/a icmp:83 yes"}},
	{name: "pieces: a cluster's policy accepts a port", policies: []string{
		cnp("accept", "Admin", 10, "subject: {ns=x}, ingress: [{action: Accept, from: [{ns=u}], protocols: [udp:80-83]}]"), np("x/none", "pods=*, policyTypes: [Ingress, Egress]")}, also: "service fragments errors",
		want: []string{"u/a > x/a fragments:81 yes", "service u/a > x/a fragments:80 yes", "z/a > x/a fragments:81 no", "u/a > x/a closed:83 yes", "x/a > u/a icmp:83 yes", "u/a > x/a icmp:83 no", "x/a > z/a icmp:83 no"}},
}
