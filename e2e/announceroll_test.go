package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// steady asks an address from outside, on a new connection each time, at a steady pace.
type steady struct {
	at   netip.Addr
	stop chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex
	all  int
	slow []asked // those that took longer than promptly, and those that failed
}

// asked is one request.
type asked struct {
	began time.Time
	took  time.Duration
	err   error
}

const (
	pace     = 40 * time.Millisecond
	promptly = 500 * time.Millisecond
)

func askSteadily(c *cluster.Cluster, at netip.Addr) *steady {
	s := &steady{at: at, stop: make(chan struct{})}
	s.wg.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			s.wg.Go(func() { s.add(request(c, at)) })
		}
	})
	return s
}

func request(c *cluster.Cluster, at netip.Addr) asked {
	const patience = 10 * time.Second
	r := asked{began: time.Now()}
	conn, err := traffic.Dial(c.Outside, "tcp", netip.AddrPortFrom(at, 80), patience)
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(r.began.Add(patience))
		_, err = bufio.NewReader(conn).ReadString('\n')
	}
	r.took, r.err = time.Since(r.began), err
	return r
}

func (s *steady) add(r asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all++
	if r.err != nil || r.took > promptly {
		s.slow = append(s.slow, r)
	}
}

func (s *steady) end() {
	close(s.stop)
	s.wg.Wait()
}

// Every node of a cluster goes and comes back, one after the other, as when all are
// upgraded: its pods are drained, its daemon ends, its link is cut. With DSR no request fails.
// What begins later than two seconds after a cut (see takeover) is answered promptly, or at
// most after its client has repeated one packet. With SNAT those fail that are under way when
// an address moves, by a reset.
func TestARollOfAllNodesLosesNoRequest(t *testing.T) {
	if os.Getenv("WEFT_SOAK") == "" {
		t.Parallel()
	}
	c := start(t, cluster.Spec{Nodes: 3})
	const each = 6 // 1 … 6 with DSR, 7 … 12 with SNAT
	services := ""
	for i := 1; i <= each; i++ {
		services += forwarded(lbService(i, "web", "Cluster"), "dsr") + forwarded(lbService(each+i, "web", "Cluster"), "snat")
	}
	r := &roll{t: t, c: c, services: services, states: map[*cluster.Node]string{}, pods: map[*cluster.Node]*cluster.Pod{}}
	for _, n := range c.Nodes {
		r.fill(n)
	}
	of := announcers(t, 2*each, c.Nodes...)
	r.serving(len(c.Nodes))

	clients := map[string][]*steady{}
	for way, first := range map[string]int{"dsr": 1, "snat": each + 1} {
		for _, n := range c.Nodes { // for each node an address that it announces, of either family
			for i := range 2 {
				a := announcedOf(of, n, first, each, i)
				if !a.IsValid() {
					t.Fatalf("%s announces no address with %s of family %d: %v", n.Name, way, i, of)
				}
				clients[way] = append(clients[way], askSteadily(c, a))
			}
		}
	}
	late := lateness()
	var cuts []time.Time
	for _, n := range c.Nodes {
		r.drain(n)
		if err := errors.Join(n.Stop(syscall.SIGTERM), c.Bridge.IP("link", "set", n.Name, "down")); err != nil {
			t.Fatal(err)
		}
		cuts = append(cuts, time.Now())
		announcers(t, 2*each, slices.DeleteFunc(slices.Clone(c.Nodes), func(x *cluster.Node) bool { return x == n })...)
		if err := c.Bridge.IP("link", "set", n.Name, "up"); err != nil {
			t.Fatal(err)
		}
		restart(t, n)
		back := time.Now()
		r.fill(n)
		announcers(t, 2*each, c.Nodes...)
		r.serving(len(c.Nodes))
		// A daemon takes nothing over in its first three seconds.
		select {
		case <-time.After(time.Until(back.Add(3 * time.Second))):
		case <-t.Context().Done():
		}
	}
	spare := late()
	for way, all := range clients {
		for _, s := range all {
			s.end()
		}
		judge(t, way, all, cuts, spare)
	}
}

// judge looks at what was not answered promptly.
func judge(t *testing.T, way string, all []*steady, cuts []time.Time, spare time.Duration) {
	t.Helper()
	requests, failed, repeated := 0, 0, 0
	waited := make([]time.Duration, len(cuts)) // after each cut, until no request had to wait
	for _, s := range all {
		requests += s.all
		if s.all < 100 {
			t.Errorf("%s: %d requests are too few to prove anything", s.at, s.all)
		}
		for _, r := range s.slow {
			if r.err != nil {
				failed++
				if way == "dsr" || !errors.Is(r.err, syscall.ECONNRESET) {
					t.Errorf("%s, with %s: a request failed after %s: %v", s.at, way, r.took, r.err)
				}
				continue
			}
			i := -1 // the last cut that may be why
			for k, cut := range cuts {
				if r.began.Add(r.took).After(cut) && r.began.Before(cut.Add(takeover()+spare)) {
					i = k
				}
			}
			if i >= 0 {
				waited[i] = max(waited[i], r.began.Sub(cuts[i]))
				continue
			}
			repeated++
			if r.took > time.Second+promptly+spare { // RFC 6298: a SYN is sent again after a second
				t.Errorf("%s, with %s: a request took %s that was no cut's", s.at, way, r.took)
			}
		}
	}
	t.Logf("with %s: %d requests, %d failed; the last to wait for more than %s began %s after its cut, %d at other times (the machine was late by %s)",
		way, requests, failed, promptly, waited, repeated, spare)
}

// roll is the cluster that is rolled: a backend on each node.
type roll struct {
	t        *testing.T
	c        *cluster.Cluster
	services string
	states   map[*cluster.Node]string // of its backend's object; empty: there is none
	pods     map[*cluster.Node]*cluster.Pod
}

func (r *roll) write() {
	r.t.Helper()
	text := r.services
	for i, n := range r.c.Nodes {
		if meta, ok := r.states[n]; ok {
			text += podObject(fmt.Sprintf("back-%d", i+1), n.Name, "web", meta)
		}
	}
	if err := r.c.WriteObject("web", text); err != nil {
		r.t.Fatal(err)
	}
}

// fill makes the backend of a node; it is ready.
func (r *roll) fill(n *cluster.Node) {
	r.t.Helper()
	r.pods[n] = addPod(r.t, n, fmt.Sprintf("back-%d", n.Number))
	serveNamed(r.t, r.pods[n])
	r.states[n] = ""
	r.write()
}

// drain ends the backend of a node as an eviction does: it terminates, no node gives it
// anything new, what is open ends, and it goes.
func (r *roll) drain(n *cluster.Node) {
	r.t.Helper()
	r.states[n] = `, deletionTimestamp: "2026-01-01T00:00:00Z"`
	r.write()
	r.serving(len(r.c.Nodes) - 1)
	select {
	case <-time.After(300 * time.Millisecond): // its grace
	case <-r.t.Context().Done():
	}
	delete(r.states, n)
	r.write()
	if err := r.pods[n].Del(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// serving waits until all nodes have so many ready backends.
func (r *roll) serving(want int) {
	r.t.Helper()
	for _, n := range r.c.Nodes {
		testnet.Until(r.t, 10*time.Second, func() error {
			list, err := n.Client().Services(r.t.Context(), "")
			if err != nil {
				return err
			}
			for _, f := range fronts(list) {
				if f.Ready != want {
					return fmt.Errorf("%s: %d of %d ready at %s, want %d", n.Name, f.Ready, f.Total, f.Addr, want)
				}
			}
			return nil
		})
	}
}
