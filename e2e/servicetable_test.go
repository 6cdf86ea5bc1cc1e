package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// whoSeesWhom is the table "Who sees whom" of docs/services.md, cell by cell: what the
// backend, on node 1, sees as the source, or why there is no answer. Where a cell has two
// parts, the first is for packets, the second for what is translated at the socket.
var whoSeesWhom = [][]string{
	{"through", "pod, node 1", "pod, node 2", "the backend", "host, node 1", "host, node 2", "outside"},
	{"pod IP", "kept", "kept", "kept", "gateway 1", "gateway 2", "-"},
	{"ClusterIP", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "-"},
	{"ClusterIP, Local", "kept", "dropped / unreachable", "gateway 1 / kept", "gateway 1", "unreachable", "-"},
	{"ClusterIP, no backend", "refused", "refused", "refused", "refused", "refused", "-"},
	{"ClusterIP, other port", "refused", "refused", "refused", "refused", "refused", "-"},
	{"NodePort, node 1", "kept", "node 2", "gateway 1 / kept", "gateway 1", "node 2", "kept"},
	{"NodePort, node 1, Local", "kept", "node 2", "gateway 1 / kept", "gateway 1", "node 2", "kept"},
	{"NodePort, node 2", "gateway 2", "kept", "gateway 2", "gateway 2", "gateway 2", "gateway 2"},
	{"NodePort, node 2, Local", "dropped", "kept", "dropped", "dropped", "node 2", "dropped"},
	{"NodePort, node 3", "gateway 3", "gateway 3", "gateway 3", "gateway 3", "gateway 3", "gateway 3"},
	{"NodePort, node 3, Local", "dropped", "dropped", "dropped", "dropped", "dropped", "dropped"},
	{"external IP, to node 1", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "kept"},
	{"external IP, to node 1, Local", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "kept"},
	{"external IP, to node 2", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "gateway 2"},
	{"external IP, to node 2, Local", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "dropped"},
	{"load balancer's IP, to node 1", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "kept"},
	{"load balancer's IP, to node 1, Local", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "kept"},
	{"load balancer's IP, to node 2", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "gateway 2"},
	{"load balancer's IP, to node 2, Local", "kept", "kept", "gateway 1 / kept", "gateway 1", "gateway 2", "dropped"},
	{"host port, node 1", "kept", "node 2", "gateway 1 / kept", "gateway 1", "node 2", "kept"},
	{"host port, node 2", "refused", "refused", "refused", "refused", "refused", "refused"},
	{"host port, loopback", "refused", "refused", "refused", "gateway 1", "refused", "refused"},
}

