package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/internal/testnet"
)

// proxyServices is a Service of serviceYAML or of the table as kube-proxy's rules have it.
func proxyServices(name string, number, nodePort int, backends ...*cluster.Pod) (out []rival.Service) {
	for _, protocol := range []string{"tcp", "udp"} {
		s := rival.Service{
			Name: name, Protocol: protocol, Port: 80, NodePort: uint16(nodePort),
			IP: netip.MustParseAddr(fmt.Sprint("10.96.0.", number)), Endpoint: netip.AddrPortFrom(backends[0].IP4, 8080),
		}
		for _, b := range backends[1:] {
			s.More = append(s.More, netip.AddrPortFrom(b.IP4, 8080))
		}
		out = append(out, s)
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
