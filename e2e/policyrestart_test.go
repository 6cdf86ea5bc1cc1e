package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// restartPolicies let only friends reach the server, and the bound only the server.
const restartPolicies = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [friend, bound]}]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bound, namespace: shop}
spec:
  podSelector: {matchLabels: {app: bound}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
`

// shopPod is a pod of the namespace shop, with its name's first part as label.
func shopPod(t *testing.T, c *cluster.Cluster, n *cluster.Node, app string) *cluster.Pod {
	t.Helper()
	name := app + "-" + n.Name
	object := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, labels: {app: %s}}\nspec: {nodeName: %s}\n", name, app, n.Name)
	if err := c.WriteObject("pod-"+name, object); err != nil {
		t.Fatal(err)
	}
	p, err := n.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Namespace = "shop"
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// policyInForce waits until what shows that policies are in force does.
func policyInForce(t *testing.T, ask func() error) {
	t.Helper()
	testnet.Until(t, 15*time.Second, ask)
}

// knocks asks again and again by TCP, each time anew, and wants an answer each time.
type knocks struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex
	done int
	errs []error
}

func (k *knocks) on(from *cluster.Pod, to netip.AddrPort) {
	k.wg.Go(func() {
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			// Longer than a SYN is answered, shorter than it is sent again.
			_, err := traffic.Ask(from.NS, to, 950*time.Millisecond)
			k.mu.Lock()
			k.done++
			if err != nil {
				k.errs = append(k.errs, fmt.Errorf("%s: %w", from.Name, err))
			}
			k.mu.Unlock()
		}
	})
}

// Policies stay in force, as they were, whatever becomes of the daemons and their source:
// what is allowed loses nothing, and of what is denied not a packet arrives.
func TestRestartKeepsPolicies(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	near, far := c.Nodes[0], c.Nodes[1]
	if err := c.WriteObject("policies", restartPolicies); err != nil {
		t.Fatal(err)
	}
	server := shopPod(t, c, near, "server")
	kiosk := shopPod(t, c, far, "kiosk") // nobody's server
	friends := []*cluster.Pod{shopPod(t, c, near, "friend"), shopPod(t, c, far, "friend"), shopPod(t, c, near, "bound"), shopPod(t, c, far, "bound")}
	strangers := []*cluster.Pod{shopPod(t, c, near, "stranger"), shopPod(t, c, far, "stranger")}
	k := &knocks{stop: make(chan struct{})}
	var streams []*traffic.Stream
	for i, a := range server.Addrs() {
		s, err := traffic.Serve(server.NS, netip.AddrPortFrom(a, 80))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		for _, f := range friends {
			policyInForce(t, func() error {
				_, err := traffic.Ask(f.NS, netip.AddrPortFrom(a, 80), 300*time.Millisecond)
				return err
			})
			st, err := traffic.Start(fmt.Sprintf("%s, family %d", f.Name, i), f.NS, server.NS, a)
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
			k.on(f, netip.AddrPortFrom(a, 80))
		}
	}
	denied := map[*cluster.Pod][]*cluster.Pod{server: strangers, kiosk: {friends[2], friends[3]}}
	taps, sprays := map[*cluster.Pod]*tap{}, []*spray{}
	for to, from := range denied {
		for _, f := range from {
			for _, a := range to.Addrs() {
				policyInForce(t, func() error {
					if _, err := traffic.Ask(f.NS, netip.AddrPortFrom(a, 80), 300*time.Millisecond); !isTimeout(err) {
						return fmt.Errorf("%s asks %s: %v, want no answer", f.Name, to.Name, err)
					}
					return nil
				})
			}
		}
		taps[to] = newTap(t, to.NS)
		for _, f := range from {
			var at []netip.AddrPort
			for _, a := range to.Addrs() {
				at = append(at, netip.AddrPortFrom(a, 80))
			}
			sprays = append(sprays, newSpray(t, f.NS, 2*time.Millisecond, at...))
		}
	}
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
	}
	if len(layouts) != 2 {
		t.Errorf("layouts were %v, want two", layouts)
	}
	// Without a source, too.
	if err := os.Rename(c.Source, c.Source+".away"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		restart(t, n)
	}
	if err := os.Rename(c.Source+".away", c.Source); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		testnet.Until(t, 20*time.Second, func() error {
			s, err := n.Client().Status(t.Context())
			if err == nil && len(s.Problems) > 0 {
				err = fmt.Errorf("%s has problems: %v", n.Name, s.Problems)
			}
			return err
		})
	}
	close(k.stop)
	k.wg.Wait()
	if len(k.errs) > 0 || k.done < 100 {
		t.Errorf("of %d new connections that may be, %d failed, the first: %v", k.done, len(k.errs), errors.Join(k.errs[:min(3, len(k.errs))]...))
	}
	sent := int64(0)
	for _, y := range sprays {
		y.stop(t)
		sent += y.sent.Load()
	}
	for to, from := range denied {
		taps[to].close()
		for _, f := range from {
			for _, a := range f.Addrs() {
				if n := taps[to].seen(a); n > 0 {
					t.Errorf("%d packets of %s have come to %s", n, f.Name, to.Name)
				}
			}
		}
	}
	t.Logf("%d new connections; %d packets that may not be", k.done, sent)
	if sent < 1000 {
		t.Error("too few packets to prove anything")
	}
	unhurt(t, streams)
}

func isTimeout(err error) bool {
	var slow interface{ Timeout() bool }
	return errors.As(err, &slow) && slow.Timeout()
}
