package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// dsrService is a Service whose backends' nodes answer clients outside themselves. Its
// external addresses .2… are node 2's to outside, .3… node 3's.
const dsrService = `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {weft.dev/forwarding: dsr}}
spec:
  type: LoadBalancer
  selector: {app: web}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  externalIPs: [203.0.113.2, "2001:db8:e::2", 203.0.113.3, "2001:db8:e::3"]
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: s, protocol: SCTP, port: 80, targetPort: 8080, nodePort: 30080}
status:
  loadBalancer:
    ingress: [{ip: 198.51.100.2}, {ip: "2001:db8:f::2"}]
`

// leads makes outside send what is to an address through a node.
func leads(t *testing.T, c *cluster.Cluster, to netip.Addr, n *cluster.Node) {
	t.Helper()
	via, _ := family(n.Addrs, to.Is4())
	if err := c.Outside.IP("route", "replace", to.String(), "via", via.String()); err != nil {
		t.Fatal(err)
	}
}

// dsrPlaces are what a client outside asks through node 2 or 3, which have no backend.
func dsrPlaces(t *testing.T, c *cluster.Cluster) []netip.AddrPort {
	t.Helper()
	var places []netip.AddrPort
	for _, n := range c.Nodes[1:] {
		for _, a := range n.Addrs {
			places = append(places, netip.AddrPortFrom(a, 30080))
		}
	}
	for text, n := range map[string]*cluster.Node{
		"203.0.113.2": c.Nodes[1], "2001:db8:e::2": c.Nodes[1], "203.0.113.3": c.Nodes[2], "2001:db8:e::3": c.Nodes[2],
		"198.51.100.2": c.Nodes[1], "2001:db8:f::2": c.Nodes[1],
	} {
		a := netip.MustParseAddr(text)
		if _, has := family(n.Addrs, a.Is4()); !has {
			continue
		}
		leads(t, c, a, n)
		places = append(places, netip.AddrPortFrom(a, 80))
	}
	return places
}

