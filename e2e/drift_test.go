package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// harm is one thing that somebody does to a node. Its commands run on the node, or in
// the pod; words in capitals are replaced (see [drift.words]).
type harm struct {
	name string
	node string // commands, one a line
	pod  string
	// remade: a device is made anew, so that rows with its number differ.
	remade bool
}

var harms = []harm{
	{name: "route of a pod deleted", node: "ip route del POD4 dev HOST"},
	{name: "IPv6 route of a pod deleted", node: "ip -6 route del POD6 dev HOST"},
	{name: "route of a pod turned away", node: "ip route replace POD4 dev eth0 proto 87"},
	{name: "route of a pod replaced by somebody's", node: "ip route replace POD4 dev eth0"},
	{name: "IPv6 route to a peer replaced by somebody's", node: "ip -6 route replace fd00:244:2::/64 dev eth0 metric 1024 proto static"},
	{name: "route to a peer deleted", node: "ip route del 10.244.2.0/24"},
	{name: "IPv6 route to a peer deleted", node: "ip -6 route del fd00:244:2::/64"},
	{name: "route to a peer replaced", node: "ip route replace 10.244.2.0/24 via 172.18.0.254 proto 87"},
	{name: "route of ours left over", node: "ip route add 10.244.77.0/24 via 172.18.0.254 proto 87"},
	{name: "neighbour of a pod deleted", node: "ip neigh del POD4 dev HOST"},
	{name: "IPv6 neighbour of a pod replaced", node: "ip neigh replace POD6 lladdr 02:00:00:00:00:01 dev HOST nud permanent"},
	{name: "neighbour of a pod replaced by one without asking", node: "ip neigh replace POD4 lladdr 02:00:00:00:00:01 dev HOST nud noarp"},
	{name: "gateway address deleted", node: "ip addr del 10.244.1.1/32 dev weft-vxlan"},
	{name: "IPv6 gateway address deleted", node: "ip addr del fd00:244:1::1/128 dev weft-vxlan"},
	{name: "local route of the gateway deleted", node: "ip route del local 10.244.1.1 dev weft-vxlan table local"},
	{name: "IPv6 local route of the gateway deleted", node: "ip -6 route del local fd00:244:1::1 dev weft-vxlan table local"},
	{name: "foreign address on our device", node: "ip addr add 10.244.1.99/32 dev weft-vxlan"},
	{name: "VXLAN device deleted", node: "ip link del weft-vxlan", remade: true},
	{name: "VXLAN device renamed", remade: true,
		node: "ip link set weft-vxlan down\nip link set weft-vxlan name other\nip link set other up"},
	{name: "VXLAN device down", node: "ip link set weft-vxlan down"},
	{name: "VXLAN device with another MAC", node: "ip link set weft-vxlan address 02:00:00:00:00:02"},
	{name: "VXLAN device with another MTU", node: "ip link set weft-vxlan mtu 1300"},
	{name: "VXLAN device that learns", node: "ip link set weft-vxlan type vxlan learning"},
	{name: "VXLAN device of another make", remade: true,
		node: "ip link del weft-vxlan\nip link add weft-vxlan type vxlan id 5 dstport 8872 dev eth0\nip link set weft-vxlan alias weft:overlay"},
	{name: "masquerading emptied", node: "iptables -w -t nat -F WEFT-POSTROUTING"},
	{name: "IPv6 masquerading emptied", node: "ip6tables -w -t nat -F WEFT-POSTROUTING"},
	{name: "jump deleted", node: "iptables -w -D FORWARD -j WEFT-FORWARD"},
	{name: "chain deleted", node: "ip6tables -w -D FORWARD -j WEFT-FORWARD\nip6tables -w -F WEFT-FORWARD\nip6tables -w -X WEFT-FORWARD"},
	{name: "chain with a rule more", node: "iptables -w -I WEFT-FORWARD -j DROP"},
	{name: "forwarding off", node: "sysctl -qw net.ipv4.ip_forward=0"},
	{name: "forwarding of a pod's device off", node: "sysctl -qw net.ipv4.conf.HOST.forwarding=0"},
	{name: "forwarding of our device off", node: "sysctl -qw net.ipv4.conf.weft-vxlan.forwarding=0"},
	{name: "path filter of a pod's device", node: "sysctl -qw net.ipv4.conf.HOST.rp_filter=1"},
	{name: "IPv6 forwarding off", node: "sysctl -qw net.ipv6.conf.all.forwarding=0"},
	{name: "filter of a pod deleted", node: "tc filter del dev HOST ingress"},
	{name: "filter to a pod deleted", node: "tc filter del dev HOST egress"},
	{name: "clsact of a pod deleted", node: "tc qdisc del dev HOST clsact"},
	{name: "ingress in the place of clsact", node: "tc qdisc del dev HOST clsact\ntc qdisc add dev HOST ingress"},
	{name: "program of the uplink detached", node: "bpftool link detach pinned UPLINK"},
	{name: "pin of a link removed", node: "rm UPLINK"},
	{name: "row of a pod deleted", node: "bpftool map update pinned ENDPOINTS NOROW"},
	{name: "device of a pod down", node: "ip link set HOST down"},
	{name: "device of a pod with another MTU", node: "ip link set HOST mtu 1280"},
	{name: "device of a pod with another MAC", node: "ip link set HOST address 02:00:00:00:00:03"},
	{name: "pair of a pod deleted", node: "ip link del HOST", remade: true},
	{name: "address in a pod deleted", pod: "ip addr del POD4/32 dev eth0"},
	{name: "routes in a pod deleted", pod: "ip route flush dev eth0 proto static"},
	{name: "IPv6 routes in a pod deleted", pod: "ip -6 route flush dev eth0 proto static"},
	{name: "neighbour in a pod deleted", pod: "ip neigh flush dev eth0 nud permanent"},
	{name: "neighbour in a pod replaced", pod: "ip neigh replace 10.244.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud noarp"},
	{name: "device in a pod down", pod: "ip link set eth0 down"},
	{name: "device in a pod with another MTU", pod: "ip link set eth0 mtu 1280"},
}

