package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// listener counts what comes into a namespace for a port, from before there is a device.
type listener struct {
	datagrams, syns, segments atomic.Int64 // segments: of TCP, without SYN
}

func listenTo(t *testing.T, ns *testnet.NS, port uint16) *listener {
	t.Helper()
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 2048)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype == unix.PACKET_HOST {
				l.note(b[:n], port)
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		unix.Close(fd)
	})
	return l
}

// all is what was counted; empty if nothing was.
func (l *listener) all() string {
	d, y, o := l.datagrams.Load(), l.syns.Load(), l.segments.Load()
	if d+y+o == 0 {
		return ""
	}
	return fmt.Sprintf("%d datagrams, %d SYNs and %d other segments", d, y, o)
}

func (l *listener) forget() {
	l.datagrams.Store(0)
	l.syns.Store(0)
	l.segments.Store(0)
}

func (l *listener) note(p []byte, port uint16) {
	var proto byte
	switch {
	case len(p) >= 40 && p[0]>>4 == 4:
		proto, p = p[9], p[20:]
	case len(p) >= 60 && p[0]>>4 == 6:
		proto, p = p[6], p[40:]
	}
	if len(p) < 20 && proto == unix.IPPROTO_TCP || len(p) < 8 || binary.BigEndian.Uint16(p[2:]) != port {
		return
	}
	switch {
	case proto == unix.IPPROTO_UDP:
		l.datagrams.Add(1)
	case proto == unix.IPPROTO_TCP && p[13]&2 != 0:
		l.syns.Add(1)
	case proto == unix.IPPROTO_TCP:
		l.segments.Add(1)
	}
}

// P10 through Services: a pod that gets the address of a backend that is gone, and is none
// itself, gets nothing of what clients send from tuples that were the former's. They are
// on both nodes and outside. An address usually rests for a while; given out again at once,
// it is left alone as soon as all nodes know, within a second.
func TestReusedAddressGetsNothingOfTheFormer(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	n := c.Nodes[0]
	text := serviceYAML("web", "web", "Cluster", 20, 30090) +
		podObject("old", "node-1", "web", "") + podObject("next", "node-1", "web", "") + podObject("stranger", "node-1", "other", "")
	if err := c.WriteObject("web", text); err != nil {
		t.Fatal(err)
	}
	old := addPod(t, n, "old")
	serveNamed(t, old)
	near, far := addPod(t, n, "near"), addPod(t, c.Nodes[1], "far")
	for _, n := range c.Nodes {
		waitBackends(t, n, "default/web", 1)
	}

	places := []struct {
		ns *testnet.NS
		to string
	}{
		{near.NS, "10.96.0.20:80"}, {near.NS, "[fd00:96::20]:80"}, {far.NS, "10.96.0.20:80"}, {far.NS, "[fd00:96::20]:80"},
		{c.Outside, "172.18.0.1:30090"}, {c.Outside, "172.18.0.2:30090"}, {c.Outside, "[fd18::1]:30090"}, {c.Outside, "[fd18::2]:30090"},
	}
	var pinned []*asking
	for _, p := range places {
		pinned = append(pinned, askOf(t, p.ns, netip.MustParseAddrPort(p.to), old.Name))
	}
	defer func() {
		for _, a := range pinned {
			a.close()
		}
	}()
	// connect opens connections that write all the time, and returns how to wait for
	// their end.
	connect := func() (ended func()) {
		ends := make(chan string, len(places))
		for _, p := range places {
			conn, err := traffic.Dial(p.ns, "tcp", netip.MustParseAddrPort(p.to), 3*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			go writeUntilEnd(conn, p.to, ends)
		}
		return func() {
			t.Helper()
			for range places {
				select {
				case <-ends:
				case <-time.After(10 * time.Second):
					t.Fatal("a connection of the former pod goes on")
				}
			}
		}
	}
	// follow puts another pod in the place of one.
	follow := func(former *cluster.Pod, name string, known bool) (*cluster.Pod, *listener) {
		t.Helper()
		p, err := n.NewPod(name)
		if err != nil {
			t.Fatal(err)
		}
		p.Capabilities = map[string]any{"ips": []any{former.IP4.String() + "/32", former.IP6.String() + "/128"}}
		l := listenTo(t, p.NS, 8080)
		del(t, former)
		for _, n := range c.Nodes {
			if known {
				waitBackends(t, n, "default/web", 0)
			}
		}
		if err := p.Add(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.IP4 != former.IP4 || p.IP6 != former.IP6 {
			t.Fatalf("%s has %s and %s, want those of %s: %s and %s", name, p.IP4, p.IP6, former.Name, former.IP4, former.IP6)
		}
		serveNamed(t, p)
		return p, l
	}
	while := func(d time.Duration) { // the clients ask; that is the test
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}

	ended := connect()
	stranger, heard := follow(old, "stranger", true)
	ended()
	while(time.Second)
	if got := heard.all(); got != "" {
		t.Errorf("a pod of no Service got of the former's %s", got)
	}

	next, _ := follow(stranger, "next", true)
	testnet.Until(t, 10*time.Second, func() error {
		for _, a := range pinned {
			if h, ok := a.last(); !ok || h.who != next.Name {
				return fmt.Errorf("%s: the last answer is of %q", a.name, h.who)
			}
		}
		return nil
	})
	ended = connect()
	_, heard = follow(next, "stranger-2", false)
	ended()
	while(goneWithin)
	heard.forget()
	while(time.Second)
	if got := heard.all(); got != "" {
		t.Errorf("later than %s after its ADD a pod of no Service got of the former's %s", goneWithin, got)
	}
}
