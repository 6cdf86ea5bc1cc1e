package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
)

// streams starts one stream for each way (same node, other node) and family.
func streams(t *testing.T, c *cluster.Cluster) []*traffic.Stream {
	t.Helper()
	a1, a2, b1, _ := pods(t, c)
	var all []*traffic.Stream
	for i, family := range []string{"IPv4", "IPv6"} {
		for way, to := range map[string]*cluster.Pod{"same node": a2, "other node": b1} {
			s, err := traffic.Start(family+" "+way, a1.NS, to.NS, to.Addrs()[i])
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	return all
}

// unhurt stops the streams and asserts that they lost nothing.
func unhurt(t *testing.T, all []*traffic.Stream) {
	t.Helper()
	for _, s := range all {
		r := s.Stop()
		t.Logf("%s: %s", s.Name, r)
		if r.Lost > 0 || r.Err != nil {
			t.Errorf("%s: %d of %d datagrams lost (first after %s), TCP: %v", s.Name, r.Lost, r.Sent, r.FirstLost, r.Err)
		}
		if r.Sent < 100 || r.TCPBytes == 0 {
			t.Errorf("%s: %s: too little to prove anything", s.Name, r)
		}
	}
}

// P3: packets do not notice that daemons die, stay away, or come back.
func TestRestartLosesNothing(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	all := streams(t, c)
	for range 3 {
		for _, n := range c.Nodes {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			restart(t, n)
		}
	}
	for _, n := range c.Nodes {
		if err := n.Stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(time.Minute) // the daemons are away; that is the test
	for _, n := range c.Nodes {
		restart(t, n)
	}
	unhurt(t, all)
}

// P3: an upgrade to a build whose maps have another layout, and back. The sizes of
// the maps are part of the layout.
func TestUpgradeToAnotherLayoutLosesNothing(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	all := streams(t, c)
	layouts := map[string]bool{}
	for _, flags := range [][]string{{"--max-pods", "500", "--max-nodes", "300"}, nil, {"--max-pods", "600"}, nil} {
		for _, n := range c.Nodes {
			if err := n.Stop(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			restart(t, n, flags...)
			s, err := n.Client().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			layouts[s.Layout] = true
			assertOneLayout(t, n)
		}
	}
	if len(layouts) != 3 {
		t.Errorf("got layouts %v, want three different ones", layouts)
	}
	unhurt(t, all)
}
