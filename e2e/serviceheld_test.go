package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// held is connections through Services, and what became of them.
type held struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	turns   atomic.Int64 // there and back, on TCP
	sent    atomic.Int64 // datagrams
	lost    atomic.Int64
	mu      sync.Mutex
	failure []error
	losses  []string // of datagrams: whose, how many, and when it was silent for longest
}

func (h *held) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failure = append(h.failure, err)
}

// failed is what became of the connections that did not live on.
func (h *held) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.failure...)
}

// tcp opens a connection and says something on it ten times a second.
func (h *held) tcp(t *testing.T, ns *testnet.NS, to netip.AddrPort) {
	t.Helper()
	h.tcpFrom(t, ns, netip.AddrPort{}, to)
}

// tcpFrom is the same from an address and a port.
func (h *held) tcpFrom(t *testing.T, ns *testnet.NS, from, to netip.AddrPort) {
	t.Helper()
	conn, err := traffic.DialFrom(ns, "tcp", from, to, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	h.wg.Go(func() {
		defer conn.Close()
		name := make([]byte, len("backend\n"))
		if _, err := io.ReadFull(conn, name); err != nil {
			h.fail(fmt.Errorf("%s: %w", to, err))
			return
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		var b [1]byte
		for {
			select {
			case <-h.stop:
				return
			case <-tick.C:
			}
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := conn.Write(b[:])
			if err == nil {
				_, err = io.ReadFull(conn, b[:])
			}
			if err != nil {
				h.fail(fmt.Errorf("%s, after %d turns of all: %w", to, h.turns.Load(), err))
				return
			}
			h.turns.Add(1)
		}
	})
}

// udp asks 100 times a second on one socket. A late answer is not a lost one; none in the last
// second is a failure.
func (h *held) udp(t *testing.T, ns *testnet.NS, to netip.AddrPort) {
	t.Helper()
	conn, err := traffic.Dial(ns, "udp", to, time.Second)
	if err == nil {
		err = testnet.Roomy(conn.(*net.UDPConn))
	}
	if err != nil {
		t.Fatal(err)
	}
	var heard, last atomic.Int64
	var silence time.Duration // the longest, which ended at
	var heardAgain time.Time
	var listening sync.WaitGroup
	listening.Go(func() {
		b := make([]byte, 64)
		for {
			_, err := conn.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				h.fail(fmt.Errorf("UDP to %s: %w", to, err))
				continue
			}
			now := time.Now()
			if before := last.Swap(now.UnixNano()); heard.Add(1) > 1 && now.Sub(time.Unix(0, before)) > silence {
				silence, heardAgain = now.Sub(time.Unix(0, before)), now
			}
		}
	})
	h.wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		sent := int64(0)
		for on := true; on; {
			select {
			case <-h.stop:
				on = false
			case <-tick.C:
				if _, err := conn.Write([]byte("?")); err == nil {
					sent++
				}
			}
		}
		ended := time.Now()
		for until := ended.Add(2 * time.Second); heard.Load() < sent && time.Now().Before(until); {
			time.Sleep(10 * time.Millisecond)
		}
		if silent := ended.Sub(time.Unix(0, last.Load())); silent > time.Second {
			h.fail(fmt.Errorf("UDP from %s in %s to %s: no answer in the last %s of %d questions", conn.LocalAddr(), ns.Name, to, silent, sent))
		}
		conn.Close()
		listening.Wait()
		h.sent.Add(sent)
		if lost := sent - heard.Load(); lost != 0 {
			h.lost.Add(lost)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.losses = append(h.losses, fmt.Sprintf("UDP from %s in %s to %s: lost %d of %d; silent for %s until %s",
				conn.LocalAddr(), ns.Name, to, lost, sent, silence, heardAgain.UTC().Format(time.RFC3339Nano)))
		}
	})
}
