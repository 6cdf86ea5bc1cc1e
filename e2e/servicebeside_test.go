package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// besidePolicies let the pods bound reach the open backends only, and the guarded ones be
// reached by the pods bound and friend only.
const besidePolicies = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bound, namespace: default}
spec:
  podSelector: {matchLabels: {app: bound}}
  policyTypes: [Egress]
  egress:
  - {to: [{podSelector: {matchLabels: {app: open}}}, {podSelector: {matchLabels: {app: guarded}}}], ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guarded, namespace: default}
spec:
  podSelector: {matchLabels: {app: guarded}}
  ingress: [{from: [{podSelector: {matchLabels: {app: bound}}}, {podSelector: {matchLabels: {app: friend}}}]}]
`

// besideProxy is a cluster that leaves Services to kube-proxy's rules: each of its pods open,
// guarded and shut, one of a node, is behind a Service of its own.
type besideProxy struct {
	*cluster.Cluster
	backends []*cluster.Pod
	rules    []*rival.ProxyRules
}

// number is the last part of the backend's Service's addresses, and of its node port.
func (b *besideProxy) number(backend int) int { return 20 + backend }

func (b *besideProxy) place(backend int, ipv4 bool) netip.AddrPort {
	if ipv4 {
		return netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:80", b.number(backend)))
	}
	return netip.MustParseAddrPort(fmt.Sprintf("[fd00:96::%d]:80", b.number(backend)))
}

func (b *besideProxy) nodePort(n *cluster.Node, backend int, ipv4 bool) netip.AddrPort {
	a, _ := family(n.Addrs, ipv4)
	return netip.AddrPortFrom(a, uint16(30000+b.number(backend)))
}

// newBesideProxy makes the cluster; iptables rules are of IPv4 only, and IPv6 has those of
// nftables then.
func newBesideProxy(t *testing.T, mode rival.ProxyMode) *besideProxy {
	t.Helper()
	testnet.Require(t, "iptables", "nft")
	b := &besideProxy{Cluster: prepare(t, cluster.Spec{Nodes: 2})}
	for _, n := range b.Nodes {
		restart(t, n, "--services=false")
	}
	text := besidePolicies
	services := map[bool][]rival.Service{}
	for _, app := range []string{"open", "guarded", "shut"} {
		for i, n := range b.Nodes {
			name, k := fmt.Sprint(app, "-", i+1), len(b.backends)
			object := podObject(name, n.Name, app, "")
			if err := b.WriteObject("pod-"+name, object); err != nil {
				t.Fatal(err)
			}
			p := addPod(t, n, name)
			b.backends = append(b.backends, p)
			for _, a := range p.Addrs() {
				s, err := traffic.Serve(p.NS, netip.AddrPortFrom(a, 8080))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				for _, protocol := range []string{"tcp", "udp"} {
					services[a.Is4()] = append(services[a.Is4()], rival.Service{
						Name: name, Protocol: protocol, IP: b.place(k, a.Is4()).Addr(), Port: 80,
						NodePort: uint16(30000 + b.number(k)), Endpoint: netip.AddrPortFrom(a, 8080),
					})
				}
			}
			text += serviceYAML(name, name, "Cluster", b.number(k), 30000+b.number(k))
		}
	}
	if err := b.WriteObject("beside", text); err != nil {
		t.Fatal(err)
	}
	for _, n := range b.Nodes {
		for _, ipv4 := range []bool{true, false} {
			at, _ := family(n.Addrs, ipv4)
			m := mode
			if !ipv4 {
				m = rival.NFTables
			}
			r, err := rival.NewProxyRules(m, n.NS, at)
			if err == nil {
				err = r.Load(services[ipv4])
			}
			if err != nil {
				t.Fatal(err)
			}
			b.rules = append(b.rules, r)
		}
	}
	return b
}

// client is a pod with that label, and a process in it.
func (b *besideProxy) client(t *testing.T, n *cluster.Node, app string) (*cluster.Pod, *cluster.Asker) {
	t.Helper()
	name := app + "-" + n.Name
	if err := b.WriteObject("pod-"+name, podObject(name, n.Name, app, "")); err != nil {
		t.Fatal(err)
	}
	p := addPod(t, n, name)
	k, err := n.Asker(p.NS, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return p, k
}

// besideAsk is one question, and what is to come of it.
type besideAsk struct {
	what, want string
	to         netip.AddrPort
}

// askAll asks each by TCP and UDP at the same time. What is to be dropped gets less time.
func askAll(t *testing.T, k *cluster.Asker, all []besideAsk) {
	t.Helper()
	type result struct{ what, got, want string }
	results := make(chan result)
	n := 0
	for _, a := range all {
		for _, mode := range []cluster.Mode{cluster.TCP, cluster.UDP} {
			n++
			go func() {
				r := result{what: fmt.Sprintf("%s, %s (%s)", a.what, mode, a.to), want: a.want}
				timeout := 10 * time.Second
				if a.want == "dropped" {
					timeout = 1500 * time.Millisecond
				}
				r.got = k.Ask(mode, a.to, timeout).String()
				results <- r
			}()
		}
	}
	var wrong []string
	for range n {
		if r := <-results; r.got != r.want {
			wrong = append(wrong, fmt.Sprintf("%s: got %s, want %s", r.what, r.got, r.want))
		}
	}
	slices.Sort(wrong)
	for _, w := range wrong {
		t.Error(w)
	}
}

// Where kube-proxy serves Services, policies are in force as they are without: an isolated
// pod reaches by a ClusterIP the backends that its egress allows, on its node and another,
// and no others; backends are reached by whom their ingress allows. A node port hides who
// sends, so that there the node's address is judged.
func TestPoliciesBesideKubeProxy(t *testing.T) {
	for _, mode := range []rival.ProxyMode{rival.IPTables, rival.NFTables} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := newBesideProxy(t, mode)
			type process struct {
				app string
				pod *cluster.Pod
				*cluster.Asker
			}
			var all []process
			for _, app := range []string{"bound", "friend", "stranger"} {
				p, k := b.client(t, b.Nodes[0], app)
				all = append(all, process{app, p, k})
			}
			matrix := func(p process) (out []besideAsk) {
				for i, backend := range b.backends {
					app := []string{"open", "guarded", "shut"}[i/2]
					for _, ipv4 := range []bool{true, false} {
						source, _ := family(p.pod.Addrs(), ipv4)
						want := source.String()
						if p.app == "bound" && app == "shut" || p.app == "stranger" && app == "guarded" {
							want = "dropped"
						}
						own, _ := family(backend.Addrs(), ipv4)
						out = append(out, besideAsk{p.app + " to the pod " + backend.Name, want, netip.AddrPortFrom(own, 8080)},
							besideAsk{p.app + " to the ClusterIP of " + backend.Name, want, b.place(i, ipv4)})
						if p.app == "bound" {
							for _, n := range b.Nodes {
								out = append(out, besideAsk{p.app + " to the node port of " + n.Name + " for " + backend.Name, "dropped", b.nodePort(n, i, ipv4)})
							}
						}
					}
				}
				return out
			}
			for _, p := range all {
				if i := slices.IndexFunc(matrix(p), func(a besideAsk) bool { return a.want == "dropped" }); i >= 0 {
					first := matrix(p)[i]
					policyInForce(t, func() error {
						if got := p.Ask(cluster.TCP, first.to, time.Second).String(); got != first.want {
							return fmt.Errorf("%s: got %s, want %s", first.what, got, first.want)
						}
						return nil
					})
				}
				askAll(t, p.Asker, matrix(p))
				askAll(t, p.Asker, matrix(p)) // and as flows are known
			}
		})
	}
}

// Host ports are Weft's also where kube-proxy serves Services, of all protocols, from
// everywhere.
func TestHostPortsBesideKubeProxy(t *testing.T) {
	t.Parallel()
	b := newBesideProxy(t, rival.NFTables)
	n := b.Nodes[0]
	p, err := n.NewPod("ported")
	if err != nil {
		t.Fatal(err)
	}
	p.Capabilities = map[string]any{"portMappings": []any{
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp"},
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "udp"},
	}}
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range p.Addrs() {
		s, err := traffic.Serve(p.NS, netip.AddrPortFrom(a, 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
	}
	near, nearAsker := b.client(t, n, "near")
	_, farAsker := b.client(t, b.Nodes[1], "far")
	process := func(ns *testnet.NS, joined bool) *cluster.Asker {
		k, err := n.Asker(ns, joined)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return k
	}
	host, outside := process(n.NS, true), process(b.Outside, false)
	for _, ipv4 := range []bool{true, false} {
		a, _ := family(n.Addrs, ipv4)
		to := netip.AddrPortFrom(a, 8088)
		source := func(addrs []netip.Addr) string {
			s, _ := family(addrs, ipv4)
			return s.String()
		}
		client, gateway, loopback := "172.18.0.254", "10.244.1.1", "127.0.0.1:8088"
		if !ipv4 {
			client, gateway, loopback = "fd18::fe", "fd00:244:1::1", "[::1]:8088"
		}
		askAll(t, nearAsker, []besideAsk{{"a pod of the node", source(near.Addrs()), to}})
		askAll(t, farAsker, []besideAsk{{"a pod of another node", source(b.Nodes[1].Addrs), to}})
		askAll(t, outside, []besideAsk{{"outside", client, to}})
		askAll(t, host, []besideAsk{{"the node", gateway, to}, {"the node by its loopback", gateway, netip.MustParseAddrPort(loopback)}})
	}
}
