package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
)

// What a node passes on to one that does not know the backend, and chooses another, of a
// third, is passed on again, also if the nodes are namespaces of one kernel, which knows such
// packets as encapsulated already. Hints make the nodes know differently: for UDP a node
// knows as alive what its own sets choose.
func TestDSRPassesOnTwice(t *testing.T) {
	t.Parallel()
	for _, outer := range []cluster.Family{cluster.V4 | cluster.V6, cluster.V6} {
		t.Run(outer.String(), func(t *testing.T) {
			t.Parallel()
			c := start(t, cluster.Spec{Nodes: 3, Outer: outer})
			second, third := addPod(t, c.Nodes[1], "second"), addPod(t, c.Nodes[2], "third")
			for _, a := range third.Addrs() {
				s, err := traffic.Serve(third.NS, netip.AddrPortFrom(a, 8080))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
			}
			if err := c.WriteObject("web", hintedService(second, third)); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.Nodes {
				waitBackends(t, n, "default/web", 2)
			}
			own4, own6 := cluster.HostAddrs(254)
			for _, place := range []struct{ at, client netip.Addr }{
				{netip.MustParseAddr("203.0.113.9"), own4}, {netip.MustParseAddr("2001:db8:e::9"), own6},
			} {
				if _, has := family(c.Nodes[0].Addrs, place.at.Is4()); !has {
					continue
				}
				leads(t, c, place.at, c.Nodes[0])
				for range 3 { // each from another port
					seen, err := traffic.AskUDP(c.Outside, netip.AddrPortFrom(place.at, 80), 5*time.Second)
					if err != nil || seen != place.client {
						t.Errorf("%s: the backend saw %s, want %s; %v", place.at, seen, place.client, err)
					}
				}
			}
		})
	}
}

// hintedService has the second pod for node-1, and the third for the others.
func hintedService(second, third *cluster.Pod) string {
	text := `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {weft.dev/forwarding: dsr}}
spec:
  clusterIP: 10.96.0.9
  clusterIPs: [10.96.0.9, "fd00:96::9"]
  externalIPs: [203.0.113.9, "2001:db8:e::9"]
  ports: [{name: u, protocol: UDP, port: 80, targetPort: 8080}]
`
	for _, f := range []struct {
		family string
		of     func(*cluster.Pod) netip.Addr
	}{
		{"IPv4", func(p *cluster.Pod) netip.Addr { return p.IP4 }}, {"IPv6", func(p *cluster.Pod) netip.Addr { return p.IP6 }},
	} {
		text += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-%[4]s, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: %[1]s
ports: [{name: u, protocol: UDP, port: 8080}]
endpoints:
- {addresses: ["%[2]s"], nodeName: node-2, conditions: {ready: true}, hints: {forNodes: [{name: node-1}]}}
- {addresses: ["%[3]s"], nodeName: node-3, conditions: {ready: true}, hints: {forNodes: [{name: node-2}, {name: node-3}]}}
`, f.family, f.of(second), f.of(third), strings.ToLower(f.family))
	}
	return text
}