func TestTheDocumentHasTheTable(t *testing.T) {
	b, err := os.ReadFile("../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i, row := range whoSeesWhom {
		fmt.Fprintf(&want, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			want.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	if !strings.Contains(string(b), want.String()) {
		t.Errorf("docs/services.md has not this table:\n%s", &want)
	}
}

const tableService = `---
apiVersion: v1
kind: Service
metadata: {name: web-%[1]s, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: %[5]s}
  clusterIP: 10.96.0.%[3]d
  clusterIPs: [10.96.0.%[3]d, "fd00:96::%[3]d"]
  externalIPs: [203.0.113.1%[3]d, "2001:db8:e::1%[3]d", 203.0.113.2%[3]d, "2001:db8:e::2%[3]d"]
  externalTrafficPolicy: %[2]s
  internalTrafficPolicy: %[2]s
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: %[4]d}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: %[4]d}
  - {name: s, protocol: SCTP, port: 80, targetPort: 8080, nodePort: %[4]d}
status:
  loadBalancer:
    ingress: [{ip: 198.51.100.1%[3]d}, {ip: "2001:db8:f::1%[3]d"}, {ip: 198.51.100.2%[3]d}, {ip: "2001:db8:f::2%[3]d"}]
`

// What external and load balancers' addresses begin with; then comes the number of the
// node that outside routes them to, then that of the Service.
const (
	external4, external6 = "203.0.113.", "2001:db8:e::"
	balancer4, balancer6 = "198.51.100.", "2001:db8:f::"
)

// tablePlace is the address behind the first cell of a row.
func tablePlace(c *cluster.Cluster, backend *cluster.Pod, name string, v4 bool) netip.AddrPort {
	pick := func(a4, a6 string) netip.Addr {
		if v4 {
			return netip.MustParseAddr(a4)
		}
		return netip.MustParseAddr(a6)
	}
	number, nodePort := 10, uint16(30080)
	if strings.HasSuffix(name, ", Local") {
		number, nodePort = 11, 30081
	}
	outer := func(prefix4, prefix6 string, node int) netip.AddrPort {
		text := fmt.Sprintf("%d%d", node, number)
		return netip.AddrPortFrom(pick(prefix4+text, prefix6+text), 80)
	}
	node := func() netip.Addr {
		for i, n := range c.Nodes {
			if strings.Contains(name, fmt.Sprintf("node %d", i+1)) {
				a, _ := family(n.Addrs, v4)
				return a
			}
		}
		return netip.Addr{}
	}
	switch {
	case name == "pod IP":
		return netip.AddrPortFrom(map[bool]netip.Addr{true: backend.IP4, false: backend.IP6}[v4], 8080)
	case name == "ClusterIP, no backend":
		return netip.AddrPortFrom(pick("10.96.0.12", "fd00:96::12"), 80)
	case name == "ClusterIP, other port":
		return netip.AddrPortFrom(pick("10.96.0.10", "fd00:96::10"), 81)
	case strings.HasPrefix(name, "ClusterIP"):
		text := fmt.Sprint(number)
		return netip.AddrPortFrom(pick("10.96.0."+text, "fd00:96::"+text), 80)
	case strings.HasPrefix(name, "NodePort"):
		return netip.AddrPortFrom(node(), nodePort)
	case strings.HasPrefix(name, "external IP, to node 1"):
		return outer(external4, external6, 1)
	case strings.HasPrefix(name, "external IP"):
		return outer(external4, external6, 2)
	case strings.HasPrefix(name, "load balancer's IP, to node 1"):
		return outer(balancer4, balancer6, 1)
	case strings.HasPrefix(name, "load balancer's IP"):
		return outer(balancer4, balancer6, 2)
	case name == "host port, loopback":
		return netip.AddrPortFrom(pick("127.0.0.1", "::1"), 8088)
	case strings.HasPrefix(name, "host port"):
		return netip.AddrPortFrom(node(), 8088)
	}
	return netip.AddrPort{}
}

// tableClient is a column: its own address by family, and askers by way.
type tableClient struct {
	own            [2]netip.Addr // IPv4, IPv6
	packet, socket *cluster.Asker
	host           bool
}

// serviceCluster is three nodes with a backend on the first, and the clients in the
// order of the table's columns.
func serviceCluster(t *testing.T) (*cluster.Cluster, *cluster.Pod, []*tableClient) {
	t.Helper()
	c := start(t, cluster.Spec{Nodes: 3})
	objects := podObject("backend", "node-1", "web", "") +
		fmt.Sprintf(tableService, "cluster", "Cluster", 10, 30080, "web") +
		fmt.Sprintf(tableService, "local", "Local", 11, 30081, "web") +
		fmt.Sprintf(tableService, "none", "Cluster", 12, 30082, "nothing")
	if err := c.WriteObject("services", objects); err != nil {
		t.Fatal(err)
	}
	backend, err := c.Nodes[0].NewPod("backend")
	if err != nil {
		t.Fatal(err)
	}
	backend.Capabilities = map[string]any{"portMappings": []any{
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp"},
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "udp"},
		map[string]any{"hostPort": 8088, "containerPort": 8080, "protocol": "sctp"},
	}}
	if err := backend.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b := addPod(t, c.Nodes[0], "a"), addPod(t, c.Nodes[1], "b")
	for _, addr := range backend.Addrs() {
		s, err := traffic.Serve(backend.NS, netip.AddrPortFrom(addr, 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		sctp, err := traffic.ServeSCTP(backend.NS, netip.AddrPortFrom(addr, 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sctp.Close)
	}
	asker := func(n *cluster.Node, ns *testnet.NS, joined bool) *cluster.Asker {
		k, err := n.Asker(ns, joined)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return k
	}
	var clients []*tableClient
	for _, p := range []*cluster.Pod{a, b, backend} {
		clients = append(clients, &tableClient{
			own: [2]netip.Addr{p.IP4, p.IP6}, packet: asker(p.Node, p.NS, false), socket: asker(p.Node, p.NS, true),
		})
	}
	for _, n := range c.Nodes[:2] {
		clients = append(clients, &tableClient{socket: asker(n, n.NS, true), host: true})
	}
	outside4, outside6 := cluster.HostAddrs(254)
	clients = append(clients, &tableClient{own: [2]netip.Addr{outside4, outside6}, packet: asker(c.Nodes[0], c.Outside, false)})
	for number := 10; number <= 11; number++ { // an outer address each way
		for i := range 2 {
			for _, prefix := range []string{external4, external6, balancer4, balancer6} {
				via, _ := family(c.Nodes[i].Addrs, !strings.Contains(prefix, ":"))
				text := fmt.Sprintf("%s%d%d", prefix, i+1, number)
				if err := c.Outside.IP("route", "add", text, "via", via.String()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web-cluster", 1)
		waitBackends(t, n, "default/web-local", 1)
	}
	return c, backend, clients
}

// Every cell of the table "Who sees whom" in docs/services.md, for TCP and UDP, IPv4 and
// IPv6.
func TestWhoSeesWhom(t *testing.T) {
	t.Parallel()
	c, backend, clients := serviceCluster(t)
	askTable(t, c, backend, clients, true, false)
}

// The same for SCTP, by packets made by hand, whose checksum is looked at on both ends;
// what is translated at a socket has no SCTP. (At loopback such a client hears itself.)
func TestWhoSeesWhomWithSCTP(t *testing.T) {
	t.Parallel()
	c, backend, clients := serviceCluster(t)
	// An ICMP error comes to all raw sockets of a namespace that are connected to the
	// address, whatever the port: one after the other then.
	type lane struct {
		client int
		to     netip.Addr
	}
	questions := map[lane][]func(){}
	for _, row := range whoSeesWhom[1:] {
		for i, cell := range row[1:] {
			k := clients[i]
			if cell == "-" || k.packet == nil || row[0] == "host port, loopback" {
				continue
			}
			packet, _, _ := strings.Cut(cell, " / ")
			for f, v4 := range []bool{true, false} {
				to := tablePlace(c, backend, row[0], v4)
				want := tableSource(c, k.own[f], packet, v4)
				wait := 8 * time.Second
				if want == "dropped" {
					wait = time.Second
				}
				at := lane{i, to.Addr()}
				questions[at] = append(questions[at], func() {
					if got := k.packet.Ask(cluster.SCTP, to, wait).String(); got != want {
						t.Errorf("%s, from %s, SCTP to %s: got %s, want %s", row[0], whoSeesWhom[0][i+1], to, got, want)
					}
				})
			}
		}
	}
	var wg sync.WaitGroup
	asked := 0
	for _, all := range questions {
		asked += len(all)
		wg.Go(func() {
			for _, ask := range all {
				ask()
			}
		})
	}
	wg.Wait()
	t.Logf("%d questions", asked)
}

// askTable asks every cell of the table in these families.
func askTable(t *testing.T, c *cluster.Cluster, backend *cluster.Pod, clients []*tableClient, families ...bool) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 128)
	asked := 0
	check := func(what string, k *cluster.Asker, mode cluster.Mode, to netip.AddrPort, want string) {
		asked++
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			wait := 8 * time.Second
			if want == "dropped" {
				wait = 2 * time.Second
			}
			begin := time.Now()
			got := k.Ask(mode, to, wait)
			if got.String() != want {
				t.Errorf("%s, %s to %s: got %s, want %s", what, mode, to, got, want)
			} else if took := time.Since(begin); want == "refused" && took > 5*time.Second {
				t.Errorf("%s, %s to %s: refused after %s, want at once", what, mode, to, took)
			}
		})
	}
	for _, row := range whoSeesWhom[1:] {
		for i, cell := range row[1:] {
			if cell == "-" {
				continue
			}
			k := clients[i]
			packet, socket, both := strings.Cut(cell, " / ")
			if !both {
				socket = packet
			}
			for _, v4 := range families {
				own := k.own[map[bool]int{true: 0, false: 1}[v4]]
				to := tablePlace(c, backend, row[0], v4)
				what := row[0] + ", from " + whoSeesWhom[0][i+1]
				if k.packet != nil {
					check(what, k.packet, cluster.TCP, to, tableSource(c, own, packet, v4))
					check(what, k.packet, cluster.UDP, to, tableSource(c, own, packet, v4))
				}
				if k.socket == nil {
					continue
				}
				connected := socket
				if !k.host {
					connected = packet // left to the packets' programs
				}
				check(what+", socket", k.socket, cluster.TCP, to, tableSource(c, own, socket, v4))
				unconnected := tableSource(c, own, socket, v4)
				if strings.HasPrefix(row[0], "host port") && unconnected == "refused" {
					unconnected = "dropped" // the kernel's ICMP error does not get to such a socket
				}
				check(what+", socket", k.socket, cluster.SendTo, to, unconnected)
				check(what+", socket", k.socket, cluster.UDP, to, tableSource(c, own, connected, v4))
			}
		}
	}
	wg.Wait()
	t.Logf("%d questions", asked)
}

// tableSource is what a cell stands for.
func tableSource(c *cluster.Cluster, own netip.Addr, cell string, v4 bool) string {
	if cell == "kept" {
		return own.String()
	}
	for i, n := range c.Nodes {
		switch cell {
		case fmt.Sprintf("gateway %d", i+1):
			a, _ := family(overlay.GatewayAddrs(n.PodCIDRs), v4)
			return a.String()
		case fmt.Sprintf("node %d", i+1):
			a, _ := family(n.Addrs, v4)
			return a.String()
		}
	}
	return cell
}
