package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// requests opens connections one after the other, each for one line, until ctx is done.
type requests struct {
	name         string
	done, failed atomic.Int64
	first        atomic.Pointer[error]
}

func (r *requests) run(ctx context.Context, ns *testnet.NS, to netip.AddrPort) {
	r.repeat(ctx, func() error {
		conn, err := traffic.Dial(ns, "tcp", to, 3*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		_, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
}

// ask is run by another process.
func (r *requests) ask(ctx context.Context, k *cluster.Asker, to netip.AddrPort) {
	r.repeat(ctx, func() error {
		got := k.Ask(cluster.Name, to, 3*time.Second).Failure
		if strings.HasPrefix(got, "back") {
			return nil
		}
		return fmt.Errorf("%s: %s", to, got)
	})
}

func (r *requests) repeat(ctx context.Context, request func() error) {
	for ctx.Err() == nil {
		err := request()
		r.done.Add(1)
		if err != nil {
			r.failed.Add(1)
			r.first.CompareAndSwap(nil, &err)
		}
		time.Sleep(time.Millisecond)
	}
}

// All backends are replaced, one after the other, as a Deployment does it: a new pod
// becomes ready, an old one terminates and goes. No connection fails.
func TestRollingReplacementLosesNoConnection(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 3})
	states := map[string]string{}
	write := func() {
		text := serviceYAML("web", "web", "Cluster", 20, 30090) + serviceYAML("web-local", "web", "Local", 21, 30091)
		for i, n := range c.Nodes {
			for _, gen := range []string{"old", "new"} {
				name := fmt.Sprintf("%s-%d", gen, i)
				meta, status := "", "True"
				switch states[name] {
				case "":
					status = "False"
				case "terminating":
					meta = `, deletionTimestamp: "2026-01-01T00:00:00Z"`
				case "gone":
					continue
				}
				text += podObject(name, n.Name, "web", meta) +
					fmt.Sprintf("status: {conditions: [{type: Ready, status: %q}]}\n", status)
			}
		}
		if err := c.WriteObject("web", text); err != nil {
			t.Fatal(err)
		}
	}
	write()
	pods, servers := map[string]*cluster.Pod{}, map[string]*named{}
	up := func(gen string, i int) {
		name := fmt.Sprintf("%s-%d", gen, i)
		pods[name] = addPod(t, c.Nodes[i], name)
		servers[name] = serveNamed(t, pods[name])
		states[name] = "ready"
		write()
	}
	settled := func(ready int) {
		for _, n := range c.Nodes {
			testnet.Until(t, 10*time.Second, func() error {
				list, err := n.Client().Services(t.Context(), "default/web")
				if err != nil {
					return err
				}
				got := 0
				for _, b := range list[0].Backends {
					if b.State == "ready" {
						got++
					}
				}
				if got != 4*ready {
					return fmt.Errorf("%s: %d ready of %v, want %d", n.Name, got, list[0].Backends, 4*ready)
				}
				return nil
			})
		}
	}
	for i := range c.Nodes {
		up("old", i)
	}
	settled(3)
	client := addPod(t, c.Nodes[0], "client")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var all []*requests
	for _, to := range []string{
		"10.96.0.20:80", "[fd00:96::20]:80", "172.18.0.1:30090", "172.18.0.2:30090", "[fd18::3]:30090",
		"172.18.0.1:30091", "172.18.0.2:30091", "[fd18::3]:30091",
	} {
		ns := c.Outside
		if strings.HasSuffix(to, ":80") {
			ns = client.NS
		}
		r := &requests{name: to}
		all = append(all, r)
		wg.Go(func() { r.run(ctx, ns, netip.MustParseAddrPort(to)) })
	}
	for i := range c.Nodes {
		up("new", i)
		settled(4)
		old := fmt.Sprintf("old-%d", i)
		states[old] = "terminating"
		write()
		settled(3)
		// Its grace: what is open ends.
		select {
		case <-time.After(300 * time.Millisecond):
		case <-t.Context().Done():
		}
		states[old] = "gone"
		write()
		if err := pods[old].Del(t.Context()); err != nil {
			t.Error(err)
		}
		servers[old].close()
	}
	cancel()
	wg.Wait()
	for _, r := range all {
		t.Logf("%s: %d requests, %d failed", r.name, r.done.Load(), r.failed.Load())
		if err := r.first.Load(); err != nil {
			t.Errorf("%s: %d of %d requests failed; the first: %v", r.name, r.failed.Load(), r.done.Load(), *err)
		}
		if r.done.Load() < 100 {
			t.Errorf("%s: %d requests are too few to prove anything", r.name, r.done.Load())
		}
	}
}
