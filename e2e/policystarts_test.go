package e2e

import (
	"context"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// again does something to the node's daemon again and again until the result is called,
// which returns how often.
func again(t *testing.T, do func() error) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	times := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := do(); err != nil {
				t.Error(err)
				return
			}
			times++
		}
	})
	t.Cleanup(cancel)
	return func() int {
		cancel()
		wg.Wait()
		return times
	}
}

// slow stops the daemon and lets it go on, in short turns: it runs a fifth of the time.
func (s *starts) slow() error {
	for _, turn := range []struct {
		signal syscall.Signal
		lasts  time.Duration
	}{{syscall.SIGSTOP, 40 * time.Millisecond}, {syscall.SIGCONT, 10 * time.Millisecond}} {
		if err := syscall.Kill(s.node.PID(), turn.signal); err != nil {
			return err
		}
		time.Sleep(turn.lasts)
	}
	return nil
}

// kill ends the daemon after a while, and starts it again.
func (s *starts) kill() error {
	time.Sleep(700 * time.Millisecond)
	if err := s.node.Kill(); err != nil {
		return err
	}
	if err := s.node.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	return s.node.WaitReady(ctx)
}

// number is how many pods are started: many in a soak.
func number(usual, soak int) int {
	if os.Getenv("WEFT_SOAK") != "" {
		return soak
	}
	return usual
}

// P2: no packet gets into or out of a pod that policies isolate, from the first moment of
// its device on, whatever becomes of the daemon and the source meanwhile; and what may
// passes at once.
func TestNoPacketBeforePolicy(t *testing.T) {
	t.Parallel()
	n := number(102, 1002)
	s := newStarts(t, false)
	all := who{known: true, told: true}
	s.many(t, s.names(n/3), all)
	t.Logf("daemon normal: %d pods", s.count)

	before := s.count
	stop := again(t, s.slow)
	s.many(t, s.names(n/6), all)
	t.Logf("daemon stopped %d times for a moment: %d pods", stop(), s.count-before)

	before = s.count
	stop = again(t, s.kill)
	s.many(t, s.names(n/3), all)
	kills := stop()
	t.Logf("daemon killed %d times: %d pods", kills, s.count-before)
	if kills == 0 {
		t.Error("the daemon was never killed")
	}

	// The folder is away, and the daemon is new.
	before = s.count
	if err := os.Rename(s.c.Source, s.c.Source+".away"); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Kill(); err != nil {
		t.Fatal(err)
	}
	restart(t, s.node)
	s.many(t, s.names(n/6), who{})
	opens := s.late(t)
	if err := os.Rename(s.c.Source+".away", s.c.Source); err != nil {
		t.Fatal(err)
	}
	opens()
	t.Logf("source away: %d pods", s.count-before)
	s.end(t)
}

// The same with the Kubernetes API, whose servers stall: they take connections and requests,
// and never answer. Pods that were known before start as ever; others, and all those of a
// daemon that was started since, are closed.
func TestNoPacketBeforePolicyWhileTheAPIStalls(t *testing.T) {
	t.Parallel()
	n := number(24, 240)
	s := newStarts(t, true)
	s.many(t, s.names(n/3), who{known: true, told: true})
	t.Logf("API well: %d pods", s.count)

	known := s.names(n / 3)
	s.many(t, s.names(3), who{known: true, told: true}) // who knows these, has been told of those before
	s.api.stall()
	s.many(t, known, who{known: true})
	s.many(t, s.names(3), who{})
	troubled(t, s.node, "source-api")
	t.Logf("API stalled: %d pods more", n/3+6)

	before := s.count
	if err := s.node.Kill(); err != nil {
		t.Fatal(err)
	}
	restart(t, s.node)
	s.many(t, s.names(n/3), who{})
	opens := s.late(t)
	s.api.revive()
	opens()
	for _, n := range s.c.Nodes {
		well(t, n)
	}
	t.Logf("and the daemon new: %d pods", s.count-before)
	s.end(t)
}
