package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// proxyServices is a Service of serviceYAML or of the table as kube-proxy's rules have it.
func proxyServices(name string, number, nodePort int, backends ...*cluster.Pod) []rival.Service {
	var places []netip.AddrPort
	for _, b := range backends {
		places = append(places, netip.AddrPortFrom(b.IP4, 8080))
	}
	return proxyTo(name, number, nodePort, places)
}

func proxyTo(name string, number, nodePort int, places []netip.AddrPort) (out []rival.Service) {
	for _, protocol := range []string{"tcp", "udp"} {
		out = append(out, rival.Service{
			Name: name, Protocol: protocol, Port: 80, NodePort: uint16(nodePort),
			IP: netip.MustParseAddr(fmt.Sprint("10.96.0.", number)), Endpoint: places[0], More: places[1:],
		})
	}
	return out
}

// proxyOn puts kube-proxy's rules on each node.
func proxyOn(t *testing.T, c *cluster.Cluster, mode rival.ProxyMode, services []rival.Service) (all []*rival.ProxyRules) {
	t.Helper()
	for _, n := range c.Nodes {
		at, _ := family(n.Addrs, true)
		r, err := rival.NewProxyRules(mode, n.NS, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Load(services); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// A kube-proxy that still runs beside Weft does no harm: with its rules for the same
// Services on every node, who sees whom is as the table says.
func TestKubeProxyBesideDoesNoHarm(t *testing.T) {
	for _, mode := range []rival.ProxyMode{rival.IPTables, rival.NFTables} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			testnet.Require(t, "iptables", "nft")
			c, backend, clients := serviceCluster(t)
			proxyOn(t, c, mode, append(proxyServices("web-cluster", 10, 30080, backend), proxyServices("web-local", 11, 30081, backend)...))
			askTable(t, c, backend, clients, true)
		})
	}
}

// From kube-proxy to Weft without a loss: what runs through kube-proxy's rules while
// Weft leaves Services to it goes on when Weft serves them, and when the rules are gone;
// connections begin all the time and none fails. Weft may be upgraded at the same time, to
// another layout of its maps.
func TestChangeOverFromKubeProxyDropsNothing(t *testing.T) {
	for mode, flags := range map[rival.ProxyMode][]string{rival.IPTables: nil, rival.NFTables: {"--max-pods", "500"}} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			testnet.Require(t, "iptables", "nft")
			changeOver(t, mode, flags)
		})
	}
}

// proxyWay is a way of IPv4 to the Service web of serviceYAML.
type proxyWay struct {
	ns   *testnet.NS
	node *cluster.Node // of the client; nil: it is outside
	to   string
}

