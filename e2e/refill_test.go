package e2e

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
)

// P1: a /25 is filled, the node "reboots" (all namespaces are gone, the daemon dies, the
// runtime remembers nothing), and is filled again: each time to the last address.
func TestRefillAfterReboots(t *testing.T) {
	t.Parallel()
	rounds := 20
	if os.Getenv("WEFT_SOAK") != "" {
		rounds = 200
	}
	const pods = 125 // of 128: network, gateway and broadcast are not for pods
	c := prepare(t, cluster.Spec{})
	n := c.Nodes[0]
	n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/25"), netip.MustParsePrefix("fd00:244:1::/64")}
	if err := c.WriteNode(n); err != nil {
		t.Fatal(err)
	}
	restart(t, n)
	for round := range rounds {
		begin := time.Now()
		all := fill(t, n, pods)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		seen := map[netip.Addr]bool{}
		for _, p := range all {
			for _, a := range p.Addrs() {
				if seen[a] {
					t.Fatalf("round %d: %s was given twice", round, a)
				}
				seen[a] = true
			}
		}
		if got := len(seen); got != 2*pods {
			t.Fatalf("round %d: %d addresses, want %d", round, got, 2*pods)
		}
		if round%2 == 0 {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range all {
			if err := p.NS.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(n.Path("cache")); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			restart(t, n)
		}
		t.Logf("round %d: %s", round, time.Since(begin).Round(time.Millisecond))
	}
}

// fill attaches so many new pods, four at a time. A pool whose addresses are held by
// dead pods may need a moment to see it; the runtime tries again, and so does this.
func fill(t *testing.T, n *cluster.Node, count int) []*cluster.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all := make([]*cluster.Pod, count)
	for i := range all {
		all[i] = newPod(t, n, "p")
	}
	next := make(chan *cluster.Pod)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for p := range next {
				err := p.Add(ctx)
				for err != nil && ctx.Err() == nil {
					<-time.After(200 * time.Millisecond)
					err = p.Add(ctx)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, p := range all {
		next <- p
	}
	close(next)
	wg.Wait()
	return all
}
