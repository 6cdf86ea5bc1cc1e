package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// lateness watches how late the machine runs what is due: tests of time are as good as
// that. The result stops it.
func lateness() func() time.Duration {
	stop, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-stop:
				worst <- most
				return
			case <-time.After(10 * time.Millisecond):
				most = max(most, time.Since(last)-10*time.Millisecond)
				last = time.Now()
			}
		}
	}()
	return func() time.Duration { close(stop); return <-worst }
}

// pulse asks an address every millisecond by UDP.
type pulse struct {
	asker *cluster.Asker
	done  chan cluster.Answer
}

func pulseOf(t *testing.T, c *cluster.Cluster, a netip.Addr) *pulse {
	t.Helper()
	k, err := c.Nodes[0].Asker(c.Outside, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	f := &pulse{k, make(chan cluster.Answer, 1)}
	go func() { f.done <- k.Ask(cluster.Follow, netip.AddrPortFrom(a, 80), 2*time.Minute) }()
	return f
}

// heard are the times at which somebody answered after another or after a silence.
func (f *pulse) heard(t *testing.T) []time.Time {
	t.Helper()
	f.asker.Stop()
	var out []time.Time
	text := (<-f.done).Failure
	for _, word := range strings.Fields(text) {
		_, ms, ok := strings.Cut(word, "@")
		at, err := strconv.ParseInt(ms, 10, 64)
		if !ok || err != nil {
			t.Fatalf("the asker says %q", text)
		}
		out = append(out, time.UnixMilli(at))
	}
	return out
}

// The announcing node's link is cut, as if its power were: the address answers again.
func TestDeathOfTheAnnouncingNodeIsOverInTwoSeconds(t *testing.T) {
	kills := 2
	if os.Getenv("WEFT_SOAK") != "" {
		kills = 30
	} else {
		t.Parallel()
	}
	c := start(t, cluster.Spec{Nodes: 4})
	// The backend is on a node that stays.
	if err := c.WriteObject("web", backends(t, c.Nodes[3])+lbService(1, "web", "Cluster")); err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range kills {
		a := lbAddrs(1)[i%2]
		victim := announcers(t, 1, c.Nodes...)[a]
		if victim == c.Nodes[3] { // it has the backend
			a = lbAddrs(1)[(i+1)%2]
			victim = announcers(t, 1, c.Nodes...)[a]
		}
		testnet.Until(t, 10*time.Second, func() error { return answered(c, a) })
		f := pulseOf(t, c, a)
		late := lateness()
		testnet.Until(t, 10*time.Second, func() error { return answered(c, a) })
		cut := time.Now()
		if err := c.Bridge.IP("link", "set", victim.Name, "down"); err != nil {
			t.Fatal(err)
		}
		gone := time.Now()
		// A connection that begins now is there when somebody else has taken over.
		testnet.Until(t, 20*time.Second, func() error { return answered(c, a) })
		over := time.Now()
		if err := c.Bridge.IP("link", "set", victim.Name, "up"); err != nil {
			t.Fatal(err)
		}
		spare := late()
		back := time.Time{}
		for _, at := range f.heard(t) {
			if at.After(cut) && back.IsZero() {
				back = at
			}
		}
		if back.IsZero() { // the silence was too short to be told
			back = cut.Add(200 * time.Millisecond)
		}
		took = append(took, back.Sub(cut))
		t.Logf("%s: link of %s cut, back after %s (new connection after %s; the machine was late by %s)",
			a, victim.Name, back.Sub(cut), over.Sub(gone), spare)
		if limit := 2*time.Second + spare; back.Sub(gone) > limit {
			t.Errorf("%s was without an announcer for %s, want at most %s", a, back.Sub(gone), limit)
		}
	}
	slices.Sort(took)
	t.Logf("%d kills: median %s, 90 of 100 within %s, worst %s; all: %v",
		len(took), took[len(took)/2], took[len(took)*9/10], took[len(took)-1], took)
}

// A node whose daemon stays dead stops to announce by itself, and others begin.
func TestAddressesOfANodeWithoutADaemonMove(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 3})
	if err := c.WriteObject("web", backends(t, c.Nodes...)+lbService(1, "web", "Cluster")); err != nil {
		t.Fatal(err)
	}
	a := lbAddrs(1)[0]
	n := announcers(t, 1, c.Nodes...)[a]
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	var rest []*cluster.Node
	for _, x := range c.Nodes {
		if x != n {
			rest = append(rest, x)
		}
	}
	testnet.Until(t, 40*time.Second, func() error {
		for _, x := range rest {
			s, err := x.Client().Status(t.Context())
			if err != nil {
				return err
			}
			if !slices.Contains(s.Announce.Dead, n.Name) && s.Announce.Own < 2 {
				continue
			}
			mac, err := neighbour(c, a)
			if err == nil && mac == macOf(t, x.NS) {
				return nil
			}
			if err := c.Outside.IP("neigh", "flush", "to", a.String(), "dev", "eth0"); err != nil {
				return err
			}
			if err := answered(c, a); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s is not announced by one of the others", a)
	})
	restart(t, n)
	if by := announcers(t, 1, c.Nodes...)[a]; by != n {
		t.Errorf("%s is announced by %s after the return of %s", a, by.Name, n.Name)
	}
}