func changeOver(t *testing.T, mode rival.ProxyMode, flags []string) {
	c := prepare(t, cluster.Spec{Nodes: 2})
	for _, n := range c.Nodes {
		restart(t, n, "--services=false")
	}
	text := serviceYAML("web", "web", "Cluster", 20, 30090) + podObject("backend", "node-1", "web", "") + podObject("backone", "node-2", "web", "") +
		serviceYAML("slow", "slow", "Cluster", 24, 30094) + podObject("backtwo", "node-1", "slow", "")
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	backends := []*cluster.Pod{addPod(t, c.Nodes[0], "backend"), addPod(t, c.Nodes[1], "backone")}
	slow := addLimited(t, c.Nodes[0], "backtwo")
	for _, b := range append(backends, slow) {
		serveNamed(t, b)
	}
	var apart []netip.AddrPort
	for _, a := range serveApart(t, c, true) {
		apart = append(apart, netip.AddrPortFrom(a, 8080))
	}
	// And at an address of the second node that its Node object does not have.
	lone := netip.MustParseAddrPort("192.0.2.77:8080")
	if err := c.Nodes[1].NS.IP("addr", "add", lone.Addr().String()+"/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	serveAs(t, "backlon", c.Nodes[1].NS, lone.Addr())
	text = apartYAML("apart", "10.96.0.21", "type: NodePort", 30091, "IPv4", apart[0].Addr(), apart[1].Addr()) +
		apartYAML("lone", "10.96.0.22", "", 0, "IPv4", lone.Addr()) +
		apartYAML("own", "10.96.0.23", "type: NodePort", 30093, "IPv4", apart[0].Addr())
	if err := c.WriteObject("apart", text); err != nil {
		t.Fatal(err)
	}
	rules := proxyOn(t, c, mode, slices.Concat(proxyServices("web", 20, 30090, backends...),
		proxyTo("apart", 21, 30091, apart), proxyTo("lone", 22, 0, []netip.AddrPort{lone}),
		proxyTo("own", 23, 30093, apart[:1]), proxyServices("slow", 24, 30094, slow)))
	var ways, slowly []proxyWay
	for i, n := range c.Nodes {
		client, limited := addPod(t, n, fmt.Sprint("client-", i+1)), addLimited(t, n, fmt.Sprint("limited-", i+1))
		ways = append(ways, proxyWay{client.NS, n, "10.96.0.20:80"}, proxyWay{n.NS, n, "10.96.0.20:80"},
			proxyWay{client.NS, n, "10.96.0.21:80"}, proxyWay{n.NS, n, "10.96.0.21:80"},
			proxyWay{c.Outside, nil, fmt.Sprintf("172.18.0.%d:30090", i+1)}, proxyWay{client.NS, n, fmt.Sprintf("172.18.0.%d:30090", 2-i)},
			proxyWay{c.Outside, nil, fmt.Sprintf("172.18.0.%d:30091", i+1)}, proxyWay{client.NS, n, fmt.Sprintf("172.18.0.%d:30091", 2-i)})
		slowly = append(slowly, proxyWay{client.NS, n, "10.96.0.24:80"}, proxyWay{n.NS, n, "10.96.0.24:80"}, proxyWay{limited.NS, n, "10.96.0.20:80"},
			proxyWay{c.Outside, nil, fmt.Sprintf("172.18.0.%d:30094", i+1)}, proxyWay{limited.NS, n, fmt.Sprintf("172.18.0.%d:30094", 2-i)})
	}
	last := ways[len(ways)-1]
	ways = append(ways, proxyWay{last.ns, last.node, "10.96.0.22:80"}, proxyWay{c.Nodes[1].NS, c.Nodes[1], "10.96.0.22:80"})

	// Of what pods with a bandwidth limit send and are sent, netfilter sees all packets, also when
	// they have been translated: datagrams may be lost until it has forgotten those from before.
	unlimited := len(ways)
	ways = append(ways, slowly...)
	h := &held{stop: make(chan struct{})}
	lossy := &held{stop: h.stop}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var all []*requests
	const each = 6 // connections of a way: its backends are chosen at random
	for i, w := range ways {
		at := netip.MustParseAddrPort(w.to)
		for range each {
			h.tcp(t, w.ns, at)
		}
		if i < unlimited {
			h.udp(t, w.ns, at)
		} else {
			lossy.udp(t, w.ns, at)
		}
		r := &requests{name: w.ns.Name + " to " + w.to}
		all = append(all, r)
		if w.node == nil {
			wg.Go(func() { r.run(ctx, w.ns, at) })
			continue
		}
		k, err := w.node.Asker(w.ns, true) // a process of the node, as its own and its pods' are
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		wg.Go(func() { r.ask(ctx, k, at) })
	}
	count := int64(each*len(ways)) + holdAlike(t, h, c.Outside, netip.AddrPortFrom(apart[0].Addr(), 30093), apart[0])
	goOn := func(what string) {
		t.Helper()
		before := h.turns.Load()
		testnet.Until(t, 20*time.Second, func() error { // all have said something since
			if now := h.turns.Load(); now < before+3*count {
				return fmt.Errorf("%s: %d turns of %d connections; failed: %w", what, now-before, count, h.failed())
			}
			return nil
		})
	}
	goOn("through kube-proxy's rules")
	for _, n := range c.Nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		restart(t, n, flags...)
		waitBackends(t, n, "default/web", 2)
	}
	goOn("with both")
	for _, r := range rules {
		if err := r.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	goOn("without kube-proxy's rules")
	cancel()
	wg.Wait()
	close(h.stop)
	h.wg.Wait()
	lossy.wg.Wait()
	t.Logf("%d connections, %d turns; %d datagrams, %d lost; of limited pods %d, %d", count, h.turns.Load(), h.sent.Load(), h.lost.Load(), lossy.sent.Load(), lossy.lost.Load())
	if err := errors.Join(h.failed(), lossy.failed()); err != nil {
		t.Error(err)
	}
	if h.lost.Load() > 0 {
		t.Errorf("%d datagrams lost, want none:\n%s", h.lost.Load(), strings.Join(h.losses, "\n"))
	}
	for _, r := range all {
		t.Logf("%s: %d requests, %d failed", r.name, r.done.Load(), r.failed.Load())
		if err := r.first.Load(); err != nil {
			t.Errorf("%s: %d of %d requests failed; the first: %v", r.name, r.failed.Load(), r.done.Load(), *err)
		}
	}
}

// holdAlike holds connections to a Service whose client has had, or has, another from the same
// port to the backend itself: netfilter lets the backend see that from another port. It returns
// how many it holds.
func holdAlike(t *testing.T, h *held, ns *testnet.NS, to, backend netip.AddrPort) int64 {
	t.Helper()
	from := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), port) }
	for port := range uint16(4) {
		h.tcpFrom(t, ns, from(20000+port), to)
	}
	for port := range uint16(2) {
		h.tcpFrom(t, ns, from(20000+port), backend)
		conn, err := traffic.DialFrom(ns, "tcp", from(20002+port), backend, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		name := make([]byte, len("backend\n"))
		if _, err := io.ReadFull(conn, name); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	return 6
}

// addLimited makes a pod with a bandwidth limit that nothing here reaches.
func addLimited(t *testing.T, n *cluster.Node, name string) *cluster.Pod {
	t.Helper()
	p := newPod(t, n, name)
	p.Capabilities = map[string]any{"bandwidth": map[string]any{"ingressRate": 1 << 30, "ingressBurst": 1 << 24, "egressRate": 1 << 30, "egressBurst": 1 << 24}}
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}
