package e2e

import (
	"errors"
	"fmt"
	"net"
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

// pulse asks an address from outside every few milliseconds by UDP, on one socket.
type pulse struct {
	conn net.Conn
	wg   sync.WaitGroup

	mu      sync.Mutex
	last    time.Time // answer; zero: none yet
	longest time.Duration
}

// pulseOf returns when the first answer has come.
func pulseOf(t *testing.T, c *cluster.Cluster, a netip.Addr) *pulse {
	t.Helper()
	conn, err := traffic.Dial(c.Outside, "udp", netip.AddrPortFrom(a, 80), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	p := &pulse{conn: conn}
	p.wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := conn.Write([]byte("?")); errors.Is(err, net.ErrClosed) {
				return
			} // it may be refused for a while
		}
	})
	p.wg.Go(func() {
		b := make([]byte, 64)
		for {
			if _, err := conn.Read(b); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				p.beat()
			}
		}
	})
	t.Cleanup(func() { p.stop() })
	testnet.Until(t, 10*time.Second, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.last.IsZero() {
			return fmt.Errorf("no answer from %s", a)
		}
		return nil
	})
	return p
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.last.IsZero() {
		p.longest = max(p.longest, now.Sub(p.last))
	}
	p.last = now
}

// since waits until there was an answer after a time.
func (p *pulse) since(t *testing.T, at time.Time) {
	t.Helper()
	testnet.Until(t, 20*time.Second, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.last.After(at) {
			return errors.New("no answer yet")
		}
		return nil
	})
}

// stop returns the longest silence, that until now among them.
func (p *pulse) stop() time.Duration {
	p.conn.Close()
	p.wg.Wait()
	return max(p.longest, time.Since(p.last))
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
	text := backends(t, c.Nodes[3])
	const services = 5
	for i := 1; i <= services; i++ {
		text += lbService(i, "web", "Cluster")
	}
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range kills {
		var a netip.Addr // of either family in turn
		of := announcers(t, services, c.Nodes...)
		for k := 1; k <= services && (!a.IsValid() || of[a] == c.Nodes[3]); k++ {
			a = lbAddrs(k)[i%2]
		}
		victim := of[a]
		if victim == c.Nodes[3] {
			t.Fatalf("the node with the backend announces all addresses of a family: %v", of)
		}
		reachedThrough(t, c, a, victim)
		p := pulseOf(t, c, a)
		late := lateness()
		cut := time.Now()
		if err := c.Bridge.IP("link", "set", victim.Name, "down"); err != nil {
			t.Fatal(err)
		}
		gone := time.Now()
		// Not before: until then the answers came by the node's link.
		p.since(t, gone.Add(50*time.Millisecond))
		silence, spare := p.stop(), late()
		if err := c.Bridge.IP("link", "set", victim.Name, "up"); err != nil {
			t.Fatal(err)
		}
		took = append(took, silence)
		t.Logf("%s: link of %s cut within %s, silence of %s (the machine was late by %s)", a, victim.Name, gone.Sub(cut), silence, spare)
		if limit := 2*time.Second + spare; silence > limit {
			t.Errorf("%s did not answer for %s, want at most %s", a, silence, limit)
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
