package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/overlay"
)

// A node that runs no Weft but the kernel's VXLAN device, set up by hand, is a peer.
func TestKernelVXLANPeer(t *testing.T) {
	for _, outer := range []cluster.Family{cluster.V4, cluster.V6} {
		t.Run(outer.String(), func(t *testing.T) {
			t.Parallel()
			c := prepare(t, cluster.Spec{Nodes: 2, Outer: outer})
			weft, kernel := c.Nodes[0], c.Nodes[1]
			mac := func(n *cluster.Node) string {
				m := overlay.NodeMAC(n.Addrs[0])
				return net.HardwareAddr(m[:]).String()
			}
			mtu := fmt.Sprint(1500 - overlay.Overhead(kernel.Addrs[0]))
			for _, line := range []string{
				"link add vx address " + mac(kernel) + " mtu " + mtu + " type vxlan id 87 dstport 8872 local " + kernel.Addrs[0].String() +
					" dev eth0 nolearning noudpcsum udp6zerocsumtx udp6zerocsumrx",
				"link set vx up",
				"addr add 10.244.2.5/32 dev vx",
				"addr add fd00:244:2::5/128 dev vx nodad",
				"neigh add 10.244.1.1 lladdr " + mac(weft) + " dev vx nud permanent",
				"neigh add fe80::1 lladdr " + mac(weft) + " dev vx nud permanent",
				"route add 10.244.1.0/24 via 10.244.1.1 dev vx onlink src 10.244.2.5",
				"route add fd00:244:1::/64 via fe80::1 dev vx src fd00:244:2::5",
			} {
				if err := kernel.NS.IP(strings.Fields(line)...); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := kernel.NS.Output("bridge", "fdb", "add", mac(weft), "dev", "vx", "dst", weft.Addrs[0].String()); err != nil {
				t.Fatal(err)
			}
			restart(t, weft)
			a := addPod(t, weft, "a")
			for i, addr := range a.Addrs() {
				peer := netip.MustParseAddr([]string{"10.244.2.5", "fd00:244:2::5"}[i])
				answers(t, "pod to kernel peer", a.NS, kernel.NS, peer, addr)
				answers(t, "kernel peer to pod", kernel.NS, a.NS, addr, peer)
				transfer(t, a.NS, kernel.NS, peer, 2<<20)
				transfer(t, kernel.NS, a.NS, addr, 2<<20)
			}
		})
	}
}