// A backend sees clients outside with the policy Cluster, too, whatever node they come
// through, and its policies are about them.
func TestDSRKeepsTheClient(t *testing.T) {
	t.Parallel()
	for _, outer := range []cluster.Family{cluster.V4 | cluster.V6, cluster.V6} {
		t.Run(outer.String(), func(t *testing.T) {
			t.Parallel()
			c := start(t, cluster.Spec{Nodes: 3, Outer: outer})
			if err := c.WriteObject("web", podObject("backend", "node-1", "web", "")+dsrService); err != nil {
				t.Fatal(err)
			}
			backend := addPod(t, c.Nodes[0], "backend")
			for _, a := range backend.Addrs() {
				s, err := traffic.Serve(backend.NS, netip.AddrPortFrom(a, 8080))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				sctp, err := traffic.ServeSCTP(backend.NS, netip.AddrPortFrom(a, 8080))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(sctp.Close)
			}
			for _, n := range c.Nodes {
				waitBackends(t, n, "default/web", 1)
			}
			client, err := c.Nodes[0].Asker(c.Outside, false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			own4, own6 := cluster.HostAddrs(254)
			places := dsrPlaces(t, c)
			ask := func(to netip.AddrPort, mode cluster.Mode) {
				t.Helper()
				own := map[bool]netip.Addr{true: own4, false: own6}[to.Addr().Is4()]
				if got := client.Ask(mode, to, 8*time.Second).String(); got != own.String() {
					t.Errorf("%s to %s: the backend saw %s, want %s", mode, to, got, own)
				}
			}
			for _, to := range places {
				for _, mode := range []cluster.Mode{cluster.TCP, cluster.UDP, cluster.SCTP} {
					ask(to, mode)
				}
			}
			if err := c.WriteObject("policy", fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: outside, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: %s/32}}, {ipBlock: {cidr: "%s/128"}}]}]
`, own4, own6)); err != nil {
				t.Fatal(err)
			}
			// Through another node's node port the host of node 2 is a client, too.
			via, _ := family(c.Nodes[2].Addrs, false)
			testnet.Until(t, 10*time.Second, func() error {
				got, err := traffic.Ask(c.Nodes[1].NS, netip.AddrPortFrom(via, 30080), 500*time.Millisecond)
				if err == nil {
					return fmt.Errorf("the backend, which is isolated, saw %s", got)
				}
				return nil
			})
			for _, to := range places {
				ask(to, cluster.TCP)
			}
		})
	}
}

// received is the bytes that a node got at its uplink.
func received(t *testing.T, n *cluster.Node) int {
	t.Helper()
	var b []byte
	err := n.NS.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, counts, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == "eth0" {
			v, err := strconv.Atoi(strings.Fields(counts)[0])
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("%s has no eth0: %s", n.Name, b)
	return 0
}

// echo sends bytes to a server of [serveNamed] and reads them back.
func echo(conn net.Conn, r io.Reader, data []byte) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	if _, err := io.ReadFull(r, back); err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes came back damaged", len(data))
	}
	return <-sent
}

// Answers do not pass the node that a client asks: it gets what the client sends, no more.
func TestDSRAnswersDirectly(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 3})
	if err := c.WriteObject("web", podObject("backend", "node-1", "web", "")+dsrService); err != nil {
		t.Fatal(err)
	}
	serveNamed(t, addPod(t, c.Nodes[0], "backend"))
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
	}
	data := bytes.Repeat([]byte("answer! "), 1<<19)
	for _, to := range dsrPlaces(t, c) {
		before := [2]int{received(t, c.Nodes[1]), received(t, c.Nodes[2])}
		conn, err := traffic.Dial(c.Outside, "tcp", to, 8*time.Second)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		r := bufio.NewReader(conn)
		if _, err := r.ReadString('\n'); err != nil {
			t.Errorf("%s: %v", to, err)
		} else if err := echo(conn, r, data); err != nil {
			t.Errorf("%s: %v", to, err)
		}
		conn.Close()
		got := received(t, c.Nodes[1]) - before[0] + received(t, c.Nodes[2]) - before[1]
		if got < len(data) || got > len(data)*3/2 {
			t.Errorf("%s: %d bytes were sent and echoed, the node that was asked got %d", to, len(data), got)
		}
	}
}

// Connections go on while backends come and go, and when they come in by another node.
func TestDSRConnectionsSurvive(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 3})
	objects := podObject("first", "node-1", "web", "") + podObject("second", "node-3", "web", "") + podObject("third", "node-1", "web", "")
	if err := c.WriteObject("web", objects+dsrService); err != nil {
		t.Fatal(err)
	}
	serveNamed(t, addPod(t, c.Nodes[0], "first"))
	wait := func(n int) {
		for _, node := range c.Nodes {
			waitBackends(t, node, "default/web", n)
		}
	}
	wait(1)
	dsrPlaces(t, c)
	type client struct {
		conn net.Conn
		r    *bufio.Reader
		name string
	}
	to := netip.MustParseAddrPort("203.0.113.2:80")
	var clients []client
	open := func() {
		t.Helper()
		for range 10 {
			conn, err := traffic.Dial(c.Outside, "tcp", to, 8*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			k := client{conn: conn, r: bufio.NewReader(conn)}
			if k.name, err = k.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			clients = append(clients, k)
		}
	}
	check := func(when string) {
		t.Helper()
		for i, k := range clients {
			if err := echo(k.conn, k.r, []byte("still there")); err != nil {
				t.Errorf("%s: connection %d, to %s: %v", when, i, strings.TrimSpace(k.name), err)
			}
		}
	}
	open()
	check("at first")
	second := addPod(t, c.Nodes[2], "second")
	serveNamed(t, second)
	serveNamed(t, addPod(t, c.Nodes[0], "third"))
	wait(3)
	check("with two backends more")
	open()
	leads(t, c, to.Addr(), c.Nodes[0])
	open()
	leads(t, c, to.Addr(), c.Nodes[1])
	check("after others through a node that has backends")
	if err := second.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(2)
	var others []client
	for _, k := range clients {
		if k.name != "second\n" {
			others = append(others, k)
		}
	}
	if len(others) == len(clients) {
		t.Error("nobody asked the pod that went")
	}
	clients = others
	check("when one backend is gone")
}
