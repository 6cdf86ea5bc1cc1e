package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// hang stops the daemon's process until the returned function is called.
func hang(t *testing.T, n *cluster.Node) (wake func()) {
	t.Helper()
	pid := n.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, func() error { // a busy machine's threads stop late
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(b), ") T ") {
			err = fmt.Errorf("the daemon has not stopped: %s", b)
		}
		return err
	})
	wake = sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	t.Cleanup(wake)
	return wake
}

// P4: a DEL while the daemon hangs ends in time, and is done when it goes on.
func TestDelWhileTheDaemonHangs(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	var pods []*cluster.Pod
	for i := range 8 {
		pods = append(pods, addPod(t, n, fmt.Sprint("p", i)))
	}
	wake := hang(t, n)
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			if a, err := tryCall(t.Context(), n, callPod("DEL", p)); err != nil || a.Exit != 0 || a.Took > 6*time.Second {
				t.Errorf("DEL: %s %v", a, err)
			}
		})
	}
	wg.Wait()
	wake()
	testnet.Until(t, 20*time.Second, func() error {
		if left := attachments(t, n); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// The runtime gives up an ADD that the hanging daemon has not answered, kills the
// plugin and calls DEL. When the daemon goes on it finds the ADD first, or the
// tombstone first: in the end there is nothing.
func TestAddGivenUpWhileTheDaemonHangs(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	steady := addPod(t, n, "steady")
	var pods []*cluster.Pod
	for i := range 12 {
		pods = append(pods, newPod(t, n, fmt.Sprint("p", i)))
	}
	wake := hang(t, n)
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, _ = tryCall(ctx, n, callPod("ADD", p))
			del := callPod("DEL", p)
			if i%2 == 0 {
				del.Netns = ""
			}
			if a, err := tryCall(t.Context(), n, del); err != nil || a.Exit != 0 {
				t.Errorf("DEL: %s %v", a, err)
			}
		})
	}
	wg.Wait()
	wake()
	// All that waited has been served when a later ADD has.
	addPod(t, n, "later")
	testnet.Until(t, 20*time.Second, func() error {
		if left := attachments(t, n); len(left) != 2 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	for _, p := range pods {
		freed(t, n, p.ID)
	}
	if err := steady.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
