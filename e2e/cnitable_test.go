package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
)

// verdicts are the checks that were run against other plugins' binaries, each of
// which failed some; run against ours, every one must hold. A check that fails says
// how.
var verdicts = []struct {
	name string
	run  func(t *testing.T, n *cluster.Node, p *cluster.Pod) error
}{
	{"duplicate ADD refused, no side effect", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		result := call(t, n, callPod("ADD", p))
		before := fmt.Sprint(attachments(t, n))
		if a := call(t, n, callPod("ADD", p)); a.Exit == 0 {
			return fmt.Errorf("second ADD: %s", a)
		}
		if after := fmt.Sprint(attachments(t, n)); after != before {
			return fmt.Errorf("held %s before and %s after", before, after)
		}
		return want(call(t, n, callPod("CHECK", p).with("prevResult", result.prev())), 0)
	}},
	{"CHECK healthy = 0", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		result := call(t, n, callPod("ADD", p))
		return want(call(t, n, callPod("CHECK", p).with("prevResult", result.prev())), 0)
	}},
	{"CHECK, address flushed = error", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		result := call(t, n, callPod("ADD", p))
		var a cniAnswer
		for range 20 { // the daemon may mend it before CHECK comes
			if err := p.NS.IP("addr", "flush", "dev", "eth0"); err != nil {
				return err
			}
			if a = call(t, n, callPod("CHECK", p).with("prevResult", result.prev())); a.Exit != 0 {
				break
			}
		}
		return want(a, api.CodeMissing)
	}},
	{"DEL twice / never added", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		if err := want(call(t, n, callPod("DEL", p)), 0); err != nil {
			return fmt.Errorf("never added: %w", err)
		}
		call(t, n, callPod("ADD", p))
		return addressFreed(t, n, callPod("DEL", p), callPod("DEL", p))
	}},
	{"DEL with empty CNI_NETNS frees IP", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		call(t, n, callPod("ADD", p))
		return addressFreed(t, n, cniCall{Verb: "DEL", ID: p.ID})
	}},
	{"DEL with vanished netns path", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		call(t, n, callPod("ADD", p))
		if err := p.NS.Close(); err != nil {
			return err
		}
		return addressFreed(t, n, callPod("DEL", p), callPod("DEL", p))
	}},
	{"DEL, eth0 already gone", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		call(t, n, callPod("ADD", p))
		if err := p.NS.IP("link", "del", "eth0"); err != nil {
			return err
		}
		return addressFreed(t, n, callPod("DEL", p))
	}},
	{"GC with empty valid list frees IP", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		call(t, n, callPod("ADD", p))
		return addressFreed(t, n, cniCall{Verb: "GC"}.with(gcKeys[0], refs()))
	}},
	{"STATUS", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		if err := want(call(t, n, cniCall{Verb: "STATUS"}), 0); err != nil {
			return err
		}
		if err := n.Kill(); err != nil {
			return err
		}
		defer restart(t, n)
		return want(call(t, n, cniCall{Verb: "STATUS"}), api.CodeNotAvailable)
	}},
	{"ADD with empty netns refused", func(t *testing.T, n *cluster.Node, p *cluster.Pod) error {
		a := call(t, n, cniCall{Verb: "ADD", ID: p.ID})
		if left := attachments(t, n); len(left) > 0 {
			return fmt.Errorf("held after: %v", left)
		}
		return want(a, api.CodeBadEnv)
	}},
	{"SIGKILL at each write of ADD, then DEL x2", killedAtEachWrite},
}

func TestTableOfOthersFailures(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Flags: []string{"--reuse-delay", "0s"}})
	n := c.Nodes[0]
	var table strings.Builder
	fmt.Fprintf(&table, "| %-45s | weft-cni |\n|%s|----------|\n", "Check", strings.Repeat("-", 47))
	for _, v := range verdicts {
		p := newPod(t, n, "p")
		verdict := "y"
		if err := v.run(t, n, p); err != nil {
			verdict = "FAIL: " + err.Error()
			t.Errorf("%s: %v", v.name, err)
		}
		fmt.Fprintf(&table, "| %-45s | %-8s |\n", v.name, verdict)
		call(t, n, callPod("DEL", p)).succeed(t)
	}
	t.Logf("\n%s", table.String())
}

// want is nil if the call ended with the code; 0 is success.
func want(a cniAnswer, code uint) error {
	if a.Code != code || (a.Exit == 0) != (code == 0) {
		return fmt.Errorf("got %s, want code %d", a, code)
	}
	return nil
}

// addressFreed makes the calls and says whether they succeeded and nothing is held after.
func addressFreed(t *testing.T, n *cluster.Node, calls ...cniCall) error {
	t.Helper()
	if len(attachments(t, n)) != 1 {
		return fmt.Errorf("before the call %d attachments are held, want 1", len(attachments(t, n)))
	}
	for _, c := range calls {
		if err := want(call(t, n, c), 0); err != nil {
			return err
		}
	}
	s, err := n.Client().Status(t.Context())
	if err != nil {
		return err
	}
	for _, p := range s.Pools {
		if p.Used != 0 {
			return fmt.Errorf("%d addresses of %s are still held", p.Used, p.Prefix)
		}
	}
	return nil
}

// killedAtEachWrite kills the daemon after each write of an ADD: what is then left is
// removed by two DELs.
func killedAtEachWrite(t *testing.T, _ *cluster.Node, _ *cluster.Pod) error {
	daemon := newArmer(filepath.Join(t.TempDir(), "daemon"))
	c := start(t, cluster.Spec{Bin: crashBins, Env: []string{"WEFT_CRASH_ARM=" + daemon.path}})
	n := c.Nodes[0]
	for k := 1; ; k++ {
		p := newPod(t, n, "victim")
		if err := daemon.arm(k, "die"); err != nil {
			return err
		}
		a, err := tryCall(t.Context(), n, callPod("ADD", p))
		if err != nil {
			return err
		}
		if a.Exit == 0 {
			t.Logf("killed after each of %d writes of ADD", k-1)
			if k <= 10 {
				return fmt.Errorf("only %d writes, want at least 10", k-1)
			}
			return daemon.disarm()
		}
		select {
		case <-n.Done():
		case <-time.After(10 * time.Second):
			return fmt.Errorf("write %d: the daemon lives, and ADD: %s", k, a)
		}
		if err := errors.Join(daemon.disarm(), n.Kill()); err != nil {
			return err
		}
		restart(t, n)
		for range 2 {
			if err := want(call(t, n, callPod("DEL", p)), 0); err != nil {
				return fmt.Errorf("after a kill at write %d: %w", k, err)
			}
		}
		freed(t, n, p.ID)
		if left := attachments(t, n); len(left) > 0 {
			return fmt.Errorf("after a kill at write %d and two DELs: %v", k, left)
		}
	}
}
