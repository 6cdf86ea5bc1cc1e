package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// hostIf is the device of a pod on its node.
func hostIf(t testing.TB, p *cluster.Pod) string {
	t.Helper()
	e, ok := attachments(t, p.Node)[p.ID]
	if !ok {
		t.Fatalf("%s is not attached", p.Name)
	}
	return e.HostIf
}

// CHECK finds each single thing of ours that is gone, and its message tells which.
func TestCheckFindsEachThingMissing(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	gw4, gw6 := "10.244.1.1", "fd00:244:1::1"
	messages := map[string]string{}
	for _, tt := range []struct {
		name string
		pod  []string // a command in the pod
		do   func(p *cluster.Pod, host string) error
		want string
		code uint // 0: CodeMissing
	}{
		{name: "interface", pod: []string{"ip", "link", "del", "eth0"}, want: "is missing"},
		{name: "interface down", pod: []string{"ip", "link", "set", "eth0", "down"}, want: "interface eth0 is down"},
		{name: "IPv4 address", pod: []string{"ip", "-4", "addr", "flush", "dev", "eth0"}, want: "address 10.244.1."},
		{name: "IPv6 address", pod: []string{"ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"}, want: "address fd00:244:1::"},
		{name: "IPv4 route", pod: []string{"ip", "route", "del", "default"}, want: "default route via " + gw4},
		{name: "IPv6 route", pod: []string{"ip", "-6", "route", "del", "default"}, want: "default route via " + gw6},
		{name: "route to the gateway", pod: []string{"ip", "-6", "route", "del", gw6, "dev", "eth0"}, want: "route to gateway " + gw6},
		{name: "neighbour", pod: []string{"ip", "neigh", "del", gw4, "dev", "eth0"}, want: "neighbour of gateway " + gw4},
		{name: "host route", do: func(p *cluster.Pod, host string) error {
			return n.NS.IP("route", "del", p.IP4.String(), "dev", host)
		}, want: "host route to"},
		{name: "host neighbour", do: func(p *cluster.Pod, host string) error {
			return n.NS.IP("neigh", "del", p.IP6.String(), "dev", host)
		}, want: "host neighbour of"},
		{name: "tc limit", do: func(p *cluster.Pod, host string) error {
			_, err := n.NS.Output("tc", "qdisc", "del", "dev", host, "root")
			return err
		}, want: "bandwidth limit of what the pod receives"},
		{name: "program", do: func(p *cluster.Pod, host string) error {
			_, err := n.NS.Output("tc", "filter", "del", "dev", host, "ingress", "pref", "1")
			return err
		}, want: "bpf program from_pod is not attached"},
		{name: "map row", do: func(p *cluster.Pod, host string) error {
			_, err := n.NS.Output("bpftool", append([]string{"map", "update", "pinned", endpointMap(t, n)}, noRow(t, p)...)...)
			return err
		}, want: "bpf endpoint row of"},
		{name: "address reservation", do: func(p *cluster.Pod, host string) error {
			call(t, n, callPod("DEL", p)).succeed(t)
			return nil
		}, want: "address reservation"},
		{name: "namespace", do: func(p *cluster.Pod, host string) error { return p.NS.Close() }, want: "network namespace"},
		{name: "daemon", do: func(p *cluster.Pod, host string) error { return n.Kill() }, want: "daemon does not answer", code: api.CodeTryAgain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod(t, n, "p")
			limit := map[string]any{"bandwidth": map[string]any{"ingressRate": 1 << 30, "ingressBurst": 1 << 24}}
			p.Capabilities = limit
			if err := p.Add(t.Context()); err != nil {
				t.Fatal(err)
			}
			prev, err := p.Result.GetAsVersion("1.1.0")
			if err != nil {
				t.Fatal(err)
			}
			check := callPod("CHECK", p).with("prevResult", prev).with("runtimeConfig", limit)
			if a := call(t, n, check).succeed(t); a.Took > time.Second {
				t.Errorf("CHECK right after ADD: %s", a)
			}
			host := hostIf(t, p)
			// The daemon mends what is ours within a moment, so damage and CHECK race
			// with it: both are repeated until CHECK was the first.
			code := tt.code
			if code == 0 {
				code = api.CodeMissing
			}
			var last cniAnswer
			for range 20 {
				if tt.pod != nil {
					if _, err := p.NS.Output(tt.pod[0], tt.pod[1:]...); err != nil {
						t.Fatal(err)
					}
				}
				if tt.do != nil {
					if err := tt.do(p, host); err != nil {
						t.Fatal(err)
					}
				}
				if last = call(t, n, check); last.Exit != 0 {
					break
				}
			}
			last.fails(t, code, tt.want)
			if other := messages[last.Msg+last.Details]; other != "" {
				t.Errorf("the same message as for %s: %s", other, last)
			}
			messages[last.Msg+last.Details] = tt.name
			t.Log(last)
			call(t, n, callPod("DEL", p)).succeed(t)
		})
	}
}

