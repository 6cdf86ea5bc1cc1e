package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// What a limited pod may receive and send, in bits per second.
const (
	limitIn  = 80e6
	limitOut = 40e6
	burst    = 4e6
)

// Limits hold in both directions, wherever the other end is and whatever the family,
// and nobody else is limited.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	limited, err := c.Nodes[0].NewPod("limited")
	if err != nil {
		t.Fatal(err)
	}
	limited.Capabilities = map[string]any{"bandwidth": map[string]any{
		"ingressRate": int(limitIn), "ingressBurst": int(burst), "egressRate": int(limitOut), "egressBurst": int(burst),
	}}
	if err := limited.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	near, far, free := addPod(t, c.Nodes[0], "near"), addPod(t, c.Nodes[1], "far"), addPod(t, c.Nodes[0], "free")
	host := c.Nodes[0].NS
	for i := range limited.Addrs() {
		for _, tt := range []struct {
			name     string
			from, to *testnet.NS
			addr     netip.Addr
			want     float64
		}{
			{"in, same node", near.NS, limited.NS, limited.Addrs()[i], limitIn},
			{"in, other node", far.NS, limited.NS, limited.Addrs()[i], limitIn},
			{"in, from the host", host, limited.NS, limited.Addrs()[i], limitIn},
			{"out, same node", limited.NS, near.NS, near.Addrs()[i], limitOut},
			{"out, other node", limited.NS, far.NS, far.Addrs()[i], limitOut},
		} {
			got, err := rateOf(tt.from, tt.to, tt.addr, 0.8*tt.want)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			t.Logf("%s, %s: %.1f Mbit/s of %.0f", tt.name, tt.addr, got/1e6, tt.want/1e6)
			if math.Abs(got-tt.want) > 0.2*tt.want {
				t.Errorf("%s, %s: got %.1f Mbit/s, want %.0f", tt.name, tt.addr, got/1e6, tt.want/1e6)
			}
		}
		for _, to := range []*cluster.Pod{near, far} {
			got, err := rateOf(free.NS, to.NS, to.Addrs()[i], 5*limitIn)
			if err != nil || got < 5*limitIn {
				t.Errorf("without a limit, to %s: got %.1f Mbit/s, %v", to.Name, got/1e6, err)
			}
		}
	}
}

// rateOf is [rate], measured again while it is less than expected: other tests run beside, and
// what the machine has no time for is nobody's limit.
func rateOf(from, to *testnet.NS, addr netip.Addr, least float64) (got float64, err error) {
	for range 5 {
		if got, err = rate(from, to, addr); err != nil || got >= least {
			break
		}
	}
	return got, err
}

// rate is what one TCP connection carries from one namespace to another, in bits per
// second of payload and headers, after the burst is used up.
func rate(from, to *testnet.NS, addr netip.Addr) (float64, error) {
	var l *net.TCPListener
	err := to.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: addr.AsSlice()})
		return err
	})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	conn, err := traffic.Dial(from, "tcp", l.Addr().(*net.TCPAddr).AddrPort(), 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	in, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	go io.Copy(conn, zeros{}) // until it is closed
	const settle, measure = 200 * time.Millisecond, 800 * time.Millisecond
	if _, err := drainFor(in, settle); err != nil {
		return 0, err
	}
	begin := time.Now()
	n, err := drainFor(in, measure)
	if err != nil {
		return 0, err
	}
	const headers = 1450.0 / 1398 // of full packets
	return float64(n) * 8 * headers / time.Since(begin).Seconds(), nil
}

// drainFor reads for a while and returns how much came.
func drainFor(conn net.Conn, d time.Duration) (n int64, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	n, err = io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return n, nil
	}
	return n, fmt.Errorf("connection ended: %v", err)
}
