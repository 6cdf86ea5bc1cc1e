package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// follower is a client of UDP that never changes its socket, and what it heard.
type follower struct {
	name   string
	door   string // of a host port: whose answers it gets at first
	asking *asking
	told   func() string // by an asker of its own
	heard  []heard
}

// turn is a change of who is to answer.
type turn struct {
	what      string
	began, at time.Time // of what changes it, and when that was done
	want      string
	dead      string // who must not answer any more
}

// stale is a cluster with followers on every node and outside.
type stale struct {
	*testing.T
	c     *cluster.Cluster
	all   []*follower
	stops []func()
	want  map[string]int  // what rows says while all are served
	left  map[string]bool // what there may be besides: see mayMeet
}

// ask makes a follower that asks from here, and whose packets that node translates.
func (s *stale) ask(name, door string, n *cluster.Node, ns *testnet.NS, to string) {
	s.Helper()
	conn, err := traffic.Dial(ns, "udp", netip.MustParseAddrPort(to), time.Second)
	if err != nil {
		s.Fatal(err)
	}
	a := &asking{name: to, conn: conn, stop: make(chan struct{})}
	a.wg.Go(a.listen)
	a.wg.Go(a.ask)
	s.all = append(s.all, &follower{name: name + " to " + to, door: door, asking: a})
	for _, way := range []string{"asks", "is answered by"} {
		s.want[fmt.Sprintf("%s: %s %s %s", n.Name, conn.LocalAddr(), way, to)] = 1
	}
}

// mayMeet says that a pod follows a place by a socket that is not connected. What that sends is
// translated in it, but a datagram that leaves it while there is no Service may meet that on its way
// when it is made again, and begins a flow. The socket's next one goes to the backend itself and takes
// the tuple of the answers from that flow (bpf/src/direct.h). One row is left, as of a new flow, until
// others need its place (bpf's TestPartedFlowMakesRoom).
func (s *stale) mayMeet(n *cluster.Node, p *cluster.Pod, to string) {
	for _, addr := range p.Addrs() {
		s.left[fmt.Sprintf("%s: %s asks %s", n.Name, addr, to)] = true
	}
}

// follow makes one that is a process of a node, with a socket that is not connected.
func (s *stale) follow(name string, n *cluster.Node, ns *testnet.NS, to string) {
	s.Helper()
	k, err := n.Asker(ns, true)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(k.Close)
	f := &follower{name: name + " to " + to}
	done := make(chan string, 1)
	go func() { done <- k.Ask(cluster.Follow, netip.MustParseAddrPort(to), 5*time.Minute).Failure }()
	f.told = func() string { return <-done }
	s.stops = append(s.stops, k.Stop)
	s.all = append(s.all, f)
}

// hear waits until those who ask from here have an answer of that name, sent since then.
func (s *stale) hear(since time.Time, what, want string) {
	s.Helper()
	testnet.Until(s, 20*time.Second, func() error {
		for _, f := range s.all {
			if f.asking == nil || (f.door != "") != (want == "") {
				continue
			}
			want := want
			if want == "" {
				want = what + f.door
			}
			if h, ok := f.asking.last(); !ok || h.who != want || h.at.Before(since) {
				return fmt.Errorf("%s: the last answer is %q of %s, want one of %s", f.name, h.who, h.at, want)
			}
		}
		return nil
	})
}

func (a *asking) last() (h heard, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.heard) == 0 {
		return h, false
	}
	return a.heard[len(a.heard)-1], true
}

// finish stops all and collects what they heard.
func (s *stale) finish() {
	s.Helper()
	for _, stop := range s.stops {
		stop()
	}
	for _, f := range s.all {
		if f.asking != nil {
			f.heard = f.asking.close()
			continue
		}
		f.heard = heardOf(s.T, f.told())
	}
}

