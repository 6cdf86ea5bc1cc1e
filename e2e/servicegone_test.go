package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// asking is a connected UDP socket that asks every millisecond.
type asking struct {
	name string
	conn net.Conn
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	heard []heard
}

type heard struct {
	who string
	at  time.Time
}

// askOf opens sockets until one is answered by the backend of that name.
func askOf(t *testing.T, ns *testnet.NS, to netip.AddrPort, who string) *asking {
	t.Helper()
	b := make([]byte, 64)
	for range 50 {
		conn, err := traffic.Dial(ns, "udp", to, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%s does not answer: %v", to, err)
		}
		if string(b[:n]) != who {
			conn.Close()
			continue
		}
		a := &asking{name: to.String(), conn: conn, stop: make(chan struct{})}
		conn.SetReadDeadline(time.Time{})
		a.wg.Go(a.listen)
		a.wg.Go(a.ask)
		return a
	}
	t.Fatalf("no socket of 50 to %s is answered by %s", to, who)
	return nil
}

func (a *asking) ask() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-tick.C:
			a.conn.Write([]byte("?")) // it may be refused for a while
		}
	}
}

func (a *asking) listen() {
	b := make([]byte, 64)
	for {
		n, err := a.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			a.mu.Lock()
			a.heard = append(a.heard, heard{string(b[:n]), time.Now()})
			a.mu.Unlock()
		}
	}
}

func (a *asking) close() []heard {
	close(a.stop)
	a.conn.Close()
	a.wg.Wait()
	return a.heard
}

// goneWithin is how long the end of a backend may be noticed after its DEL.
const goneWithin = time.Second

// A client of UDP that never changes its socket gets to a live backend when its own has
// gone; connections to the gone one end, whether they send or only wait.
func TestTheEndOfABackend(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	text := serviceYAML("web", "web", "Cluster", 20, 30090) + serviceYAML("solo", "solo", "Cluster", 21, 30091) +
		podObject("one", "node-1", "web", "") + podObject("two", "node-2", "web", "") + podObject("only", "node-1", "solo", "")
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	one, two, only := addPod(t, c.Nodes[0], "one"), addPod(t, c.Nodes[1], "two"), addPod(t, c.Nodes[0], "only")
	for _, p := range []*cluster.Pod{one, two, only} {
		serveNamed(t, p)
	}
	client := addPod(t, c.Nodes[1], "client")
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 2)
		waitBackends(t, n, "default/solo", 1)
	}

	var all []*asking
	for _, to := range []string{"10.96.0.20:80", "[fd00:96::20]:80"} {
		all = append(all, askOf(t, client.NS, netip.MustParseAddrPort(to), "one"))
	}
	for _, to := range []string{"172.18.0.1:30090", "172.18.0.2:30090", "[fd18::1]:30090", "[fd18::2]:30090"} {
		all = append(all, askOf(t, c.Outside, netip.MustParseAddrPort(to), "one"))
	}
	ends := make(chan string, 8)
	held := 0
	for _, to := range []string{"10.96.0.21:80", "[fd00:96::21]:80", "172.18.0.2:30091", "172.18.0.1:30091"} {
		at := netip.MustParseAddrPort(to)
		ns := client.NS
		if at.Port() != 80 {
			ns = c.Outside
		}
		conn, err := traffic.Dial(ns, "tcp", at, 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		held++
		go writeUntilEnd(conn, "packets to "+to, ends)
	}
	asker, err := c.Nodes[1].Asker(client.NS, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(asker.Close)
	for _, to := range []string{"10.96.0.21:80", "[fd00:96::21]:80"} {
		held++
		go func() {
			got := asker.Ask(cluster.Hold, netip.MustParseAddrPort(to), 20*time.Second)
			ends <- fmt.Sprintf("socket to %s: %s", to, got)
		}()
	}
	testnet.Until(t, 5*time.Second, func() error { // they have begun
		select {
		case early := <-ends:
			return errors.New("ended early: " + early)
		case <-time.After(500 * time.Millisecond):
			return nil
		}
	})

	began := time.Now()
	for _, p := range []*cluster.Pod{one, only} {
		if err := p.Del(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	gone := time.Now()
	t.Logf("two DELs took %s", gone.Sub(began))
	limit := time.After(goneWithin)
	for range held {
		select {
		case end := <-ends:
			t.Logf("ended %d ms after DEL: %s", time.Since(gone).Milliseconds(), end)
		case <-limit:
			t.Fatalf("not all of %d connections ended within %s of DEL", held, goneWithin)
		}
	}
	<-time.After(2 * time.Second) // of asking
	for _, a := range all {
		var first time.Time
		late, after := 0, 0
		for _, h := range a.close() {
			switch {
			case h.who == "two" && first.IsZero():
				first = h.at
			case h.who == "one" && h.at.After(gone):
				late++
			}
			if h.who == "two" && h.at.After(gone.Add(goneWithin)) {
				after++
			}
		}
		if first.IsZero() || first.Sub(gone) > goneWithin {
			t.Errorf("%s: the live backend answers first %s after DEL", a.name, first.Sub(gone))
		}
		if late > 0 {
			t.Errorf("%s: %d answers of the dead backend", a.name, late)
		}
		if after < 100 {
			t.Errorf("%s: %d answers later than %s after DEL, want hundreds", a.name, after, goneWithin)
		}
		t.Logf("%s: live backend %d ms after DEL began, then %d answers", a.name, first.Sub(began).Milliseconds(), after)
	}
	remade(t, c, client, two)
}

// remade deletes a Service and makes it again with the same addresses.
func remade(t *testing.T, c *cluster.Cluster, client, backend *cluster.Pod) {
	t.Helper()
	asker, err := c.Nodes[1].Asker(client.NS, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(asker.Close)
	at := netip.MustParseAddrPort("10.96.0.20:80")
	answer := func() string { return asker.Ask(cluster.Name, at, 300*time.Millisecond).String() }
	pods := podObject("two", "node-2", "web", "")
	if err := c.WriteObject("web", pods); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 3*time.Second, func() error {
		if got := answer(); got == backend.Name {
			return errors.New("it still answers")
		}
		return nil
	})
	if err := c.WriteObject("web", pods+serviceYAML("web", "web", "Cluster", 20, 30090)); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, time.Second, func() error {
		if got := answer(); got != backend.Name {
			return fmt.Errorf("the Service made again: got %s, want an answer of %s", got, backend.Name)
		}
		return nil
	})
}

func writeUntilEnd(conn net.Conn, what string, ends chan<- string) {
	defer conn.Close()
	go func() {
		for {
			if _, err := conn.Write([]byte(".")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	b := make([]byte, 64)
	for {
		if _, err := conn.Read(b); err != nil {
			ends <- fmt.Sprintf("%s: %v", what, err)
			return
		}
	}
}
