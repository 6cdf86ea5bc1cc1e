package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// lbAddrs are the addresses of the load balancer of Service number i, on the nodes' link.
func lbAddrs(i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.18.0.%d", 100+i)), netip.MustParseAddr(fmt.Sprintf("fd18::1:%x", i))}
}

// lbService is Service lb-<i> of the class that is ours, with its addresses.
func lbService(i int, app, policy string) string {
	at := lbAddrs(i)
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: lb-%[1]d, namespace: default}
spec:
  type: LoadBalancer
  loadBalancerClass: weft.dev/l2
  selector: {app: %[2]s}
  clusterIP: 10.96.1.%[1]d
  clusterIPs: [10.96.1.%[1]d, "fd00:96::1:%[1]d"]
  externalTrafficPolicy: %[3]s
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080}
status: {loadBalancer: {ingress: [{ip: %[4]s}, {ip: "%[5]s"}]}}
`, i, app, policy, at[0], at[1])
}

// announcers waits until all nodes that are given agree on who announces each address of
// the Services 1 to n, and have announced for a moment, and returns it.
func announcers(t *testing.T, n int, nodes ...*cluster.Node) map[netip.Addr]*cluster.Node {
	t.Helper()
	var of map[netip.Addr]*cluster.Node
	testnet.Until(t, 20*time.Second, func() error {
		of = map[netip.Addr]*cluster.Node{}
		own := map[string]int{}
		for _, x := range nodes {
			list, err := x.Client().Services(t.Context(), "")
			if err != nil {
				return err
			}
			for _, f := range fronts(list) {
				at, name := netip.MustParseAddr(f.Addr), strings.TrimSuffix(f.Announcer, "?")
				i := slices.IndexFunc(nodes, func(y *cluster.Node) bool { return y.Name == name })
				if i < 0 || of[at] != nil && of[at] != nodes[i] {
					return fmt.Errorf("%s says that %s is announced by %q", x.Name, at, f.Announcer)
				}
				of[at] = nodes[i]
			}
			s, err := x.Client().Status(t.Context())
			if err != nil {
				return err
			}
			own[x.Name] = s.Announce.Own
		}
		if len(of) != 2*n {
			return fmt.Errorf("%d addresses, want %d", len(of), 2*n)
		}
		for _, x := range of {
			own[x.Name]--
		}
		for name, left := range own {
			if left != 0 {
				return fmt.Errorf("%s announces %d addresses more than the others think", name, left)
			}
		}
		return nil
	})
	return of
}

// fronts are the load balancers' addresses of Services, each once.
func fronts(list []api.Service) []api.ServiceFront {
	var out []api.ServiceFront
	for _, s := range list {
		for _, f := range s.Fronts {
			if f.Kind == "LB" && f.Protocol == "TCP" {
				out = append(out, f)
			}
		}
	}
	return out
}

// macOf is the MAC of a node's uplink.
func macOf(t *testing.T, ns *testnet.NS) string {
	t.Helper()
	out, err := ns.Output("ip", "-o", "link", "show", "eth0")
	_, after, ok := strings.Cut(out, "link/ether ")
	if err != nil || !ok {
		t.Fatalf("MAC of eth0 in %s: %q, %v", ns.Name, out, err)
	}
	mac, _, _ := strings.Cut(after, " ")
	return mac
}

// neighbour is the MAC by which the outside sends to an address.
func neighbour(c *cluster.Cluster, a netip.Addr) (string, error) {
	out, err := c.Outside.Output("ip", "neigh", "show", a.String(), "dev", "eth0")
	if err != nil {
		return "", err
	}
	if f := strings.Fields(out); slices.Contains(f, "lladdr") {
		return f[slices.Index(f, "lladdr")+1], nil
	}
	return "", fmt.Errorf("neighbour %s: %q", a, out)
}

// reachedThrough waits until an address answers and the outside sends to it by a node.
func reachedThrough(t *testing.T, c *cluster.Cluster, a netip.Addr, n *cluster.Node) {
	t.Helper()
	want := macOf(t, n.NS)
	testnet.Until(t, 10*time.Second, func() error {
		if err := answered(c, a); err != nil {
			return err
		}
		if mac, err := neighbour(c, a); err != nil || mac != want {
			return fmt.Errorf("%s is at %s, want %s of %s (%v)", a, mac, want, n.Name, err)
		}
		return nil
	})
}

// backends makes a pod with a server on each of these nodes, and its object.
func backends(t *testing.T, nodes ...*cluster.Node) (objects string) {
	t.Helper()
	for _, n := range nodes {
		name := "back-" + strconv.Itoa(n.Number)
		serveNamed(t, addPod(t, n, name))
		objects += podObject(name, n.Name, "web", "")
	}
	return objects
}

// answered connects to an address from outside, and hears a backend.
func answered(c *cluster.Cluster, a netip.Addr) error {
	at := netip.AddrPortFrom(a, 80)
	conn, err := traffic.Dial(c.Outside, "tcp", at, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	b := make([]byte, 32)
	if n, err := conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "back-") {
		return fmt.Errorf("answer of %s: %q, %v", at, b[:n], err)
	}
	return nil
}

// Addresses are reached on the link, each by one node; they are spread; a Service with the
// policy Local by the one that has its endpoint.
func TestLoadBalancerAddressesAreAnnouncedOnTheLink(t *testing.T) {
	t.Parallel()
	const services = 8
	c := start(t, cluster.Spec{Nodes: 3})
	text := backends(t, c.Nodes...)
	for i := 1; i < services; i++ {
		text += lbService(i, "web", "Cluster")
	}
	serveNamed(t, addPod(t, c.Nodes[1], "back-local"))
	text += podObject("back-local", c.Nodes[1].Name, "local", "") + lbService(services, "local", "Local")
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	of := announcers(t, services, c.Nodes...)
	count := map[string]int{}
	for i := 1; i <= services; i++ {
		for _, a := range lbAddrs(i) {
			count[of[a].Name]++
			reachedThrough(t, c, a, of[a])
			if i == services && of[a] != c.Nodes[1] {
				t.Errorf("%s, whose only endpoint is on %s, is announced by %s", a, c.Nodes[1].Name, of[a].Name)
			}
		}
	}
	if len(count) != 3 {
		t.Errorf("addresses by node: %v, want some on each", count)
	}

	// Its endpoint moves to another node, and so does the address; the excluded node keeps none.
	serveNamed(t, addPod(t, c.Nodes[0], "back-moved"))
	text = strings.Replace(text, podObject("back-local", c.Nodes[1].Name, "local", ""), podObject("back-moved", c.Nodes[0].Name, "local", ""), 1)
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	n := c.Nodes[2]
	node := strings.Replace(cluster.NodeYAML(n.Name, n.PodCIDRs, n.Addrs), "metadata: {name: "+n.Name,
		`metadata: {labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}, name: `+n.Name, 1)
	if err := c.WriteObject(n.Name, node); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, func() error {
		of := announcers(t, services, c.Nodes...)
		for a, by := range of {
			if by == n || slices.Contains(lbAddrs(services), a) && by != c.Nodes[0] {
				return fmt.Errorf("%s is announced by %s", a, by.Name)
			}
		}
		return nil
	})
	for i := 1; i <= services; i++ {
		for _, a := range lbAddrs(i) {
			testnet.Until(t, 10*time.Second, func() error { return answered(c, a) })
		}
	}
}

// A daemon that is killed and comes back moves nothing, and no answer is missed.
func TestARestartedDaemonGoesOnAnnouncing(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	if err := c.WriteObject("web", backends(t, c.Nodes...)+lbService(1, "web", "Cluster")+lbService(2, "web", "Cluster")); err != nil {
		t.Fatal(err)
	}
	before := announcers(t, 2, c.Nodes...)
	a := lbAddrs(1)[0]
	n := before[a]
	reachedThrough(t, c, a, n)
	p, late := pulseOf(t, c, a), lateness()
	if err := n.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// While there is no daemon, who has not asked before is answered, too, and the device takes
	// in questions of IPv6.
	groups, err := n.NS.Output("ip", "maddr", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 2; i++ {
		a := lbAddrs(i)[1]
		if want := fmt.Sprintf("33:33:ff:01:00:%02x static", i); strings.Contains(groups, want) != (before[a] == n) {
			t.Errorf("%s is announced by %s; %s takes in:\n%s", a, before[a].Name, n.Name, groups)
		}
	}
	for _, a := range lbAddrs(1) {
		if before[a] != n {
			continue
		}
		if err := c.Outside.IP("neigh", "flush", "to", a.String(), "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
		testnet.Until(t, 10*time.Second, func() error { return answered(c, a) })
	}
	restart(t, n)
	after := announcers(t, 2, c.Nodes...)
	for a, by := range before {
		if after[a] != by {
			t.Errorf("%s moved from %s to %s", a, by.Name, after[a].Name)
		}
	}
	for _, x := range c.Nodes {
		if strings.Contains(x.LogTail(1000), "announce address no more") {
			t.Errorf("%s has stopped to announce an address", x.Name)
		}
	}
	if silence, limit := p.stop(), 500*time.Millisecond+late(); silence > limit {
		t.Errorf("%s did not answer for %s, want at most %s", a, silence, limit)
	}
}

// Two halves of a network each have an announcer, and one when they are joined again.
func TestASplitNetworkAnnouncesOnEachSideAndHeals(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 4})
	text := backends(t, c.Nodes...)
	const services = 3
	for i := 1; i <= services; i++ {
		text += lbService(i, "web", "Cluster")
	}
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	whole := announcers(t, services, c.Nodes...)
	if err := c.Bridge.IP("link", "add", "br1", "up", "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	left, right := c.Nodes[:2], c.Nodes[2:]
	for _, n := range right {
		if err := c.Bridge.IP("link", "set", n.Name, "master", "br1"); err != nil {
			t.Fatal(err)
		}
	}
	here, there := announcers(t, services, left...), announcers(t, services, right...)
	for a, by := range whole {
		if slices.Contains(left, by) && here[a] != by || slices.Contains(right, by) && there[a] != by {
			t.Errorf("%s was announced by %s; of its side it now is by %s, of the other by %s", a, by.Name, here[a].Name, there[a].Name)
		}
	}
	for _, n := range right {
		if err := c.Bridge.IP("link", "set", n.Name, "master", "br0"); err != nil {
			t.Fatal(err)
		}
	}
	healed := announcers(t, services, c.Nodes...)
	for a, by := range whole {
		if healed[a] != by {
			t.Errorf("%s was announced by %s before the split, and by %s after it", a, by.Name, healed[a].Name)
		}
		testnet.Until(t, 10*time.Second, func() error { return answered(c, a) })
	}
}

// A foreign machine that has an address of ours is a problem that names it.
func TestAnAddressThatSomebodyElseHasIsAProblem(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 1})
	if err := c.WriteObject("web", lbService(1, "web", "Cluster")); err != nil {
		t.Fatal(err)
	}
	announcers(t, 1, c.Nodes...)
	for i, a := range lbAddrs(1) {
		bits := []string{"/32", "/128"}[i]
		if err := c.Outside.IP("addr", "add", a.String()+bits, "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	mac := macOf(t, c.Outside)
	testnet.Until(t, 30*time.Second, func() error {
		s, err := c.Nodes[0].Client().Status(t.Context())
		if err != nil {
			return err
		}
		said := 0
		for _, p := range s.Problems {
			for _, a := range lbAddrs(1) {
				if p.What == "address-conflict" && strings.HasPrefix(p.Text, a.String()+" ") && strings.Contains(p.Text, mac) {
					said++
				}
			}
		}
		if said != 2 {
			return fmt.Errorf("problems %v, want one for each of %v", s.Problems, lbAddrs(1))
		}
		return nil
	})
}
