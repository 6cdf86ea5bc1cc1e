package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// explained is a state with two nodes, pods on both, and a Service, and what of it is on
// this node.
func explained(t *testing.T) (*policyLab, source.State) {
	l := newPolicyLab(t)
	s := clusterOf([]string{"cart", "web"}, lets("a", "cart", "web", 80))
	s.Nodes = []*source.Node{
		{Name: "n1", PodCIDRs: []netip.Prefix{prefix("10.244.1.0/24")}, InternalIPs: []netip.Addr{addr("192.0.2.1")}},
		{Name: "n2", PodCIDRs: []netip.Prefix{prefix("10.244.2.0/24")}, InternalIPs: []netip.Addr{addr("192.0.2.2")}},
	}
	s.Pods = append(s.Pods, &source.Pod{Namespace: "shop", Name: "z-far", Node: "n2", IPs: []netip.Addr{addr("10.244.2.7")}})
	s.Services = []*source.Service{
		{Namespace: "shop", Name: "front", ClusterIPs: []netip.Addr{addr("10.96.0.9")}, Ports: []source.ServicePort{{Port: 80, Protocol: source.TCP}}},
		{Namespace: "shop", Name: "two", ClusterIPs: []netip.Addr{addr("10.96.0.8")}, Ports: []source.ServicePort{{Port: 1}, {Port: 2}}},
		{Namespace: "shop", Name: "web", ClusterIPs: []netip.Addr{addr("10.96.0.7")}},
		{Namespace: "shop", Name: "no-address"},
	}
	l.says(s)
	l.add(l.pod("web", 1))
	return l, s
}

func TestNamesOfExplainAreFound(t *testing.T) {
	l, s := explained(t)
	for text, want := range map[string]string{
		"web":           "more than one pod or Service is named web",
		"shop/web":      "a pod and a Service are named shop/web: give the address",
		"shop/nobody":   "there is no pod and no Service shop/nobody",
		"two":           "Service shop/two has 2 ports: say which",
		"no-address:80": "Service shop/no-address has no cluster IP",
		"cart":          "[10.244.1.100]  0",
		"z-far:80":      "[10.244.2.7]  80",
		"front":         "[10.96.0.9] shop/front 80",
		"front:81":      "[10.96.0.9] shop/front 81",
		"10.1.2.3:9":    "[10.1.2.3]  9",
	} {
		to, err := parseTarget(text)
		if err != nil {
			t.Fatal(err)
		}
		addrs, service, err := l.placesOf(s, &to)
		got := fmt.Sprintf("%v %s %d", addrs, service, to.port)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	from, _ := parseTarget("web")
	if got, err := l.podAddrs(s, from); err != nil || fmt.Sprint(got) != "[10.244.1.1]" {
		t.Errorf("the pod of this node has %v, %v", got, err)
	}
	from, _ = parseTarget("front")
	if _, err := l.podAddrs(s, from); err == nil || !strings.Contains(err.Error(), "there is no pod front") {
		t.Errorf("a Service that sends: %v", err)
	}
}

func TestAnswersOfTheProgramsAreSaid(t *testing.T) {
	l, s := explained(t)
	n := &node{policies: l.policies}
	set := l.Isolation(l.pod("web", 1).Ref).Ingress
	web, far, outside := addr("10.244.1.1"), addr("10.244.2.7"), addr("198.51.100.1")
	here := func(e bpf.End) bpf.End { e.Here = true; return e }
	for _, tc := range []struct {
		name     string
		from, to netip.Addr
		answer   bpf.Answer
		want     []string // egress, ingress, verdict
	}{
		{"allowed", far, web, bpf.Answer{Ingress: here(bpf.End{Set: set, Rule: 0, Verdict: bpf.Allow})}, []string{
			"unknown: shop/z-far is on node n2, which knows: run the same command there",
			"allowed: NetworkPolicy shop/a, ingress rule 0", "unknown",
		}},
		{"denied", outside, web, bpf.Answer{Reason: "policy-ingress", Ingress: here(bpf.End{Set: set, Rule: bpf.RuleNone, Verdict: bpf.Deny})}, []string{
			"none: 198.51.100.1 is no pod's address: no policy isolates it",
			"denied: default deny by shop/a", "denied",
		}},
		{"open", web, outside, bpf.Answer{Egress: here(bpf.End{})}, []string{
			"none: no policy is about the egress of shop/web",
			"none: 198.51.100.1 is no pod's address: no policy isolates it", "allowed",
		}},
		{"closed", web, outside, bpf.Answer{Reason: "policy-unknown", Egress: here(bpf.End{Set: bpf.RuleSetClosed, Verdict: bpf.Deny})}, []string{
			"denied: " + unknownYet, "none: 198.51.100.1 is no pod's address: no policy isolates it", "denied",
		}},
		{"node and a pod that nobody knows", addr("192.0.2.2"), addr("10.244.2.99"), bpf.Answer{}, []string{
			"none: 192.0.2.2 is an address of node n2: no policy isolates a node",
			"unknown: 10.244.2.99 is on node n2, which knows: run the same command there", "unknown",
		}},
		{"an address of this node's that no pod has", outside, addr("10.244.1.99"), bpf.Answer{}, []string{
			"none: 198.51.100.1 is no pod's address: no policy isolates it",
			"unknown: 10.244.1.99 is of this node, but not attached here (weft endpoints lists what is)", "unknown",
		}},
		{"itself", web, web, bpf.Answer{Egress: here(bpf.End{Exempt: bpf.ExemptSelf}), Ingress: here(bpf.End{Exempt: bpf.ExemptSelf})}, []string{
			"none: a pod always reaches itself", "none: a pod always reaches itself", "allowed",
		}},
		{"another program's Service", web, outside, bpf.Answer{Service: true, Netfilter: true, Egress: here(bpf.End{})}, []string{
			"none: no policy is about the egress of shop/web",
			"unknown: another program serves this Service: which backend it chooses is not known here", "unknown",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			way := n.sayWay(s, bpf.Question{From: tc.from, To: netip.AddrPortFrom(tc.to, 80), Protocol: bpf.TCP}, tc.answer)
			got := []string{sayJudgement(way.Egress), sayJudgement(way.Ingress), way.Verdict}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
		})
	}
}

func sayJudgement(j api.Judgement) string { return j.Verdict + ": " + j.Why }
