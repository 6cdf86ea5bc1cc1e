package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// A host port with a hostIP is there only, over TCP and UDP, and takes nothing that goes
// to that port elsewhere; it goes with its pod.
func TestHostPortStaysInItsPlace(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	n := c.Nodes[0]
	if err := n.NS.IP("addr", "add", "172.18.0.101/32", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	backend, err := n.NewPod("backend")
	if err != nil {
		t.Fatal(err)
	}
	backend.Capabilities = map[string]any{"portMappings": []any{
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp", "hostIP": "172.18.0.101"},
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "udp", "hostIP": "172.18.0.101"},
		// Not the node's: what goes to these is not the pod's.
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp", "hostIP": "198.51.100.1"},
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "udp", "hostIP": "198.51.100.1"},
	}}
	if err := backend.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve := func(ns *testnet.NS, at string) {
		s, err := traffic.Serve(ns, netip.MustParseAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
	}
	serve(backend.NS, backend.IP4.String()+":8080")
	client, other := addPod(t, n, "client"), addPod(t, c.Nodes[1], "other")
	serve(other.NS, other.IP4.String()+":8088")
	serve(c.Outside, "198.51.100.1:8088")
	ask := func(k *cluster.Asker, to, want string) {
		t.Helper()
		for _, mode := range []cluster.Mode{cluster.TCP, cluster.UDP} {
			if got := k.Ask(mode, netip.MustParseAddrPort(to), 5*time.Second).String(); got != want {
				t.Errorf("%s to %s: got %s, want %s", mode, to, got, want)
			}
		}
	}
	start := func(ns *testnet.NS, joined bool) *cluster.Asker {
		k, err := n.Asker(ns, joined)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return k
	}
	outside, packet, socket, host := start(c.Outside, false), start(client.NS, false), start(client.NS, true), start(n.NS, true)

	ask(outside, "172.18.0.101:8088", "172.18.0.254")
	ask(outside, "172.18.0.1:8088", "refused")
	for _, k := range []*cluster.Asker{packet, socket} {
		ask(k, "172.18.0.101:8088", client.IP4.String())
		ask(k, "172.18.0.1:8088", "refused")
		ask(k, "198.51.100.1:8088", "172.18.0.1") // forwarded, to outside's own
		ask(k, other.IP4.String()+":8088", client.IP4.String())
	}
	ask(host, "172.18.0.101:8088", "10.244.1.1")
	ask(host, "127.0.0.1:8088", "refused")
	ask(host, "198.51.100.1:8088", "172.18.0.1")

	if err := backend.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*cluster.Asker{outside, packet, socket, host} {
		ask(k, "172.18.0.101:8088", "refused")
	}
}