// heardOf is what an asker that followed tells.
func heardOf(t *testing.T, told string) (all []heard) {
	t.Helper()
	for _, word := range strings.Fields(told) {
		who, at, _ := strings.Cut(word, "@")
		var ms int64
		if _, err := fmt.Sscan(at, &ms); err != nil {
			t.Fatalf("%q is not who answered when: %v", word, err)
		}
		all = append(all, heard{who, time.UnixMilli(ms)})
	}
	return all
}

// check compares what a follower heard with the turns.
func (f *follower) check(t *testing.T, turns []turn) {
	t.Helper()
	for _, turn := range turns {
		var first time.Time
		for _, h := range f.heard {
			if first.IsZero() && h.who == turn.want && h.at.After(turn.began) {
				first = h.at
			}
			if turn.dead != "" && h.who == turn.dead && h.at.After(turn.at.Add(goneWithin)) {
				t.Errorf("%s: %s: %s answered %s later", f.name, turn.what, turn.dead, h.at.Sub(turn.at))
				break
			}
		}
		if took := first.Sub(turn.at); first.IsZero() || took > goneWithin {
			t.Errorf("%s: %s: %s answers first after %s (%d answers in all)", f.name, turn.what, turn.want, took, len(f.heard))
		}
	}
}

// P5, on every node at once: clients of UDP that never change their sockets, and ask a
// thousand times a second through ClusterIP, node ports and host ports, are answered by
// what is there now, within a second: when a backend is killed, when another comes after
// there was none, and when the Service was deleted and made again with its address. The
// rows return to what they were: two for each who is translated packet by packet.
func TestDatagramsFollowTheService(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	s := &stale{T: t, c: c, left: map[string]bool{}}
	s.want = s.rows()
	nothing := rowsOf(t, c, append(serviceMaps, flowMaps...)...)
	pods := podObject("one", "node-1", "web", "") + podObject("two", "node-2", "web", "") + podObject("three", "node-1", "web", "")
	write := func(text string) {
		t.Helper()
		if err := c.WriteObject("web", text); err != nil {
			t.Fatal(err)
		}
	}
	service := serviceYAML("web", "web", "Cluster", 20, 30090)
	write(pods + service)
	live := map[string]*cluster.Pod{}
	up := func(node int, name string) {
		t.Helper()
		live[name] = addPod(t, c.Nodes[node], name)
		serveNamed(t, live[name])
	}
	door := func(node int, name string) {
		t.Helper()
		p, err := c.Nodes[node].NewPod(name)
		if err != nil {
			t.Fatal(err)
		}
		p.Capabilities = map[string]any{"portMappings": []any{map[string]any{"hostPort": 8053, "containerPort": 8080, "protocol": "udp"}}}
		if err := p.Add(t.Context()); err != nil {
			t.Fatal(err)
		}
		live[name] = p
		serveNamed(t, p)
	}
	down := func(name string) {
		t.Helper()
		if err := live[name].Del(t.Context()); err != nil {
			t.Fatal(err)
		}
		delete(live, name)
	}

	up(0, "one")
	var clients []*cluster.Pod
	for i, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
		door(i, fmt.Sprint("old-", i+1))
		p := addPod(t, n, fmt.Sprint("client-", i+1))
		clients = append(clients, p)
		s.ask(p.Name, "", n, p.NS, "10.96.0.20:80")
		s.ask(p.Name, "", n, p.NS, "[fd00:96::20]:80")
		s.follow(p.Name+", socket", n, p.NS, "10.96.0.20:80")
		s.mayMeet(n, p, "10.96.0.20:80")
		s.follow(n.Name, n, n.NS, "[fd00:96::20]:80")
		a4, a6 := n.Addrs[0], n.Addrs[1]
		s.ask("outside", "", n, c.Outside, netip.AddrPortFrom(a4, 30090).String())
		s.ask("outside", "", n, c.Outside, netip.AddrPortFrom(a6, 30090).String())
		s.ask("outside", fmt.Sprint("-", i+1), n, c.Outside, netip.AddrPortFrom(a4, 8053).String())
		s.ask("outside", fmt.Sprint("-", i+1), n, c.Outside, netip.AddrPortFrom(a6, 8053).String())
		s.ask(p.Name, fmt.Sprint("-", i+1), n, p.NS, netip.AddrPortFrom(a4, 8053).String())
	}
	s.hear(time.Now(), "at first", "one")
	s.hear(time.Now(), "old", "")
	s.settled()

	var turns []turn
	up(1, "two")
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 2)
	}
	change := func(what, want, dead string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		turns = append(turns, turn{what, began, time.Now(), want, dead})
		s.hear(time.Now(), what, want)
	}
	change("a backend is killed", "two", "one", func() { down("one") })
	down("two")
	s.silent()
	change("from none to one", "three", "two", func() { up(0, "three") })
	write(pods)
	s.silent()
	change("the Service is made again", "three", "", func() { write(pods + service) })

	doors := map[string][]turn{}
	for i := range c.Nodes {
		number := fmt.Sprint("-", i+1)
		began := time.Now()
		down("old" + number)
		door(i, "new"+number)
		doors[number] = []turn{{"another pod has the host port", began, time.Now(), "new" + number, "old" + number}}
	}
	s.hear(time.Now(), "new", "")

	s.settled()
	s.finish()
	for _, f := range s.all {
		if f.door != "" {
			f.check(t, doors[f.door])
		} else {
			f.check(t, turns)
		}
	}
	if err := c.DeleteObject("web"); err != nil {
		t.Fatal(err)
	}
	for name := range live {
		down(name)
	}
	for _, p := range clients {
		if err := p.Del(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Until(t, 10*time.Second, func() error {
		rows := rowsOf(t, c, append(serviceMaps, "sockets")...)
		for name, n := range rows {
			if n != nothing[name] {
				return fmt.Errorf("map %s has %d rows, had %d", name, n, nothing[name])
			}
		}
		return nil
	})
}

// settled waits until there are the rows of all who ask packet by packet, and no others.
func (s *stale) settled() {
	s.Helper()
	testnet.Until(s, 10*time.Second, func() error {
		if diff := cmp.Diff(s.rows(), s.want); diff != "" {
			return fmt.Errorf("rows of flows (-got +want):\n%s", diff)
		}
		return nil
	})
}

// rows is how many rows there are on each node, of flows by who asks whom. (What unconnected sockets
// heard from is forgotten later: bpf's TestUselessMemoryIsForgotten.)
func (s *stale) rows() map[string]int {
	s.Helper()
	rows := rowsOf(s.T, s.c, "sockets", "affinity")
	place := func(addr, port []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addr)).Unmap(), binary.NativeEndian.Uint16(port))
	}
	for _, n := range s.c.Nodes {
		err := eachFlow(n, func(k, v []byte, flags uint32) {
			way, client, asked := "asks", place(k, k[32:]), place(k[16:], k[34:])
			if flags&flowReply != 0 {
				way, client, asked = "is answered by", place(v[16:], v[34:]), place(v, v[32:])
			}
			name := fmt.Sprintf("%s: %s %s %s", n.Name, client, way, asked)
			left := fmt.Sprintf("%s: %s asks %s", n.Name, client.Addr(), asked)
			if flags == 0 && s.left[left] && s.want[name] == 0 {
				name = left
			}
			rows[name]++
		})
		if err != nil {
			s.Fatal(err)
		}
	}
	for name := range s.left {
		if rows[name] == 1 {
			delete(rows, name)
		}
	}
	return rows
}

// silent waits until those who ask from here, but not at host ports, hear nothing any more.
func (s *stale) silent() {
	s.Helper()
	testnet.Until(s, 10*time.Second, func() error {
		for _, f := range s.all {
			if f.asking == nil || f.door != "" {
				continue
			}
			if h, _ := f.asking.last(); time.Since(h.at) < 300*time.Millisecond {
				return errors.New(f.name + " still has answers")
			}
		}
		return nil
	})
}
