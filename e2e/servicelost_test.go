package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// lostWithin is how soon nothing new goes to a node that has died: what docs/services.md says.
const lostWithin = 4 * time.Second

// lostWay is one way by which a Service is asked, on a new connection every few
// milliseconds.
type lostWay struct {
	name  string
	asker *cluster.Asker
	mode  cluster.Mode
	at    netip.AddrPort

	mu     sync.Mutex
	failed time.Time            // when the last one that failed began
	first  time.Time            // when the first one that failed did
	last   map[string]time.Time // when each backend answered last
	wg     sync.WaitGroup
}

func (w *lostWay) run(stop chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			w.wg.Wait()
			return
		case <-tick.C:
		}
		w.wg.Go(func() {
			const patience = 700 * time.Millisecond // less than until a SYN is sent again
			began := time.Now()
			answer := w.asker.Ask(w.mode, w.at, patience)
			w.mu.Lock()
			defer w.mu.Unlock()
			if strings.HasPrefix(answer.Failure, "back-") {
				w.last[answer.Failure] = time.Now()
				return
			}
			if w.first.IsZero() {
				w.first = began
			}
			if began.After(w.failed) {
				w.failed = began
			}
		})
	}
}

// A machine with backends dies, and the cluster's API says nothing of it, as it does for most
// of a minute: from all sides, nothing new goes there any more within seconds. When it is
// back, it has its share again.
func TestNothingNewGoesToALostNode(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 4})
	text := backends(t, c.Nodes[1:]...) + serviceYAML("web", "web", "Cluster", 1, 30080)
	client := addPod(t, c.Nodes[0], "client")
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		waitBackends(t, n, "web", 3)
	}
	asker := func(ns *testnet.NS, joined bool) *cluster.Asker {
		a, err := c.Nodes[0].Asker(ns, joined)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		return a
	}
	inside, packets, host, outside := asker(client.NS, true), asker(client.NS, false), asker(c.Nodes[0].NS, true), asker(c.Outside, false)
	var ways []*lostWay
	add := func(name string, a *cluster.Asker, mode cluster.Mode, at string) {
		ways = append(ways, &lostWay{name: name, asker: a, mode: mode, at: netip.MustParseAddrPort(at), last: map[string]time.Time{}})
	}
	for _, vip := range []string{"10.96.0.1:80", "[fd00:96::1]:80"} {
		add("a pod, at the socket", inside, cluster.Name, vip)
		add("a pod, by packets", packets, cluster.Name, vip)
		add("the node", host, cluster.Name, vip)
	}
	for _, a := range c.Nodes[0].Addrs {
		add("outside, at a node port", outside, cluster.Name, netip.AddrPortFrom(a, 30080).String())
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, w := range ways {
		group.Go(func() { w.run(stop) })
	}
	const long = 12 // sockets that stay, of which some are with each backend
	follower := asker(client.NS, true)
	followed := make(chan string, long)
	for range long {
		go func() {
			followed <- follower.Ask(cluster.Follow, netip.MustParseAddrPort("10.96.0.1:80"), 2*time.Minute).Failure
		}()
	}
	lost := c.Nodes[3]
	name := fmt.Sprint("back-", lost.Number)
	answers := func(since time.Time) {
		t.Helper()
		testnet.Until(t, 20*time.Second, func() error {
			for _, w := range ways {
				w.mu.Lock()
				at := w.last[name]
				w.mu.Unlock()
				if !at.After(since) {
					return fmt.Errorf("%s, %s: no answer of %s", w.name, w.at, name)
				}
			}
			return nil
		})
	}
	answers(time.Time{})
	for _, w := range ways {
		w.mu.Lock()
		if !w.first.IsZero() {
			t.Errorf("%s, %s: a request failed while all was well", w.name, w.at)
		}
		w.first, w.failed = time.Time{}, time.Time{}
		w.mu.Unlock()
	}

	late := lateness()
	if err := c.Bridge.IP("link", "set", lost.Name, "down"); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	time.Sleep(lostWithin + 3*time.Second)
	spare := late()
	missed := 0
	for _, w := range ways {
		w.mu.Lock()
		if !w.failed.IsZero() {
			missed++
			t.Logf("%s, %s: the last to fail began %s after the cut", w.name, w.at, w.failed.Sub(cut).Round(time.Millisecond))
		}
		if limit := lostWithin + spare; w.failed.Sub(cut) > limit {
			t.Errorf("%s, %s: want at most %s", w.name, w.at, limit)
		}
		w.first, w.failed = time.Time{}, time.Time{}
		w.mu.Unlock()
	}
	if missed < len(ways)/2 {
		t.Errorf("requests failed only by %d of %d ways: too few to prove that the node was lost", missed, len(ways))
	}
	follower.Stop()
	moved := 0
	for range long {
		said := strings.Fields(<-followed)
		former := ""
		for _, s := range said {
			backend, at, _ := strings.Cut(s, "@")
			var ms int64
			if _, err := fmt.Sscan(at, &ms); err != nil {
				t.Fatal(err)
			}
			if former == name && backend != name && time.UnixMilli(ms).After(cut) {
				moved++
				if took := time.UnixMilli(ms).Sub(cut); took > lostWithin+spare {
					t.Errorf("a socket that stays moved to %s %s after the cut, want at most %s", backend, took, lostWithin+spare)
				}
			}
			former = backend
		}
		if last := said[len(said)-1]; strings.HasPrefix(last, name+"@") {
			t.Errorf("a socket that stays is still with %s: %v", name, said)
		}
	}
	t.Logf("%d of %d sockets that stay moved", moved, long)
	shows := func(want string) error {
		list, err := c.Nodes[0].Client().Services(t.Context(), "web")
		if err != nil {
			return err
		}
		for _, b := range list[0].Backends {
			if there := b.Node == lost.Name; there && b.State != want || !there && b.State != "ready" {
				return fmt.Errorf("backend %s of %s is shown as %s", b.Addr, b.Node, b.State)
			}
		}
		return nil
	}
	if err := shows("lost"); err != nil {
		t.Error(err)
	}
	status, err := c.Nodes[0].Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range status.Problems {
		found = found || p.What == "node-lost" && strings.Contains(p.Text, lost.Name)
	}
	if !found {
		t.Errorf("weft status does not say that %s is lost: %v", lost.Name, status.Problems)
	}

	if err := c.Bridge.IP("link", "set", lost.Name, "up"); err != nil {
		t.Fatal(err)
	}
	answers(time.Now())
	if err := shows("ready"); err != nil {
		t.Error(err)
	}
	close(stop)
	group.Wait()
	for _, w := range ways {
		if w.failed.After(cut.Add(lostWithin + 3*time.Second + spare)) {
			t.Errorf("%s, %s: a request failed when the node was back", w.name, w.at)
		}
	}
}
