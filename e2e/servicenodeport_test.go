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

// A node that asks its own node port, with the policy Local and no backend of its own, is
// answered by other nodes' backends, all of them, and these see the node's own address.
// With a backend of its own, that has its part, too, and sees that address if the socket is
// bound to it. When what answered is gone, it is
// answered by what is left: within a second, also on a socket that it never changes; a
// connection to what is gone ends.
func TestTheNodeAsksItsOwnNodePort(t *testing.T) {
	t.Parallel()
	o := newOwnPort(t)
	o.up("two", "seen-2", "seen-3")
	o.backends("default/web", 1)
	o.backends("default/seen", 2)
	for i, n := range o.c.Nodes { // each serves as it says
		for _, a := range n.Addrs {
			for _, port := range []uint16{30090, 30091} {
				if i == 1 || i == 2 && port == 30091 {
					o.answered(netip.AddrPortFrom(a, port))
				}
			}
		}
	}
	for _, own := range o.n.Addrs {
		o.answered(netip.AddrPortFrom(own, 30090))
		o.answered(netip.AddrPortFrom(own, 30091))
	}
	o.moves()
	for _, own := range o.n.Addrs {
		for _, mode := range []cluster.Mode{cluster.TCP, cluster.Bound, cluster.UDP, cluster.SendTo} {
			for range 10 { // both backends, but for one time in 500
				if got := o.k.Ask(mode, netip.AddrPortFrom(own, 30091), 8*time.Second); got.Seen != own {
					t.Errorf("%s to %s: the backend saw %s", mode, own, got)
				}
			}
		}
	}
	o.up("other")
	o.answerers("three", "other")
	o.up("one", "seen-1")
	o.backends("default/seen", 3)
	o.answerers("one", "three", "other")
	for _, own := range o.n.Addrs {
		for range 10 {
			if got := o.k.Ask(cluster.Bound, netip.AddrPortFrom(own, 30091), 8*time.Second); got.Seen != own {
				t.Errorf("to %s, also with a backend here: it saw %s", own, got)
			}
		}
	}
}

// ownPort is three nodes, of which the first asks itself.
type ownPort struct {
	*testing.T
	c    *cluster.Cluster
	n    *cluster.Node
	k    *cluster.Asker
	live map[string]*cluster.Pod
}

func newOwnPort(t *testing.T) *ownPort {
	t.Helper()
	o := &ownPort{T: t, c: start(t, cluster.Spec{Nodes: 3}), live: map[string]*cluster.Pod{}}
	pods := podObject("one", "node-1", "web", "") + podObject("two", "node-2", "web", "") +
		podObject("three", "node-3", "web", "") + podObject("other", "node-3", "web", "") +
		podObject("seen-1", "node-1", "seen", "") + podObject("seen-2", "node-2", "seen", "") + podObject("seen-3", "node-3", "seen", "")
	if err := o.c.WriteObject("web", pods+serviceYAML("web", "web", "Local", 20, 30090)+serviceYAML("seen", "seen", "Local", 21, 30091)); err != nil {
		t.Fatal(err)
	}
	o.n = o.c.Nodes[0]
	o.k = o.asker()
	return o
}

func (o *ownPort) asker() *cluster.Asker {
	o.Helper()
	k, err := o.n.Asker(o.n.NS, true)
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(k.Close)
	return k
}

// up makes pods, of which those of the Service web say their name, the others what they see.
func (o *ownPort) up(names ...string) {
	o.Helper()
	nodes := map[string]int{"one": 0, "two": 1, "three": 2, "other": 2, "seen-1": 0, "seen-2": 1, "seen-3": 2}
	for _, name := range names {
		p := addPod(o.T, o.c.Nodes[nodes[name]], name)
		o.live[name] = p
		if !strings.HasPrefix(name, "seen") {
			serveNamed(o.T, p)
			continue
		}
		for _, a := range p.Addrs() {
			s, err := traffic.Serve(p.NS, netip.AddrPortFrom(a, 8080))
			if err != nil {
				o.Fatal(err)
			}
			o.Cleanup(s.Close)
		}
	}
}

func (o *ownPort) backends(service string, want int) {
	o.Helper()
	for _, n := range o.c.Nodes {
		waitBackends(o.T, n, service, want)
	}
}

// answered waits for any answer.
func (o *ownPort) answered(at netip.AddrPort) {
	o.Helper()
	testnet.Until(o, 20*time.Second, func() error {
		if got := o.k.Ask(cluster.Name, at, time.Second); !got.Seen.IsValid() && o.live[got.Failure] == nil {
			return fmt.Errorf("%s: %s", at, got)
		}
		return nil
	})
}

// moves looks at what is open while the backend two gives way to three.
func (o *ownPort) moves() {
	o.Helper()
	ends, told := make(chan string, len(o.n.Addrs)), make(chan string, len(o.n.Addrs))
	var following []*cluster.Asker
	for _, own := range o.n.Addrs {
		at, k := netip.AddrPortFrom(own, 30090), o.asker()
		following = append(following, k)
		go func() { told <- k.Ask(cluster.Follow, at, 2*time.Minute).Failure }()
		go func() { ends <- o.k.Ask(cluster.Hold, at, 2*time.Minute).Failure }()
	}
	testnet.Until(o, 20*time.Second, func() error { // they have begun
		rows := rowsOf(o.T, o.c, "sockets", "datagrams")
		connected, others := rows[o.n.Name+" sockets"], rows[o.n.Name+" datagrams"]
		if connected != len(o.n.Addrs) || others != 2*len(o.n.Addrs) {
			return fmt.Errorf("%d sockets and %d rows of datagrams are remembered, want those of %d", connected, others, len(o.n.Addrs))
		}
		return nil
	})
	o.up("three")
	o.backends("default/web", 2)
	for _, a := range o.c.Nodes[2].Addrs {
		o.answered(netip.AddrPortFrom(a, 30090))
	}
	began := time.Now()
	if err := o.live["two"].Del(o.Context()); err != nil {
		o.Fatal(err)
	}
	gone := time.Now()
	for range o.n.Addrs {
		select {
		case end := <-ends:
			o.Logf("the connection ended %s after DEL: %s", time.Since(gone), end)
		case <-time.After(20 * time.Second):
			o.Fatal("a connection to a backend that is gone lives on")
		}
	}
	o.answerers("three")
	<-time.After(goneWithin) // of asking
	for _, k := range following {
		k.Stop()
	}
	for range o.n.Addrs {
		f := follower{name: "the node", heard: heardOf(o.T, <-told)}
		if len(f.heard) == 0 || f.heard[0].who != "two" {
			o.Errorf("heard %v, want two first", f.heard)
		}
		f.check(o.T, []turn{{"its backend is gone", began, gone, "three", "two"}})
	}
}

// answerers asks the node's own node ports with new connections, until all of these have
// answered and nobody else does.
func (o *ownPort) answerers(want ...string) {
	o.Helper()
	for _, own := range o.n.Addrs {
		at, seen := netip.AddrPortFrom(own, 30090), map[string]bool{}
		testnet.Until(o, 20*time.Second, func() error {
			for range 8 {
				got := o.k.Ask(cluster.Name, at, 3*time.Second).String()
				if !slices.Contains(want, got) {
					return fmt.Errorf("%s: answered by %q, want %q", at, got, want)
				}
				seen[got] = true
			}
			if len(seen) < len(want) {
				return fmt.Errorf("%s: answered by %v, want all of %q", at, seen, want)
			}
			return nil
		})
	}
}