// drift is a cluster to which harm is done.
type drift struct {
	c        *cluster.Cluster
	node     *cluster.Node
	pod, far *cluster.Pod
}

// words replaces the words in capitals.
func (d drift) words(t *testing.T, text string) string {
	host := hostIf(t, d.pod)
	if strings.Contains(text, "UPLINK") {
		text = strings.ReplaceAll(text, "UPLINK", d.linkPin(t, "eth0"))
	}
	if strings.Contains(text, "NOROW") {
		text = strings.ReplaceAll(text, "NOROW", strings.Join(noRow(t, d.pod), " "))
	}
	return strings.NewReplacer("HOST", host, "POD4", d.pod.IP4.String(), "POD6", d.pod.IP6.String(),
		"ENDPOINTS", endpointMap(t, d.node)).Replace(text)
}

// linkPin is the pin of the link of from_uplink, or its like, on a device.
func (d drift) linkPin(t *testing.T, dev string) string {
	out, err := d.node.NS.Output("sh", "-c", "ip -o link show "+dev+" | cut -d: -f1")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	testnet.Until(t, 10*time.Second, func() error { // the one before may have had to do with it
		found = nil
		for _, pattern := range []string{"links", "*/links"} {
			m, _ := filepath.Glob(filepath.Join(d.node.BPFDir, pattern, "from_*-"+strings.TrimSpace(out)))
			found = append(found, m...)
		}
		if len(found) != 1 {
			return fmt.Errorf("pins of links on %s: %v", dev, found)
		}
		return nil
	})
	return found[0]
}

// state is all that must be as it was: the node's, the pod's, and the rows.
func (d drift) state(t *testing.T, rows bool) string {
	s := digest(t, d.node.NS) + digest(t, d.pod.NS)
	if !rows {
		return s
	}
	out, err := d.node.NS.Output("sh", "-c", "bpftool map dump pinned "+filepath.Join(d.node.BPFDir, "*", "peers")+" | sort")
	if err != nil {
		t.Fatal(err)
	}
	return s + "== peers\n" + out + "== endpoints\n" + endpointRows(t, d.node)
}

