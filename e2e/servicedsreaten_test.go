package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// eatAnswers makes the network between the nodes drop what comes from a node with a source
// that is no node's, as networks do that check sources.
func eatAnswers(t *testing.T, c *cluster.Cluster, from *cluster.Node) {
	t.Helper()
	for _, rule := range []string{
		"add table bridge sources",
		"add chain bridge sources check { type filter hook forward priority 0; }",
		"add rule bridge sources check iifname " + from.Name + " ip saddr != { 172.18.0.0/24, 10.244.0.0/16 } drop",
		"add rule bridge sources check iifname " + from.Name + " ip6 saddr != { fd18::/64, fd00:244::/32, fe80::/10 } drop",
	} {
		if _, err := c.Bridge.Output("nft", rule); err != nil {
			t.Fatal(err)
		}
	}
}

// eaten wants nodes to say, or not to say, that a node's answers do not arrive.
func eaten(t *testing.T, by *cluster.Node, want bool, nodes ...*cluster.Node) error {
	for _, n := range nodes {
		s, err := n.Client().Status(t.Context())
		if err != nil {
			return err
		}
		got := false
		for _, p := range s.Problems {
			got = got || p.What == "answers-eaten" && strings.Contains(p.Text, "does not work from "+by.Name+":")
		}
		if got != want {
			return fmt.Errorf("%s: problems %v, want answers of %s eaten: %v", n.Name, s.Problems, by.Name, want)
		}
		text, err := metrics(t.Context(), n)
		if err != nil {
			return err
		}
		if line := map[bool]string{true: "\nweft_dsr_mute_nodes 1\n", false: "\nweft_dsr_mute_nodes 0\n"}[want]; !strings.Contains(text, line) {
			return fmt.Errorf("%s: no line %q in the metrics", n.Name, line)
		}
	}
	return nil
}

// Where the network drops a node's answers with a Service's address as their source, other
// nodes find out, serve with snat and say so; when it does not any more, they go back. What is
// open goes on.
func TestDSRFallsBackToSNATWhereAnswersAreEaten(t *testing.T) {
	testnet.Require(t, "nft")
	t.Parallel()
	for _, outer6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("outer6=%v", outer6), func(t *testing.T) {
			t.Parallel()
			testEatenAnswers(t, start(t, cluster.Spec{Nodes: 3, OuterV6First: outer6}))
		})
	}
}

func testEatenAnswers(t *testing.T, c *cluster.Cluster) {
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
	}
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
	}
	places := slices.DeleteFunc(dsrPlaces(t, c), func(p netip.AddrPort) bool { return p.Port() != 80 })
	own4, own6 := cluster.HostAddrs(254)
	if len(places) != 6 {
		t.Fatalf("places %v, want 6", places)
	}
	// all wants the backend to see the client itself, or the node that is asked.
	all := func(itself bool) error {
		for _, to := range places {
			for network, ask := range map[string]func(*testnet.NS, netip.AddrPort, time.Duration) (netip.Addr, error){"tcp": traffic.Ask, "udp": traffic.AskUDP} {
				saw, err := ask(c.Outside, to, time.Second)
				if err != nil {
					return fmt.Errorf("%s to %s: %w", network, to, err)
				}
				if (saw == own4 || saw == own6) != itself {
					return fmt.Errorf("%s to %s: the backend saw %s", network, to, saw)
				}
			}
		}
		return nil
	}
	others := c.Nodes[1:]
	testnet.Until(t, 20*time.Second, func() error { return all(true) })
	eatAnswers(t, c, c.Nodes[0])
	testnet.Until(t, 30*time.Second, func() error { return eaten(t, c.Nodes[0], true, others...) })
	testnet.Until(t, 20*time.Second, func() error { return all(false) })

	// A daemon that starts anew knows it, and need not find out.
	found := func() int {
		return strings.Count(c.Nodes[1].LogTail(10000), "answers do not arrive, use snat")
	}
	before := found()
	if err := c.Nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[1].WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 20*time.Second, func() error { return eaten(t, c.Nodes[0], true, others...) })
	testnet.Until(t, 20*time.Second, func() error { return all(false) })
	if after := found(); before != 2 || after != before {
		t.Errorf("found out %d times before the daemon started anew, %d times after, want 2: once for each family", before, after)
	}

	if _, err := c.Bridge.Output("nft", "delete table bridge sources"); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 40*time.Second, func() error { return eaten(t, c.Nodes[0], false, others...) })
	testnet.Until(t, 20*time.Second, func() error { return all(true) })
}
