// Package e2e tests whole clusters: real daemons on nodes that are network
// namespaces, real CNI calls, real packets.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/crowd"
	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

// bins is where TestMain has built the binaries: as users get them.
var bins string

// crashBins is where the build with kill points is.
var crashBins string

func TestMain(m *testing.M) {
	load.Main()
	cluster.Main()
	crowd.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bins, crashBins = filepath.Join(dir, "bin"), filepath.Join(dir, "crash")
	ctx := context.Background()
	if err := cluster.Build(ctx, bins); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := cluster.Build(ctx, crashBins, "-tags", "weft_crash"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// startWithin is how long daemons may take to serve. Each has its programs verified, a second of
// a processor if nothing runs beside.
const startWithin = 2 * time.Minute

// start makes a cluster whose daemons serve, for as long as the test lasts.
func start(t *testing.T, spec cluster.Spec) *cluster.Cluster {
	t.Helper()
	c := prepare(t, spec)
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// prepare makes a cluster without daemons.
func prepare(t *testing.T, spec cluster.Spec) *cluster.Cluster {
	t.Helper()
	testnet.Require(t, "iptables", "tc")
	if spec.Bin == "" {
		spec.Bin = bins
	}
	c, err := cluster.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("log of %s:\n%s", n.Name, n.LogTail(25))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// addPod makes and attaches a pod.
func addPod(t *testing.T, n *cluster.Node, name string) *cluster.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := n.AddPod(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// restart starts the node's daemon and waits until it serves.
func restart(t *testing.T, n *cluster.Node, flags ...string) {
	t.Helper()
	if err := n.Start(flags...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}
