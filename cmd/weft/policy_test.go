package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/api/server"
)

func at(addr string, port uint16, pod string) api.DropEnd {
	return api.DropEnd{Addr: netip.MustParseAddr(addr), Port: port, Pod: pod}
}

func (node) Drops() []api.Drop {
	when := time.Date(2026, 1, 2, 3, 4, 5, 60e6, time.Local)
	backend := at("10.244.2.2", 8080, "")
	return []api.Drop{
		{Time: when, Reason: "link-local", Protocol: "ICMPv6", Src: at("fe80::1", 0, ""), Dst: at("ff02::2", 0, ""), Device: "weft1"},
		{
			Time: when, Reason: "policy-ingress", Direction: "ingress", Policies: []string{"NetworkPolicy shop/none"},
			Why: "default deny by NetworkPolicy shop/none", Protocol: "TCP",
			Src: at("10.244.1.2", 4711, "shop/cart"), Dst: at("10.96.0.10", 80, ""), Backend: &backend, Device: "weft1", LeftOut: 3,
		},
		{Time: when, Reason: "no-peer", Protocol: "ICMP", Detail: "echo request", Src: at("10.244.1.2", 0, "a/b\x1b[2J"), Dst: api.DropEnd{Addr: netip.MustParseAddr("fd00::1"), Node: "n2"}},
	}
}

func (n node) WatchDrops(_ context.Context, each func([]api.Drop) error) {
	_ = each(nil) // a sign of life
	_ = each(n.Drops())
}

func (node) Policies() []api.Policy {
	return []api.Policy{
		{Kind: "ClusterNetworkPolicy", Name: "base", Tier: "Baseline", Directions: []string{"egress"}, Problem: "rule 1: domain names"},
		{Kind: "ClusterNetworkPolicy", Name: "first", Tier: "Admin", Priority: 7, Directions: []string{"ingress", "egress"}, Pods: 2},
		{Kind: "NetworkPolicy", Namespace: "shop", Name: "none", Directions: []string{"ingress"}, Pods: 1},
	}
}

func (node) PodPolicy(pod string) ([]api.PodPolicy, error) {
	if pod != "shop/web" && pod != "fd00:244:1::2" {
		return nil, &api.Error{Code: api.CodeUnknown, Msg: "there is no pod " + pod + " on this node"}
	}
	return []api.PodPolicy{{
		Ref: api.Ref{ContainerID: "c1", IfName: "eth0"}, Namespace: "shop", Name: "web",
		Addrs:   []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244:1::2")},
		Ingress: api.PodRules{State: api.PodIsolated, Set: "0123456789abcdef"},
		Egress:  api.PodRules{State: api.PodOpen},
		Words:   []string{"ingress:", "  everything is denied, by shop/none", "egress: not isolated, everything passes"},
	}}, nil
}

func (node) Explain(r api.ExplainRequest) (api.Explanation, error) {
	if r.From != "shop/cart" {
		return api.Explanation{}, &api.Error{Code: api.CodeUnknown, Msg: "there is no pod " + r.From}
	}
	backend := at("10.244.2.2", 8080, "shop/web")
	return api.Explanation{Ways: []api.ExplainedWay{{
		Protocol: "TCP", From: at("10.244.1.2", 0, "shop/cart"), To: at("10.96.0.10", 80, ""), Service: "shop/web", Backend: &backend,
		Egress:  api.Judgement{Verdict: api.VerdictNone, Why: "no policy isolates shop/cart"},
		Ingress: api.Judgement{Verdict: api.VerdictDenied, Why: "default deny by NetworkPolicy shop/none"},
		Verdict: api.VerdictDenied, Reason: "policy-ingress",
	}}}, nil
}

