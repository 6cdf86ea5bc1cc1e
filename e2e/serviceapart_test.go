package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// serveApart serves where no pod is, as API servers do: in the second node's own network, and
// outside of the cluster.
func serveApart(t *testing.T, c *cluster.Cluster, v4 bool) [2]netip.Addr {
	t.Helper()
	own, ok := family(c.Nodes[1].Addrs, v4)
	out := cluster.Outside6
	if v4 {
		out = cluster.Outside4
	}
	if !ok {
		t.Fatalf("%s has the addresses %v", c.Nodes[1].Name, c.Nodes[1].Addrs)
	}
	serveAs(t, "backown", c.Nodes[1].NS, own)
	serveAs(t, "backout", c.Outside, out)
	return [2]netip.Addr{own, out}
}

// apartYAML is a Service of one family that says itself who its backends are.
func apartYAML(name, ip, spec string, nodePort int, family string, backends ...netip.Addr) string {
	port := ""
	if nodePort != 0 {
		port = fmt.Sprintf(", nodePort: %d", nodePort)
	}
	text := fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default}
spec:
  clusterIP: "%[2]s"
  clusterIPs: ["%[2]s"]
  ipFamilies: [%[3]s]
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080%[4]s}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080%[4]s}
  %[5]s
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports: [{name: t, protocol: TCP, port: 8080}, {name: u, protocol: UDP, port: 8080}]
endpoints:
`, name, ip, family, port, spec)
	for _, b := range backends {
		text += fmt.Sprintf("- {addresses: [%q], conditions: {ready: true}}\n", b)
	}
	return text
}

// What of pods is translated per packet (that with session affinity, datagrams of connected
// sockets) goes to backends that are in no pod, and on: by the stack, which masquerades it.
func TestPodsReachBackendsInNoPod(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	services := 0
	var places []netip.AddrPort
	for _, v4 := range []bool{true, false} {
		prefix, name := "10.96.0.", "IPv4"
		if !v4 {
			prefix, name = "fd00:96::", "IPv6"
		}
		for _, b := range serveApart(t, c, v4) {
			services++
			ip := fmt.Sprint(prefix, 30+services)
			places = append(places, netip.AddrPortFrom(netip.MustParseAddr(ip), 80))
			object := fmt.Sprint("apart-", services)
			if err := c.WriteObject(object, apartYAML(object, ip, "sessionAffinity: ClientIP", 0, name, b)); err != nil {
				t.Fatal(err)
			}
		}
	}
	h := &held{stop: make(chan struct{})}
	connections := int64(0)
	for i, n := range c.Nodes {
		client := addPod(t, n, fmt.Sprint("client-", i+1))
		for j, to := range places {
			waitAddrs(t, n, fmt.Sprint("default/apart-", j+1), 1)
			for range 3 {
				h.tcp(t, client.NS, to)
				connections++
			}
			h.udp(t, client.NS, to)
		}
	}
	testnet.Until(t, 20*time.Second, func() error {
		if now := h.turns.Load(); now < 5*connections {
			return fmt.Errorf("%d turns of %d connections; failed: %w", now, connections, h.failed())
		}
		return nil
	})
	close(h.stop)
	h.wg.Wait()
	t.Logf("%d connections, %d turns; %d datagrams, %d lost", connections, h.turns.Load(), h.sent.Load(), h.lost.Load())
	if err := h.failed(); err != nil || h.lost.Load() > 0 {
		t.Errorf("%d of %d datagrams lost, want none; failed: %v", h.lost.Load(), h.sent.Load(), err)
	}
}
