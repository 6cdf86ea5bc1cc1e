package e2e

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// P14: of a flood of drops each is counted, some are recorded, how many are not is said,
// and the daemon has little to do.
func TestFloodOfDropsIsCountedAndCheap(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	if err := c.WriteObject("policy", np("shop/none", "podSelector: {}, policyTypes: [Egress]")); err != nil {
		t.Fatal(err)
	}
	pod := shopPod(t, c, n, "flood")
	dropped := func() (sum uint64) {
		s, err := n.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range s.Counters {
			if k.Kind == "drop" && k.Reason == "policy-egress" {
				sum = k.Count
			}
		}
		return sum
	}
	var conn net.Conn
	err := pod.NS.Do(func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(cluster.Outside4.String(), "9"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testnet.Until(t, 10*time.Second, func() error { // it is in force
		before := dropped()
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		if dropped() == before {
			return fmt.Errorf("nothing is dropped")
		}
		return nil
	})
	flood := func() (sent uint64, rate, share float64) {
		t.Helper()
		before := dropped()
		cpu, err := n.CPUTime()
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for time.Since(begin) < 3*time.Second {
			for range 64 {
				if _, err := conn.Write([]byte("x")); err == nil {
					sent++
				}
			}
		}
		took := time.Since(begin)
		after, err := n.CPUTime()
		if err != nil {
			t.Fatal(err)
		}
		if got := dropped() - before; got != sent {
			t.Errorf("%d drops counted, want %d", got, sent)
		}
		return sent, float64(sent) / took.Seconds(), 100 * (after - cpu).Seconds() / took.Seconds()
	}
	_, rate, share := flood()
	t.Logf("%.0f drops/s; the daemon used %.1f %% of a core", rate, share)
	if rate < 20_000 {
		t.Errorf("%.0f drops/s prove too little", rate)
	}
	if share > 5 {
		t.Errorf("the daemon used %.1f %% of a core, want 5 %% at most", share)
	}

	// The same while somebody watches.
	var told, leftOut atomic.Uint64
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		n.Client().WatchDrops(ctx, func(d api.Drop) error {
			leftOut.Add(d.LeftOut)
			if d.Reason == "policy-egress" {
				told.Add(1)
			}
			return nil
		})
	}()
	defer func() { cancel(); <-watching }()
	testnet.Until(t, 5*time.Second, func() error { // it watches
		_, err := conn.Write([]byte("x"))
		if err == nil && told.Load() == 0 {
			err = fmt.Errorf("no record yet")
		}
		return err
	})
	settled := func() uint64 {
		last := told.Load()
		testnet.Until(t, 5*time.Second, func() error {
			if now := told.Load(); now != last {
				last = now
				return fmt.Errorf("records come")
			}
			return nil
		})
		return last + leftOut.Load()
	}
	recorded := settled()
	sent, rate, share := flood()
	// What was left out is said with the next record.
	testnet.Until(t, 10*time.Second, func() error {
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		sent++
		if got := told.Load() + leftOut.Load() - recorded; got < sent-2 || got > sent {
			return fmt.Errorf("%d records and %d left out since, want %d in all", told.Load(), leftOut.Load(), sent)
		}
		return nil
	})
	t.Logf("%.0f drops/s, of which %d were recorded; the daemon, which is watched, used %.1f %% of a core", rate, told.Load(), share)
}
