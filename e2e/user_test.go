package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// What a new user does wrong is said clearly, with what to do about it, and ends with
// another exit code than 0.
func TestMistakesAreExplained(t *testing.T) {
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	config := filepath.Join(t.TempDir(), "weftd.yaml")
	if err := os.WriteFile(config, []byte("node_name: a\nprot: 8872\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := func(args ...string) *exec.Cmd { return n.Command("run", args...) }
	tool := func(name string, args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(bins, name), args...)
	}
	asNobody := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	// Folders that nobody can enter hide the binaries from nobody as well.
	for _, dir := range []string{filepath.Dir(bins), bins, c.Dir, n.Dir, n.Path("run")} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		cmd  *exec.Cmd
		want []string
	}{
		{"no root", asNobody(daemon()), []string{"run as root"}},
		{"second daemon", daemon(), []string{fmt.Sprint(n.PID())}},
		{"another node with our pins", daemon("--state-dir", t.TempDir()), []string{"another weftd", n.BPFDir}},
		{"no BPF file system", daemon("--bpf-dir", t.TempDir(), "--state-dir", t.TempDir()), []string{"not on a BPF file system", "mount -t bpf"}},
		{"unknown flag", daemon("--prot", "1"), []string{"--prot"}},
		{"bad value", daemon("--mtu", "12", "--overlay", "geneve"), []string{"mtu: 12", "overlay:", "vxlan, direct, auto"}},
		{"unknown keys", daemon("--config", config), []string{`"node_name": did you mean "node-name"`, `"prot": did you mean "port"`}},
		{"missing file", daemon("--config", config+".no"), []string{config + ".no"}},
		{"unknown command", tool("weftd", "start"), []string{"start"}},
		{"uninstall beside the daemon", n.Command("uninstall"), []string{fmt.Sprint(n.PID())}},
		{"CLI without daemon", tool("weft", "status", "--socket", "/none"), []string{"/none", "does not run"}},
		{"CLI as nobody", asNobody(tool("weft", "status", "--socket", n.Socket())), []string{"root"}},
		{"CLI, unknown output", tool("weft", "nodes", "-o", "xml", "--socket", n.Socket()), []string{"xml", "json"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stop := context.AfterFunc(ctx, func() { tt.cmd.Process.Kill() })
			defer stop()
			var out strings.Builder
			tt.cmd.Stdout, tt.cmd.Stderr = &out, &out
			err := n.NS.Start(tt.cmd)
			if err == nil {
				err = tt.cmd.Wait()
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !exit.Exited() {
				t.Fatalf("got %v, want an exit code other than 0:\n%s", err, &out)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("want %q in\n%s", want, &out)
				}
			}
			if strings.Contains(out.String(), "goroutine ") {
				t.Errorf("a stack trace is no message:\n%s", &out)
			}
		})
	}
}

// problem waits until the node's status has a problem with that text, or with empty
// text until it has none.
func problem(t *testing.T, n *cluster.Node, text string) {
	t.Helper()
	testnet.Until(t, 15*time.Second, func() error {
		s, err := n.Client().Status(t.Context())
		if err != nil {
			return err
		}
		if text == "" && len(s.Problems) == 0 {
			return nil
		}
		for _, p := range s.Problems {
			if text != "" && strings.Contains(p.Text, text) {
				return nil
			}
		}
		return fmt.Errorf("problems are %v, want %q", s.Problems, text)
	})
}

// The last good state stays while a file is broken;
// what is wrong is shown, and goes when it is well.
func TestBrokenObjectsLoseNothing(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Nodes: 2})
	all := streams(t, c)
	a, b := c.Nodes[0], c.Nodes[1]
	whole := cluster.NodeYAML(b.Name, b.PodCIDRs, b.Addrs)
	for name, text := range map[string]string{
		"cut in half":  whole[:len(whole)/2],
		"bad address":  strings.Replace(whole, b.Addrs[0].String(), "172.18.0.999", 1),
		"no YAML":      "{{{",
		"wrong prefix": strings.Replace(whole, b.PodCIDRs[0].String(), "10.244.2.0/99", 1),
	} {
		if err := c.WriteObject(b.Name, text); err != nil {
			t.Fatal(err)
		}
		problem(t, a, b.Name+".yaml")
		t.Logf("%s: shown", name)
		if err := c.WriteNode(b); err != nil {
			t.Fatal(err)
		}
		problem(t, a, "")
	}
	// Another node that claims what is node-2's does not get it.
	thief := cluster.NodeYAML("node-9", b.PodCIDRs, []netip.Addr{netip.MustParseAddr("172.18.0.9")})
	if err := c.WriteObject("node-9", thief); err != nil {
		t.Fatal(err)
	}
	problem(t, a, "node-9")
	if err := c.DeleteObject("node-9"); err != nil {
		t.Fatal(err)
	}
	problem(t, a, "")
	unhurt(t, all)
}

// A full disk: ADD fails with a CNI error, and when there is room again nothing is
// lost and nothing is left over.
func TestFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	c := prepare(t, cluster.Spec{})
	n := c.Nodes[0]
	state := n.Path("state")
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.Kill(), unix.Unmount(state, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	restart(t, n)
	before := addPod(t, n, "before")
	filler := filepath.Join(state, "filler")
	fillDisk(t, filler)
	victim, err := n.NewPod("victim")
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Add(t.Context()); err == nil {
		t.Fatal("ADD with a full disk succeeded")
	} else {
		t.Logf("ADD: %v", err)
	}
	if err := before.Check(t.Context()); err != nil {
		t.Errorf("CHECK of a pod that was there: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := victim.Add(t.Context()); err != nil {
		t.Fatalf("ADD when there is room again: %v", err)
	}
	list, err := n.Client().Endpoints(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("got %d endpoints, %v, want 2", len(list), err)
	}
}

// fillDisk writes until the disk is full.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
