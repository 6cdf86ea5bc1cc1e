//go:build weft_crash

package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
	"github.com/weftnet/weft/ipam"
)

// A call of the child process that is killed: the same test binary, started again
// by the test in the node's namespaces.
type killedCall struct {
	Dir  string
	Verb string // add, del, gc or repair
	A    api.Attach
}

const envCall = "WEFT_TEST_CALL"

// TestKilledCall is that child. By itself it does nothing.
func TestKilledCall(t *testing.T) {
	raw := os.Getenv(envCall)
	if raw == "" {
		return
	}
	var c killedCall
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: c.Dir, net: Net{Gateways: gatewaysOf(pools), MTU: 1450}}
	n.reset()
	n.start(pools...)
	if err := n.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.sync(true)
	// Only now are writes counted.
	if err := os.Rename(os.Getenv(crash.EnvArm)+".later", os.Getenv(crash.EnvArm)); err != nil {
		t.Fatal(err)
	}
	var err error
	switch ctx := context.Background(); c.Verb {
	case "add":
		_, err = n.Add(ctx, c.A)
	case "del":
		err = n.Del(ctx, c.A)
	case "gc":
		err = n.GC(ctx, api.GC{Network: c.A.Network})
	case "repair":
		err = n.Repair(ctx, ownerOfAttach(c.A))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// killAt runs the call in a child that dies after its i-th write. It answers whether
// it died, and the name of the last write.
func killAt(t *testing.T, c killedCall, i int) (died bool, last string) {
	t.Helper()
	arm := filepath.Join(t.TempDir(), "arm")
	if err := os.WriteFile(arm+".later", fmt.Appendf(nil, "%d", i), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(c)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledCall$")
	cmd.Env = append(os.Environ(), envCall+"="+string(raw), crash.EnvArm+"="+arm, "WEFT_TEST_PREPARED=1")
	out, err := cmd.CombinedOutput()
	log, _ := os.ReadFile(arm + ".log")
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return true, lines[len(lines)-1]
		}
	}
	if err != nil {
		t.Fatalf("%s killed after write %d: %v\n%s", c.Verb, i, err, out)
	}
	return false, lines[len(lines)-1]
}

// eachKill kills the verb after each of its writes, on a node prepared anew, and
// calls then with a restarted daemon.
func eachKill(t *testing.T, verb string, prepare func(n *node) api.Attach, then func(t *testing.T, n *node, a api.Attach)) {
	for i := 1; ; i++ {
		more := true
		t.Run(fmt.Sprintf("%s-%02d", verb, i), func(t *testing.T) {
			n := newNode(t)
			a := prepare(n)
			died, last := killAt(t, killedCall{n.dir, verb, a}, i)
			if !died {
				more = false
				if i < 3 {
					t.Errorf("%s made only %d writes", verb, i-1)
				}
				return
			}
			t.Log("killed after", last)
			n.restart()
			then(t, n, a)
			// Whatever happened, the runtime's DEL leaves nothing.
			if err := n.Del(context.Background(), a); err != nil {
				t.Fatal(err)
			}
			n.mustBeClean(a)
		})
		if !more || t.Failed() {
			return
		}
	}
}

func TestKilledAddIsFinishedByTheNext(t *testing.T) {
	eachKill(t, "add", func(n *node) api.Attach { return limited(n.t) }, func(t *testing.T, n *node, a api.Attach) {
		if err := n.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		_, err := n.Add(context.Background(), a)
		var e *api.Error
		if errors.As(err, &e) && e.Code == api.CodeExists {
			// It had been answered as far as the daemon can know.
			if _, err := os.Stat(n.answeredPath(ownerOfAttach(a))); err != nil {
				t.Fatalf("refused without an answer before: %v", e)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if err := n.Check(context.Background(), a); err != nil {
			t.Error(err)
		}
		if l := n.IPAM.Leases(); len(l) != 1 {
			t.Errorf("got leases %v, want one", l)
		}
	})
}

func TestKilledAddIsCollected(t *testing.T) {
	eachKill(t, "add", func(n *node) api.Attach { return limited(n.t) }, func(t *testing.T, n *node, a api.Attach) {
		if err := n.GC(context.Background(), api.GC{Network: a.Network}); err != nil {
			t.Fatal(err)
		}
		n.mustBeClean(a)
	})
}

func added(n *node) api.Attach {
	a := limited(n.t)
	n.mustAdd(a)
	return a
}

func TestKilledDelIsFinishedByTheNext(t *testing.T) {
	eachKill(t, "del", added, func(*testing.T, *node, api.Attach) {})
}

func TestKilledGCIsFinishedByTheNext(t *testing.T) {
	eachKill(t, "gc", added, func(t *testing.T, n *node, a api.Attach) {
		if err := n.GC(context.Background(), api.GC{Network: a.Network}); err != nil {
			t.Fatal(err)
		}
		n.mustBeClean(a)
	})
}

func TestKilledRepairIsFinishedByTheNext(t *testing.T) {
	damaged := func(n *node) api.Attach {
		a := added(n)
		run(n.t, "ip link del "+hostName(ownerOfAttach(a)))
		run(n.t, "ip link del "+ifbName(ownerOfAttach(a)))
		return a
	}
	eachKill(t, "repair", damaged, func(t *testing.T, n *node, a api.Attach) {
		if err := n.Repair(context.Background(), ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}); err != nil {
			t.Fatal(err)
		}
		if err := n.Check(context.Background(), a); err != nil {
			t.Error(err)
		}
	})
}