// talk asks from the pod to the other node's, both ways and in both families.
func (d drift) talk() error {
	var errs []error
	for i := range d.pod.Addrs() {
		for _, p := range [][2]*cluster.Pod{{d.pod, d.far}, {d.far, d.pod}} {
			s, err := traffic.Serve(p[1].NS, netip.AddrPortFrom(p[1].Addrs()[i], 0))
			if err != nil {
				return err
			}
			_, err = traffic.Ask(p[0].NS, netip.AddrPortFrom(p[1].Addrs()[i], uint16(s.Port())), time.Second)
			s.Close()
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// P6: whatever is done to what is ours, is repaired within ten seconds, and nothing
// foreign is touched: the whole state is what it was.
func TestDriftIsRepaired(t *testing.T) {
	c := prepare(t, cluster.Spec{Nodes: 2})
	foreign(t, c.Nodes[0])
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := drift{c, c.Nodes[0], addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")}
	testnet.Until(t, 10*time.Second, d.talk)
	for _, i := range rand.Perm(len(harms)) {
		h := harms[i]
		t.Run(h.name, func(t *testing.T) { d.harm(t, h) })
	}
}

func (d drift) harm(t *testing.T, h harm) {
	before := d.state(t, !h.remade)
	testnet.Until(t, 10*time.Second, func() error { // what the daemon repairs between two commands is done again
		return errors.Join(runLines(d.node.NS, d.words(t, h.node)), runLines(d.pod.NS, d.words(t, h.pod)))
	})
	begin := time.Now()
	testnet.Until(t, 10*time.Second, func() error {
		if err := d.talk(); err != nil {
			return err
		}
		if diff := cmp.Diff(lines(before), lines(d.state(t, !h.remade))); diff != "" {
			return fmt.Errorf("not as before (-), but (+):\n%s", diff)
		}
		return nil
	})
	t.Logf("repaired within %s", time.Since(begin).Round(time.Millisecond))
}

// runLines runs commands, one a line, until one fails.
func runLines(ns *testnet.NS, commands string) error {
	for line := range strings.Lines(commands) {
		f := strings.Fields(line)
		if _, err := ns.Output(f[0], f[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func lines(s string) []string { return strings.Split(s, "\n") }

// P6: somebody turns on the path filter of all devices, as `sysctl --system` may. The uplinks
// keep it.
func TestPathFilterOfAllDevicesIsTakenOff(t *testing.T) {
	t.Parallel()
	n := start(t, cluster.Spec{}).Nodes[0]
	if err := runLines(n.NS, "sysctl -qw net.ipv4.conf.all.rp_filter=1"); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, func() error {
		out, err := n.NS.Output("sysctl", "-n", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth0.rp_filter")
		if got := strings.Join(strings.Fields(out), " "); err == nil && got != "0 1" {
			err = fmt.Errorf("filters of all and of the uplink: %s, want 0 1", got)
		}
		return err
	})
}

// P6: a node gets another MAC, then another address.
func TestNodeChangesItsAddress(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	d := drift{c, c.Nodes[0], addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")}
	testnet.Until(t, 10*time.Second, d.talk)
	other := c.Nodes[1]
	if err := other.NS.IP("link", "set", "eth0", "address", "02:00:00:00:00:22"); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, d.talk)

	for _, args := range [][]string{
		{"addr", "del", "172.18.0.2/24", "dev", "eth0"}, {"addr", "add", "172.18.0.22/24", "dev", "eth0"},
		{"route", "replace", "default", "via", "172.18.0.254"},
	} {
		if err := other.NS.IP(args...); err != nil {
			t.Fatal(err)
		}
	}
	other.Addrs[0] = netip.MustParseAddr("172.18.0.22")
	if err := c.WriteNode(other); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, d.talk)
}

// P6: a Node that is deleted while the daemon is down leaves nothing.
func TestNodeDeletedWhileDaemonIsDown(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 3})
	n, gone := c.Nodes[0], c.Nodes[2]
	left := func() error {
		out, err := n.NS.Output("ip", "route")
		out6, err6 := n.NS.Output("ip", "-6", "route")
		if err := errors.Join(err, err6); err != nil {
			return err
		}
		for _, p := range gone.PodCIDRs {
			if strings.Contains(out+out6, p.String()) {
				return fmt.Errorf("route to %s is left", p)
			}
		}
		nodes, err := n.Client().Nodes(t.Context())
		if err == nil && len(nodes) != 2 {
			err = fmt.Errorf("the daemon knows %d nodes, want 2", len(nodes))
		}
		return err
	}
	testnet.Until(t, 10*time.Second, func() error {
		if left() == nil {
			return errors.New("no route to the third node")
		}
		return nil
	})
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := gone.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteObject(gone.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	restart(t, n)
	testnet.Until(t, 10*time.Second, left)
}
