package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// onlyApp lets nobody reach the server but pods of an app.
func onlyApp(app string) string {
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: %s}}}]}]
`, app)
}

// openFlows are streams to or from the server that were open before there was any policy.
type openFlows map[string][]*traffic.Stream

// move waits until all streams of a name have had more datagrams and bytes than now.
func (f openFlows) move(t *testing.T, name string) {
	t.Helper()
	for _, s := range f[name] {
		datagrams, bytes := s.Arrived()
		testnet.Until(t, 30*time.Second, func() error {
			if d, b := s.Arrived(); d < datagrams+20 || b == bytes {
				return fmt.Errorf("%s: %d datagrams and %d bytes more", s.Name, d-datagrams, b-bytes)
			}
			return nil
		})
	}
}

// stall waits until nothing has arrived of the streams of a name for half a second.
func (f openFlows) stall(t *testing.T, name string) {
	t.Helper()
	for _, s := range f[name] {
		datagrams, bytes := s.Arrived()
		since := time.Now()
		testnet.Until(t, 10*time.Second, func() error {
			if d, b := s.Arrived(); d != datagrams || b != bytes {
				datagrams, bytes, since = d, b, time.Now()
			}
			if time.Since(since) < 500*time.Millisecond {
				return fmt.Errorf("%s: it goes on", s.Name)
			}
			return nil
		})
	}
}

// Flows that are open when policies change are judged again, in the direction in which
// they were opened: what is forbidden now is cut, and goes on when it may; what is allowed
// loses nothing, nor do replies to what the server has opened itself.
func TestPolicyChangeJudgesOpenFlows(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	server := shopPod(t, c, c.Nodes[0], "server")
	flows := openFlows{}
	open := func(name string, from, to *cluster.Pod) {
		for i := range 2 {
			s, err := traffic.Start(fmt.Sprintf("%s > %s, family %d", from.Name, to.Name, i), from.NS, to.NS, to.Addrs()[i])
			if err != nil {
				t.Fatal(err)
			}
			flows[name] = append(flows[name], s)
		}
	}
	for _, n := range c.Nodes {
		for _, app := range []string{"friend", "stranger"} {
			open(app, shopPod(t, c, n, app), server)
		}
		open("own", server, shopPod(t, c, n, "supplier"))
	}
	policy := func(text string) {
		if err := c.WriteObject("policy", text); err != nil {
			t.Fatal(err)
		}
	}
	for name := range flows {
		flows.move(t, name)
	}
	policy(onlyApp("friend"))
	flows.stall(t, "stranger")
	flows.move(t, "friend")
	flows.move(t, "own")

	// The other way round: a cut flow goes on as if packets had been lost.
	policy(onlyApp("stranger"))
	flows.stall(t, "friend")
	flows.move(t, "stranger")
	flows.move(t, "own")

	policy("# none\n")
	for name := range flows {
		flows.move(t, name)
	}
	unhurt(t, flows["own"])
	for _, name := range []string{"friend", "stranger"} {
		for _, s := range flows[name] {
			if r := s.Stop(); r.Err != nil || r.Lost == 0 {
				t.Errorf("%s: %s, %v; want it cut for a while, and whole", s.Name, r, r.Err)
			}
		}
	}
}

// What is allowed before a change and after it loses nothing through many changes.
func TestPolicyChangesSpareWhatStaysAllowed(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	server := shopPod(t, c, c.Nodes[0], "server")
	var all []*traffic.Stream
	for _, n := range c.Nodes {
		friend := shopPod(t, c, n, "friend")
		for i := range 2 {
			s, err := traffic.Start(fmt.Sprintf("%s, family %d", friend.Name, i), friend.NS, server.NS, server.Addrs()[i])
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	flows := openFlows{"all": all}
	for i := range 20 {
		text := onlyApp("friend")
		for j := range i % 5 {
			text += "---\n" + np(fmt.Sprintf("shop/p%d-%d", i, j), fmt.Sprintf("podSelector: {}, ingress: [{ports: [{port: %d}]}]", 1000+i*7+j))
		}
		if i%7 == 6 {
			text = "# none\n"
		}
		if err := c.WriteObject("policy", text); err != nil {
			t.Fatal(err)
		}
		testnet.Until(t, 10*time.Second, func() error {
			for _, n := range c.Nodes {
				list, err := n.Client().Policies(t.Context())
				if err != nil {
					return err
				}
				if want := (i%5 + 1) * min(1, (7-i%7)-1); len(list) != want {
					return fmt.Errorf("%s knows %d policies, want %d", n.Name, len(list), want)
				}
			}
			return nil
		})
		flows.move(t, "all")
	}
	unhurt(t, all)
}
