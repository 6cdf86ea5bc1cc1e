package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
	return addShopPod(t, n, name)
}

// addShopPod attaches a pod of the namespace shop that the source knows.
func addShopPod(t *testing.T, n *cluster.Node, name string) *cluster.Pod {
	t.Helper()
	p, err := n.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Namespace, p.UID = "shop", uidOf(name)
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

// knocks asks again and again by TCP, each time anew, and wants an answer each time, without that
// a packet of the question was sent twice: how long it takes is the machine's matter.
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
			begin := time.Now()
			err := knock(from, to)
			k.mu.Lock()
			k.done++
			if err != nil {
				k.errs = append(k.errs, fmt.Errorf("%s at %s: %w", from.Name, begin.UTC().Format(time.TimeOnly+".000"), err))
			}
			k.mu.Unlock()
		}
	})
}

func knock(from *cluster.Pod, to netip.AddrPort) error {
	const within = 10 * time.Second
	begin := time.Now()
	conn, err := traffic.Dial(from.NS, "tcp", to, within)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(begin.Add(within)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		return err
	}
	if n, err := traffic.Resent(conn); n > 0 || err != nil {
		return fmt.Errorf("%d packets to %s were sent again: %w", n, to, errors.Join(err, errLost))
	}
	return nil
}

var errLost = errors.New("the first was lost")

// keeper watches what restartPolicies allow and deny: whether each connection that may be
// is answered, and whether a packet arrives that may not be.
type keeper struct {
	knocks  *knocks
	streams []*traffic.Stream
	denied  map[*cluster.Pod][]*cluster.Pod // who may not reach whom
	taps    map[*cluster.Pod]*tap
	sprays  []*spray
}

// watchVerdicts begins when all are as they should be. pod attaches a pod of the namespace shop
// with that label.
func watchVerdicts(t *testing.T, near, far *cluster.Node, pod func(n *cluster.Node, app string) *cluster.Pod) *keeper {
	t.Helper()
	server := pod(near, "server")
	kiosk := pod(far, "kiosk") // nobody's server
	friends := []*cluster.Pod{pod(near, "friend"), pod(far, "friend"), pod(near, "bound"), pod(far, "bound")}
	strangers := []*cluster.Pod{pod(near, "stranger"), pod(far, "stranger")}
	v := &keeper{
		knocks: &knocks{stop: make(chan struct{})}, taps: map[*cluster.Pod]*tap{},
		denied: map[*cluster.Pod][]*cluster.Pod{server: strangers, kiosk: {friends[2], friends[3]}},
	}
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
			v.streams = append(v.streams, st)
			v.knocks.on(f, netip.AddrPortFrom(a, 80))
		}
	}
	for to, from := range v.denied {
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
		v.taps[to] = newTap(t, to.NS)
		for _, f := range from {
			var at []netip.AddrPort
			for _, a := range to.Addrs() {
				at = append(at, netip.AddrPortFrom(a, 80))
			}
			v.sprays = append(v.sprays, newSpray(t, f.NS, 2*time.Millisecond, at...))
		}
	}
	return v
}

// kept ends the watch, and wants no verdict to have been another for a moment.
func (v *keeper) kept(t *testing.T) {
	t.Helper()
	k := v.knocks
	close(k.stop)
	k.wg.Wait()
	if len(k.errs) > 0 || k.done < 100 {
		t.Errorf("of %d new connections that may be, %d failed, the first: %v", k.done, len(k.errs), errors.Join(k.errs[:min(3, len(k.errs))]...))
	}
	sent := int64(0)
	for _, y := range v.sprays {
		y.stop(t)
		sent += y.sent.Load()
	}
	for to, from := range v.denied {
		v.taps[to].close()
		for _, f := range from {
			for _, a := range f.Addrs() {
				if n := v.taps[to].seen(a, 0); n > 0 {
					t.Errorf("%d packets of %s have come to %s", n, f.Name, to.Name)
				}
			}
		}
	}
	t.Logf("%d new connections; %d packets that may not be", k.done, sent)
	if sent < 1000 {
		t.Error("too few packets to prove anything")
	}
	unhurt(t, v.streams)
}

// otherLayout are flags by which a daemon's maps have another layout.
var otherLayout = []string{"--max-pods", "500", "--max-nodes", "300"}

func layoutOf(t *testing.T, n *cluster.Node) string {
	t.Helper()
	s, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Layout
}

// Policies stay in force, as they were, whatever becomes of the daemons and their source:
// what is allowed loses nothing, and of what is denied not a packet arrives.
func TestRestartKeepsPolicies(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	if err := c.WriteObject("policies", restartPolicies); err != nil {
		t.Fatal(err)
	}
	v := watchVerdicts(t, c.Nodes[0], c.Nodes[1], func(n *cluster.Node, app string) *cluster.Pod { return shopPod(t, c, n, app) })
	layouts := map[string]bool{}
	for _, flags := range [][]string{nil, otherLayout, nil} {
		for _, n := range c.Nodes {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			restart(t, n, flags...)
			layouts[layoutOf(t, n)] = true
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
		well(t, n)
	}
	v.kept(t)
}

// The same when the Kubernetes API is away, in both ways: its servers stall, or are not
// there. Meanwhile one daemon is started anew, and one with another layout, which waits
// until the API answers, and then goes back to the former.
func TestOutageOfTheAPIKeepsPolicies(t *testing.T) {
	t.Parallel()
	c, api := startWithAPI(t, cluster.Spec{Nodes: 2})
	near, far := c.Nodes[0], c.Nodes[1]
	api.write(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"+restartPolicies)
	v := watchVerdicts(t, near, far, func(n *cluster.Node, app string) *cluster.Pod {
		name := app + "-" + n.Name
		api.schedule(n, "shop", name, app)
		return addShopPod(t, n, name)
	})
	layout := layoutOf(t, far)
	for _, way := range []struct {
		name     string
		out, end func()
	}{
		{"the API stalls", api.stall, api.revive},
		{"the API is not there", api.stop, func() { api.restore(t) }},
	} {
		way.out()
		for _, n := range c.Nodes {
			troubled(t, n, "source-api")
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		restart(t, near)
		if err := far.Start(otherLayout...); err != nil {
			t.Fatal(err)
		}
		troubled(t, far, "not-synced")
		way.end()
		for _, n := range c.Nodes {
			well(t, n)
		}
		if layoutOf(t, far) == layout {
			t.Errorf("%s: the layout is the same, want another", way.name)
		}
		if err := far.Kill(); err != nil {
			t.Fatal(err)
		}
		restart(t, far)
		if got := layoutOf(t, far); got != layout {
			t.Errorf("%s: the layout is %s, want the former %s", way.name, got, layout)
		}
		t.Log(way.name)
	}
	// The servers have forgotten what was: all is listed anew.
	api.Compact()
	api.Asked()
	for _, s := range api.servers {
		s.Cut()
	}
	testnet.Until(t, 30*time.Second, func() error {
		if asked := api.Asked(); !slices.Contains(asked, "stream networkpolicies") {
			return fmt.Errorf("policies are not listed anew, but: %v", asked)
		}
		return nil
	})
	for _, n := range c.Nodes {
		well(t, n)
	}
	v.kept(t)
}

func isTimeout(err error) bool {
	var slow interface{ Timeout() bool }
	return errors.As(err, &slow) && slow.Timeout()
}