// What plugins after us in a chain, or anybody, may add does not concern CHECK.
func TestCheckIgnoresWhatOthersAdd(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	p := addPod(t, n, "p")
	host := hostIf(t, p)
	for _, cmd := range [][]string{
		{"tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"},
		{"ip", "addr", "add", "192.0.2.7/24", "dev", "eth0"},
		{"ip", "route", "add", "198.51.100.0/24", "via", "10.244.1.1"},
		{"ip", "link", "add", "net1", "type", "bridge"},
		{"iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", "25", "-j", "DROP"},
		{"sysctl", "-q", "-w", "net.ipv4.tcp_keepalive_time=600"},
	} {
		if _, err := p.NS.Output(cmd[0], cmd[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range [][]string{
		{"tc", "qdisc", "add", "dev", host, "root", "handle", "7:", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"},
		{"tc", "filter", "add", "dev", host, "ingress", "protocol", "all", "prio", "9", "u32", "match", "u32", "0", "0", "classid", "1:1"},
		{"iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to", p.IP4.String() + ":80"},
	} {
		if _, err := n.NS.Output(cmd[0], cmd[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Until(t, 5*time.Second, func() error { return p.Check(t.Context()) })

	// A result that plugins after us made bigger.
	prev := *p.Result
	bigger := map[string]any{
		"cniVersion": "1.1.0", "interfaces": append([]any{}, prev.Interfaces[0], prev.Interfaces[1], map[string]any{"name": "net1", "sandbox": p.NS.Path()}),
		"ips": append([]any{}, prev.IPs[0], prev.IPs[1], map[string]any{"address": "192.0.2.7/24", "interface": 2}),
		"dns": map[string]any{"nameservers": []string{"192.0.2.1"}},
	}
	call(t, n, callPod("CHECK", p).with("prevResult", bigger)).succeed(t)
}

// STATUS never holds up the runtime, which sets it no time limit.
func TestStatusIsQuickAndTrue(t *testing.T) {
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	status := func(what string, code uint) {
		t.Helper()
		// The fastest of some: what is measured is the plugin, not a busy machine.
		best := time.Hour
		for range 5 {
			a := call(t, n, cniCall{Verb: "STATUS"})
			if best = min(best, a.Took); a.Code != code || (a.Exit == 0) != (code == 0) {
				t.Errorf("%s: got %s, want code %d", what, a, code)
			}
		}
		if best > 50*time.Millisecond {
			t.Errorf("%s: STATUS took %s, want at most 50 ms", what, best)
		}
		t.Logf("%s: code %d in %s", what, code, best)
	}
	status("ready", 0)
	wake := hang(t, n)
	status("daemon hung, no pods", api.CodeNotAvailable)
	wake()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	status("daemon dead, no pods", api.CodeNotAvailable)
	restart(t, n)
	addPod(t, n, "p")
	status("ready, with a pod", 0)
	wake = hang(t, n)
	status("daemon hung, pods exist", api.CodeLimited)
	wake()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	status("daemon dead, pods exist", api.CodeLimited)
}

func TestStatusOfAFullPoolAndOfANodeWithoutOne(t *testing.T) {
	t.Parallel()
	c := prepare(t, cluster.Spec{Pods: cluster.V4})
	n := c.Nodes[0]
	pool := n.PodCIDRs
	n.PodCIDRs = nil
	if err := c.WriteNode(n); err != nil {
		t.Fatal(err)
	}
	// The daemon installs the plugin when it can serve; here it was before.
	if out, err := n.Command("install").CombinedOutput(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, func() error {
		if a := call(t, n, cniCall{Verb: "STATUS"}); !strings.Contains(a.Msg+a.Details, "podCIDRs") {
			return fmt.Errorf("STATUS: %s", a)
		}
		return nil
	})
	call(t, n, cniCall{Verb: "STATUS"}).fails(t, api.CodeNotAvailable, "podCIDRs")
	s, err := n.Client().Status(t.Context())
	if err != nil || len(s.Problems) == 0 || !strings.Contains(s.Problems[0].Text, "podCIDRs") {
		t.Errorf("status without pod CIDR: %v %v", s.Problems, err)
	}
	n.PodCIDRs = append(pool[:0:0], mustPrefix(t, "10.244.1.0/29")) // five pods
	if err := c.WriteNode(n); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		call(t, n, cniCall{Verb: "STATUS"}).succeed(t)
		addPod(t, n, "p")
	}
	call(t, n, cniCall{Verb: "STATUS"}).fails(t, api.CodeNotAvailable, "used up")
	p := newPod(t, n, "one too many")
	if a := call(t, n, callPod("ADD", p)); a.Exit == 0 || a.Code != api.CodeTryAgain {
		t.Errorf("ADD with a full pool: got %s, want code %d", a, api.CodeTryAgain)
	}
	freed(t, n, p.ID)
}