func TestPolicyIsShown(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"drops", []string{"drops"}, `
… 3 more that were not recorded
03:04:05.060  policy-ingress   TCP shop/cart 10.244.1.2:4711 → 10.96.0.10:80 (10.244.2.2:8080) at weft1: default deny by NetworkPolicy shop/none
03:04:05.060  no-peer          ICMP echo request a/b [2J 10.244.1.2 → node n2 fd00::1 at ?
`},
		{"all drops", []string{"drops", "-a"}, `
03:04:05.060  link-local       ICMPv6 fe80::1 → ff02::2 at weft1
… 3 more that were not recorded
03:04:05.060  policy-ingress   TCP shop/cart 10.244.1.2:4711 → 10.96.0.10:80 (10.244.2.2:8080) at weft1: default deny by NetworkPolicy shop/none
03:04:05.060  no-peer          ICMP echo request a/b [2J 10.244.1.2 → node n2 fd00::1 at ?
`},
		{"policies", []string{"policy"}, `
KIND                   NAMESPACE   NAME    TIER       DIRECTIONS       PODS HERE   PROBLEM
ClusterNetworkPolicy   -           base    Baseline   egress           0           rule 1: domain names
ClusterNetworkPolicy   -           first   Admin 7    ingress,egress   2           -
NetworkPolicy          shop        none    -          ingress          1           -
`},
		{"a pod's", []string{"policy", "shop/web"}, `
shop/web  eth0  10.244.1.2,fd00:244:1::2
  ingress isolated, egress open
  ingress:
    everything is denied, by shop/none
  egress: not isolated, everything passes
`},
		{"explanation", []string{"explain", "shop/cart", "shop/web:80"}, `
TCP  shop/cart 10.244.1.2 → 10.96.0.10:80
  Service shop/web: for example its backend shop/web 10.244.2.2:8080
  egress   passes: no policy isolates shop/cart
  ingress  denied: default deny by NetworkPolicy shop/none
  → DENIED (policy-ingress)
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := weft(append(slices.Clone(tc.args), "--socket", socket)...)
			if code != 0 || errs != "" {
				t.Errorf("exit code %d, stderr %q; want 0 and nothing", code, errs)
			}
			if diff := cmp.Diff(tc.want[1:], out); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDropsAreWatched(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	code, out, errs := weft("drops", "-w", "--socket", socket)
	if code != exitNoDaemon || !strings.Contains(errs, "it has ended") {
		t.Errorf("the daemon ends: exit code %d, stderr %q", code, errs)
	}
	if strings.Count(out, "\n") != 3 || !strings.Contains(out, "policy-ingress") || strings.Contains(out, "link-local") {
		t.Errorf("lines:\n%s", out)
	}
	code, out, _ = weft("drops", "-w", "-a", "-o", "json", "--socket", socket)
	if code != exitNoDaemon || strings.Count(out, "\n") != 3 || !strings.Contains(out, `"reason":"link-local"`) {
		t.Errorf("as JSON: exit code %d\n%s", code, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"drops", "-w", "--socket", socket}, &stdout, &stderr); code != 0 {
		t.Errorf("ended by its user: exit code %d, stderr %q", code, stderr.String())
	}
}

// A daemon that hangs must not look like one that drops nothing.
func TestWatchingDropsOfADaemonThatHangsIsToldOf(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, out, errs := weft("drops", "-w", "--timeout", "50ms", "--socket", l.Addr().String())
	if code != exitNoDaemon || out != "" || !strings.Contains(errs, "does not answer in time") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, errs)
	}
}

func TestWhatCannotBeAskedOfPoliciesIsSaid(t *testing.T) {
	socket := serve(t, server.Handler(noCNI{}, node{true}, nil))
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown pod", []string{"policy", "x/y"}, "there is no pod x/y on this node"},
		{"no pod's name", []string{"policy", "a?b"}, "not the name of a pod: a?b"},
		{"unknown sender", []string{"explain", "x", "y"}, "there is no pod x"},
		{"no sender", []string{"explain", "", "y"}, "from and to must name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := weft(append(slices.Clone(tc.args), "--socket", socket)...)
			if code != exitNotReady || out != "" || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and %q", code, out, errs, tc.want)
			}
		})
	}
}
