package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
)

// Of a pod with a bandwidth limit, and of one that talks with such, a connection through a Service
// and one to its backend itself may have the same port, as those of other pods. Both go on, with
// packets of all sizes, through the limiting devices and the stack of the node.
func TestLimitedPodsConnectFromOnePort(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	backends := map[string]*cluster.Pod{}
	var text string
	for i, name := range []string{"near", "far", "nearfree", "farfree"} {
		n := c.Nodes[i%2]
		text += serviceYAML(name, name, "Cluster", 20+i, 30090+i) + podObject(name, n.Name, name, "")
		if i < 2 {
			backends[name] = addLimited(t, n, name)
		} else {
			backends[name] = addPod(t, n, name)
		}
		serveNamed(t, backends[name])
	}
	if err := c.WriteObject("services", text); err != nil {
		t.Fatal(err)
	}
	free, limited := addPod(t, c.Nodes[0], "free"), addLimited(t, c.Nodes[0], "limited")
	port := uint16(40000)
	for i, name := range []string{"near", "far", "nearfree", "farfree"} {
		waitBackends(t, c.Nodes[0], name, 1)
		for k, addr := range backends[name].Addrs() {
			vip := netip.MustParseAddr([]string{"10.96.0.", "fd00:96::"}[k] + fmt.Sprint(20+i))
			for _, client := range []*cluster.Pod{free, limited} {
				port++
				what := fmt.Sprintf("%s to %s, %s", client.Name, name, addr)
				from := netip.AddrPortFrom(client.Addrs()[k], port)
				served := dialNamed(t, what+", served", client, from, netip.AddrPortFrom(vip, 80), name)
				echoBulk(t, what+", served", served)
				direct := dialNamed(t, what+", direct", client, from, netip.AddrPortFrom(addr, 8080), name)
				for range 3 {
					echoBulk(t, what+", served, beside", served)
					echoBulk(t, what+", direct", direct)
				}
			}
		}
	}
}

// dialNamed connects a pod, from a port that others of it have, to who says that name.
func dialNamed(t *testing.T, what string, p *cluster.Pod, from, to netip.AddrPort, name string) net.Conn {
	t.Helper()
	conn, err := traffic.DialFrom(p.NS, "tcp", from, to, 5*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Cleanup(func() { conn.Close() })
	b := make([]byte, len(name)+1)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != name+"\n" {
		t.Fatalf("%s: got %q (%v), want %s", what, b, err, name)
	}
	return conn
}

// echoBulk wants as much back as makes trains of segments.
func echoBulk(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	data := bytes.Repeat([]byte("weft"), 1<<15)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(conn, got)
	if e := <-sent; err != nil || e != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s: sent %v, came back %v, the same: %t", what, e, err, bytes.Equal(got, data))
	}
}
