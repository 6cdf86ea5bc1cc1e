package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// answers asserts that `to` answers `from`, over TCP and UDP, and that it sees the
// question come from want.
func answers(t *testing.T, what string, from, to *testnet.NS, addr, want netip.Addr) {
	t.Helper()
	answersBound(t, what, from, netip.Addr{}, to, addr, want)
}

// answersBound is the same for sockets that are bound to an address.
func answersBound(t *testing.T, what string, from *testnet.NS, bound netip.Addr, to *testnet.NS, addr, want netip.Addr) {
	t.Helper()
	s, err := traffic.Serve(to, netip.AddrPortFrom(addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, network := range []string{"tcp", "udp"} {
		got, err := traffic.AskFrom(from, network, bound, netip.AddrPortFrom(addr, uint16(s.Port())), 3*time.Second)
		if err != nil {
			t.Errorf("%s, %s: %v", what, network, err)
		} else if got != want {
			t.Errorf("%s, %s: source seen is %s, want %s", what, network, got, want)
		}
	}
}

// pods makes two pods on each of two nodes.
func pods(t *testing.T, c *cluster.Cluster) (a1, a2, b1, b2 *cluster.Pod) {
	t.Helper()
	return addPod(t, c.Nodes[0], "a1"), addPod(t, c.Nodes[0], "a2"),
		addPod(t, c.Nodes[1], "b1"), addPod(t, c.Nodes[1], "b2")
}

// Every row of the table in docs/packets.md.
func TestEveryWayAndItsSource(t *testing.T) {
	for _, spec := range []cluster.Spec{
		{Nodes: 2},
		{Nodes: 2, Pods: cluster.V4, Outer: cluster.V4},
		{Nodes: 2, Pods: cluster.V6, Outer: cluster.V6},
		{Nodes: 2, Pods: cluster.Dual, Outer: cluster.V6},
		{Nodes: 2, OuterV6First: true},
		{Nodes: 2, Flags: []string{"--overlay", "direct"}},
		{Nodes: 2, Flags: []string{"--overlay", "auto"}},
	} {
		name := fmt.Sprintf("pods %s, outer %s, first6=%v %v", spec.Pods, spec.Outer, spec.OuterV6First, spec.Flags)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, spec)
			everyWay(t, c, len(spec.Flags) > 0)
		})
	}
}

func everyWay(t *testing.T, c *cluster.Cluster, direct bool) {
	a1, a2, b1, _ := pods(t, c)
	nodeA, nodeB := c.Nodes[0], c.Nodes[1]
	for i, addr := range a1.Addrs() {
		v4 := addr.Is4()
		gw := overlay.GatewayAddrs(nodeA.PodCIDRs)[i]
		name := map[bool]string{true: "IPv4", false: "IPv6"}[v4]
		answers(t, name+" pod to pod, same node", a1.NS, a2.NS, a2.Addrs()[i], addr)
		answers(t, name+" pod to pod, other node", a1.NS, b1.NS, b1.Addrs()[i], addr)
		answers(t, name+" pod to pod, back", b1.NS, a1.NS, addr, b1.Addrs()[i])
		answers(t, name+" pod to itself", a1.NS, a1.NS, addr, addr)
		answers(t, name+" host to local pod", nodeA.NS, a1.NS, addr, gw)
		answers(t, name+" host to pod on another node", nodeA.NS, b1.NS, b1.Addrs()[i], gw)
		answers(t, name+" pod to its gateway", a1.NS, nodeA.NS, gw, addr)
		far := overlay.GatewayAddrs(nodeB.PodCIDRs)[i]
		answers(t, name+" pod to another node's gateway", a1.NS, nodeB.NS, far, addr)
		answers(t, name+" host to another node's gateway", nodeA.NS, nodeB.NS, far, gw)
		own, okOwn := family(nodeA.Addrs, v4)
		if okOwn {
			answersBound(t, name+" host, bound to the node's address, to local pod", nodeA.NS, own, a1.NS, addr, own)
			want := gw
			if direct { // past weft-vxlan
				want = own
			}
			answersBound(t, name+" host, bound to the node's address, to pod on another node", nodeA.NS, own, b1.NS, b1.Addrs()[i], want)
		}
		other, okOther := family(nodeB.Addrs, v4)
		if okOwn && okOther {
			answers(t, name+" pod to its node", a1.NS, nodeA.NS, own, addr)
			answers(t, name+" pod to another node", a1.NS, nodeB.NS, other, own)
			outside := map[bool]netip.Addr{true: cluster.Outside4, false: cluster.Outside6}[v4]
			answers(t, name+" pod to outside", a1.NS, c.Outside, outside, own)
		}
	}
}

func family(addrs []netip.Addr, v4 bool) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Is4() == v4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// A host whose firewall drops what it does not know, as Docker's does.
func TestForwardPolicyDrop(t *testing.T) {
	c := prepare(t, cluster.Spec{Nodes: 2})
	for _, n := range c.Nodes {
		for _, tool := range []string{"iptables", "ip6tables"} {
			if _, err := n.NS.Output(tool, "-P", "FORWARD", "DROP"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyWay(t, c, false)
}

// What comes from outside to a pod that does not exist ends at the node, with ICMP,
// and does not circle between the node and its router.
func TestAbsentPodIsUnreachable(t *testing.T) {
	c := start(t, cluster.Spec{Nodes: 2})
	a := addPod(t, c.Nodes[0], "a")
	for _, addr := range []string{"10.244.2.200", "fd00:244:2::dead", "10.244.1.200", "fd00:244:1::dead"} {
		begin := time.Now()
		_, err := traffic.Ask(a.NS, netip.AddrPortFrom(netip.MustParseAddr(addr), 80), 5*time.Second)
		if took := time.Since(begin); err == nil || took > 4*time.Second {
			t.Errorf("%s: got %v after %s, want an ICMP error at once", addr, err, took)
		}
	}
}

// Two nodes that prefer different families agree on one; the device of one of them
// then has not the MAC that the other computes.
func TestNodesThatPreferDifferentFamilies(t *testing.T) {
	t.Parallel()
	for _, odd := range []int{0, 1} {
		c := prepare(t, cluster.Spec{Nodes: 2})
		n := c.Nodes[odd]
		n.Addrs[0], n.Addrs[1] = n.Addrs[1], n.Addrs[0]
		if err := c.WriteNode(n); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		everyWay(t, c, false)
	}
}
