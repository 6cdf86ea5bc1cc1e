package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// smallPool gives the node a pool of five addresses for pods.
func smallPool(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Nodes[0].PodCIDRs = []netip.Prefix{mustPrefix(t, "10.244.1.0/29")}
	if err := c.WriteNode(c.Nodes[0]); err != nil {
		t.Fatal(err)
	}
}

// reusedEarly is the metric of the node's first pool.
func reusedEarly(t *testing.T, n *cluster.Node) (count int) {
	t.Helper()
	m, err := metrics(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(m) {
		if rest, ok := strings.CutPrefix(line, "weft_pool_reused_early_total{"); ok {
			_, value, _ := strings.Cut(rest, " ")
			if _, err := fmt.Sscan(value, &count); err != nil {
				t.Fatal(err)
			}
			return count
		}
	}
	t.Fatalf("no metric of early reuse in\n%s", m)
	return 0
}

func del(t *testing.T, p *cluster.Pod) {
	t.Helper()
	if err := p.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// P10: the default delay holds over restarts, in whatever way the daemon ends, and a
// pool that is used up gives out what was released first, and counts it.
func TestReleasedAddressRests(t *testing.T) {
	t.Parallel()
	c := prepare(t, cluster.Spec{Pods: cluster.V4})
	smallPool(t, c)
	n := c.Nodes[0]
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, second := addPod(t, n, "first"), addPod(t, n, "second")
	del(t, first)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	// This one is released by a tombstone, when the daemon is back.
	del(t, second)
	restart(t, n)
	for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		p := addPod(t, n, fmt.Sprint("p", i))
		if p.IP4 == first.IP4 || p.IP4 == second.IP4 {
			t.Errorf("%s was released a moment ago and is given out again, with others free", p.IP4)
		}
		if err := n.Stop(sig); err != nil {
			t.Fatal(err)
		}
		restart(t, n)
	}
	if got := reusedEarly(t, n); got != 0 {
		t.Errorf("reused early: got %d, want 0", got)
	}
	// Now only the two are left: the one that has rested longer first.
	for i, want := range []*cluster.Pod{first, second} {
		p := addPod(t, n, "late")
		if p.IP4 != want.IP4 {
			t.Errorf("pool without rested addresses: got %s, want %s, which has rested longer", p.IP4, want.IP4)
		}
		if got := reusedEarly(t, n); got != i+1 {
			t.Errorf("reused early: got %d, want %d", got, i+1)
		}
	}
}

// A short delay, so that its end can be seen: what has rested is given out without
// being counted.
func TestRestEnds(t *testing.T) {
	t.Parallel()
	const delay = 3 * time.Second
	c := prepare(t, cluster.Spec{Pods: cluster.V4, Flags: []string{"--reuse-delay", delay.String()}})
	smallPool(t, c)
	n := c.Nodes[0]
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods := make([]*cluster.Pod, 5)
	for i := range pods {
		pods[i] = addPod(t, n, fmt.Sprint("p", i))
	}
	del(t, pods[2])
	released := time.Now()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	restart(t, n)
	testnet.Until(t, 3*delay, func() error {
		s, err := n.Client().Status(t.Context())
		if err != nil || len(s.Pools) != 1 || s.Pools[0].Cooling != 0 {
			return fmt.Errorf("pools: %v %w", s.Pools, err)
		}
		return nil
	})
	if rested := time.Since(released); rested < delay-100*time.Millisecond {
		t.Errorf("rested for %s, want %s", rested, delay)
	}
	if p := addPod(t, n, "next"); p.IP4 != pods[2].IP4 {
		t.Errorf("got %s, want %s", p.IP4, pods[2].IP4)
	}
	if got := reusedEarly(t, n); got != 0 {
		t.Errorf("reused early: got %d, want 0", got)
	}
}

// P10: somebody goes on sending to a pod that is gone; pods that come and go meanwhile
// get none of it.
func TestChurnHitsNobodyElse(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	client, old := addPod(t, c.Nodes[1], "client"), addPod(t, c.Nodes[0], "old")
	const port = 9999
	stop := make(chan struct{})
	defer close(stop)
	for _, a := range old.Addrs() {
		conn, err := traffic.Dial(client.NS, "udp", netip.AddrPortFrom(a, port), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					_, _ = conn.Write([]byte("for the old one")) // ICMP says that it is gone
				}
			}
		}()
	}
	seen := map[netip.Addr]bool{}
	for _, a := range old.Addrs() {
		seen[a] = true
	}
	del(t, old)
	for i := range 40 {
		p := addPod(t, c.Nodes[0], fmt.Sprint("p", i))
		for _, a := range p.Addrs() {
			if seen[a] {
				t.Errorf("%s is given out again within %s", a, 30*time.Second)
			}
			seen[a] = true
			s := listenAt(t, p.NS, netip.AddrPortFrom(a, port))
			if n := s.receive(20 * time.Millisecond); n >= 0 {
				t.Errorf("%s got %d bytes that were for the old pod", a, n)
			}
		}
		del(t, p)
		if i%10 == 9 {
			if err := c.Nodes[0].Kill(); err != nil {
				t.Fatal(err)
			}
			restart(t, c.Nodes[0])
		}
	}
}
