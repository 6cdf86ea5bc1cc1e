package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/crowd"
	"github.com/weftnet/weft/internal/testnet"
)

// in starts a crowd's end in a namespace; if joined, as one of the node's processes.
func in(n *cluster.Node, ns *testnet.NS, joined bool) crowd.Starter {
	return func(cmd *exec.Cmd) error {
		if joined {
			done, err := n.Join(cmd)
			if err != nil {
				return err
			}
			defer done()
		}
		return ns.Start(cmd)
	}
}

// crowds are ends that hold connections.
type crowds struct {
	names []string
	ends  []*crowd.End
}

func (c *crowds) hold(t *testing.T, name string, start crowd.Starter, pace crowd.Pace, ways ...crowd.Way) {
	t.Helper()
	e, err := crowd.Hold(start, pace, ways...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(e.Close)
	c.names, c.ends = append(c.names, name), append(c.ends, e)
}

// ask asks all ends by one of their methods; nothing may have failed.
func (c *crowds) ask(t *testing.T, when string, how func(*crowd.End) (crowd.Report, error)) (all []crowd.Report) {
	t.Helper()
	for i, e := range c.ends {
		r, err := how(e)
		if err != nil {
			t.Fatalf("%s, %s: %v", when, c.names[i], err)
		}
		if r.Failures > 0 {
			t.Errorf("%s, %s: %d failures, the first: %q", when, c.names[i], r.Failures, r.Errors)
		}
		all = append(all, r)
	}
	return all
}

// spoken waits until each connection has been answered once more.
func (c *crowds) spoken(t *testing.T, when string) {
	t.Helper()
	before := c.ask(t, when, (*crowd.End).Report)
	testnet.Until(t, 40*time.Second, func() error {
		now := c.ask(t, when, (*crowd.End).Report)
		if t.Failed() {
			t.FailNow()
		}
		for i, r := range now {
			// A connection that is ahead may have had its turn before.
			if r.Least < before[i].Least+2 {
				return fmt.Errorf("%s, %s: a connection has %d turns, had %d", when, c.names[i], r.Least, before[i].Least)
			}
		}
		return nil
	})
}

// finish ends all, wants nothing lost, and returns how many connections there were.
func (c *crowds) finish(t *testing.T) (open int) {
	t.Helper()
	turns, sent, lost := int64(0), int64(0), int64(0)
	for i, r := range c.ask(t, "at the end", (*crowd.End).Finish) {
		open, turns, sent, lost = open+r.Open, turns+r.Turns, sent+r.Sent, lost+r.Sent-r.Answered
		if r.Sent > r.Answered {
			t.Errorf("%s: %d of %d datagrams lost", c.names[i], r.Sent-r.Answered, r.Sent)
		}
	}
	t.Logf("%d connections, %d turns; %d datagrams, %d lost", open, turns, sent, lost)
	return open
}

// 10,000 connections and 32 UDP streams through Services do not notice that daemons are
// killed, come back, and are upgraded to another layout and back: from pods of both nodes
// by packets and by sockets, from the nodes, and from outside.
func TestRestartAndUpgradeKeepServicesConnections(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	if err := c.WriteObject("web", serviceYAML("web", "web", "Cluster", 20, 30090)+podObject("backend", "node-1", "web", "")); err != nil {
		t.Fatal(err)
	}
	backend := addPod(t, c.Nodes[0], "backend")
	server, err := crowd.Serve(in(nil, backend.NS, false), netip.AddrPortFrom(backend.IP4, 8080), netip.AddrPortFrom(backend.IP6, 8080))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
	}
	const connections, streams = 10_000, 32
	var all crowds
	pace := crowd.Pace{TCP: 4 * time.Second, UDP: 50 * time.Millisecond, Patience: 20 * time.Second}
	hold := func(name string, start crowd.Starter, to ...string) {
		var ways []crowd.Way
		for _, at := range to {
			ways = append(ways, crowd.Way{To: netip.MustParseAddrPort(at), TCP: connections / 16, UDP: streams / 16})
		}
		all.hold(t, name, start, pace, ways...)
	}
	began := time.Now()
	for _, n := range c.Nodes {
		hold("packets of a pod on "+n.Name, in(n, addPod(t, n, "packets-"+n.Name).NS, false), "10.96.0.20:80", "[fd00:96::20]:80")
		hold("sockets of a pod on "+n.Name, in(n, addPod(t, n, "sockets-"+n.Name).NS, true), "10.96.0.20:80", "[fd00:96::20]:80")
		hold(n.Name, in(n, n.NS, true), "10.96.0.20:80", "[fd00:96::20]:80")
	}
	hold("outside", in(nil, c.Outside, false), "172.18.0.1:30090", "172.18.0.2:30090", "[fd18::1]:30090", "[fd18::2]:30090")
	t.Logf("they began within %s", time.Since(began))

	layouts := map[string]bool{}
	for _, flags := range [][]string{nil, {"--max-pods", "500", "--max-nodes", "300"}, nil} {
		for _, n := range c.Nodes {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			restart(t, n, flags...)
			s, err := n.Client().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			layouts[s.Layout] = true
		}
		all.spoken(t, fmt.Sprint("after a restart with ", flags))
	}
	if len(layouts) != 2 {
		t.Errorf("layouts were %v, want two", layouts)
	}
	if open := all.finish(t); open != connections {
		t.Errorf("%d connections, want %d", open, connections)
	}
}
