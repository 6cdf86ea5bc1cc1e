package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// setUplink changes the MTU of a node's uplink, at both its ends.
func setUplink(t testing.TB, c *cluster.Cluster, n *cluster.Node, mtu int) {
	t.Helper()
	for _, err := range []error{
		c.Bridge.IP("link", "set", n.Name, "mtu", fmt.Sprint(mtu)),
		n.NS.IP("link", "set", "eth0", "mtu", fmt.Sprint(mtu)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// P8: the pods' interfaces and routes follow the uplink, while their connections live.
func TestUplinkMTUChangesUnderLivePods(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
	var all []*traffic.Stream
	for i := range a.Addrs() {
		s, err := traffic.Start(b.Addrs()[i].String(), a.NS, b.NS, b.Addrs()[i])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	for _, mtu := range []int{9000, 1400, 1500} {
		for _, n := range c.Nodes {
			setUplink(t, c, n, mtu)
		}
		begin := time.Now()
		testnet.Until(t, 10*time.Second, func() error {
			for _, p := range []*cluster.Pod{a, b} {
				if got, err := readMTU(p); err != nil || got != mtu-50 {
					return fmt.Errorf("uplink %d: mtu of %s: got %d, want %d; %w", mtu, p.Name, got, mtu-50, err)
				}
				if err := p.Check(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("uplink %d: pods follow after %s", mtu, time.Since(begin).Round(time.Millisecond))
		for i := range a.Addrs() {
			s := listenUDP(t, b.NS, b.Addrs()[i])
			arrives(t, sendTo(t, a.NS, s.addr()), s, mtu-50)
			transfer(t, a.NS, b.NS, b.Addrs()[i], 2<<20)
		}
	}
	for _, s := range all {
		// Datagrams are smaller than every MTU; the device is not taken down.
		if r := s.Stop(); r.Lost > 0 || r.Err != nil {
			t.Errorf("%s: %s, %v", s.Name, r, r.Err)
		}
	}
}

// Nodes with different uplinks on one link: TCP agrees on the smaller size, UDP
// passes up to it, and for more the probe tells that it is lost, since nothing on
// the link answers.
func TestMixedUplinkMTUs(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"--overlay", "direct"}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			t.Parallel()
			c := prepare(t, cluster.Spec{Nodes: 2, Flags: flags})
			setUplink(t, c, c.Nodes[1], 9000)
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			overhead := overheadIn(c)
			a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
			if got := mtuOf(t, a); got != 1500-overhead {
				t.Errorf("mtu behind 1500: got %d", got)
			}
			if got := mtuOf(t, b); got != 9000-overhead {
				t.Errorf("mtu behind 9000: got %d", got)
			}
			for i := range a.Addrs() {
				transfer(t, a.NS, b.NS, b.Addrs()[i], 2<<20)
				transfer(t, b.NS, a.NS, a.Addrs()[i], 2<<20)
				s := listenUDP(t, a.NS, a.Addrs()[i])
				arrives(t, sendTo(t, b.NS, s.addr()), s, 1500-overhead)
			}
			testnet.Until(t, 30*time.Second, func() error {
				nodes, err := c.Nodes[1].Client().Nodes(t.Context())
				if err != nil {
					return err
				}
				for _, n := range nodes {
					if n.Name == c.Nodes[0].Name && n.Reach == "mtu" {
						return nil
					}
				}
				return fmt.Errorf("nobody says that full-size packets are lost: %+v", nodes)
			})
		})
	}
}

// A router between the nodes whose link to one of them is narrower: what is too big
// is answered by it to the sending node, and the pods must come to know.
func TestNarrowRouterBetween(t *testing.T) {
	t.Parallel()
	for _, spec := range []cluster.Spec{
		{Outer: cluster.V4}, {Outer: cluster.V6}, {Flags: []string{"--overlay", "direct"}},
	} {
		t.Run(fmt.Sprint(spec.Outer, spec.Flags), func(t *testing.T) {
			t.Parallel()
			spec.Nodes = 2
			c := prepare(t, spec)
			const narrow = 1420
			behindRouter(t, c, narrow)
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
			for i := range a.Addrs() {
				begin := time.Now()
				transfer(t, a.NS, b.NS, b.Addrs()[i], 2<<20)
				transfer(t, b.NS, a.NS, a.Addrs()[i], 2<<20)
				t.Logf("%s: both ways in %s", b.Addrs()[i], time.Since(begin).Round(time.Millisecond))
			}
			mtu := narrow - overheadIn(c)
			for i := range a.Addrs() {
				gw := overlay.GatewayAddrs(c.Nodes[0].PodCIDRs)[i]
				s := listenUDP(t, b.NS, b.Addrs()[i])
				d := sendTo(t, a.NS, s.addr())
				testnet.Until(t, 15*time.Second, func() error {
					s.drain(d)
					if err := d.send(mtu + 1); err != nil {
						return err
					}
					err := d.icmp(200 * time.Millisecond)
					var e icmpError
					if len(spec.Flags) > 0 && errors.As(err, &e) { // direct: the router itself may be first
						gw = e.From
					}
					return tooBig(err, gw, mtu)
				})
				arrives(t, d, s, mtu)
			}
		})
	}
}

// behindRouter moves the second node behind the host outside, on a link of its own
// whose MTU at the router is less than the nodes know.
func behindRouter(t testing.TB, c *cluster.Cluster, mtu int) {
	t.Helper()
	n := c.Nodes[1]
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	must(n.NS.IP("link", "del", "eth0"),
		testnet.Veth(c.Outside, "narrow", n.NS, "eth0", 1500),
		c.Outside.IP("link", "set", "narrow", "mtu", fmt.Sprint(mtu)),
		c.Outside.Sysctl("net/ipv4/ip_forward", "1"), c.Outside.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	var addrs = n.Addrs[:0:0]
	for _, a := range n.Addrs {
		if a.Is4() {
			must(c.Outside.IP("addr", "add", "172.19.0.254/24", "dev", "narrow"),
				n.NS.IP("addr", "add", "172.19.0.2/24", "dev", "eth0"),
				n.NS.IP("route", "add", "default", "via", "172.19.0.254"))
			a = netip.MustParseAddr("172.19.0.2")
		} else {
			must(c.Outside.IP("addr", "add", "fd19::fe/64", "dev", "narrow", "nodad"),
				n.NS.IP("addr", "add", "fd19::2/64", "dev", "eth0", "nodad"),
				n.NS.IP("-6", "route", "add", "default", "via", "fd19::fe"))
			a = netip.MustParseAddr("fd19::2")
		}
		addrs = append(addrs, a)
	}
	// In direct mode the router has to know where the pods are.
	for i, node := range c.Nodes {
		for _, p := range node.PodCIDRs {
			to := node.Addrs
			if i == 1 {
				to = addrs
			}
			if via, ok := family(to, p.Addr().Is4()); ok {
				must(c.Outside.IP("route", "add", p.String(), "via", via.String()))
			}
		}
	}
	n.Addrs = addrs
	must(c.WriteNode(n))
}

// The narrow link is outside of the cluster: the router's answer goes to the node,
// whose masquerade has to hand it to the pod.
func TestNarrowPathOutside(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 1})
	beyond := testnet.New(t, "weft-beyond")
	for _, err := range []error{
		testnet.Veth(c.Outside, "beyond", beyond, "eth0", 1500),
		c.Outside.IP("link", "set", "beyond", "mtu", "1300"),
		c.Outside.IP("addr", "add", "203.0.113.1/24", "dev", "beyond"),
		c.Outside.IP("addr", "add", "2001:db8:1::1/64", "dev", "beyond", "nodad"),
		beyond.IP("addr", "add", "203.0.113.2/24", "dev", "eth0"),
		beyond.IP("addr", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad"),
		beyond.IP("route", "add", "default", "via", "203.0.113.1"),
		beyond.IP("route", "add", "default", "via", "2001:db8:1::1"),
		c.Outside.Sysctl("net/ipv4/ip_forward", "1"),
		c.Outside.Sysctl("net/ipv6/conf/all/forwarding", "1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a := addPod(t, c.Nodes[0], "a")
	_, router6 := cluster.HostAddrs(254)
	router4, _ := cluster.HostAddrs(254)
	for to, router := range map[string]netip.Addr{"203.0.113.2": router4, "2001:db8:1::2": router6} {
		s := listenUDP(t, beyond, netip.MustParseAddr(to))
		d := sendTo(t, a.NS, s.addr())
		if err := d.send(1301); err != nil {
			t.Fatal(err)
		}
		if err := tooBig(d.icmp(2*time.Second), router, 1300); err != nil {
			t.Error(err)
		}
		arrives(t, d, s, 1300)
		transfer(t, a.NS, beyond, netip.MustParseAddr(to), 2<<20)
	}
}
