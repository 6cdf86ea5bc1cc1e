package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// A daemon with 250 pods that knows 1,000 nodes needs at most 30 MiB. What it uses of
// the CPU while idle is told only, as the machine is shared; `make bench` measures it.
func TestMemoryOfAFullNode(t *testing.T) {
	c := prepare(t, cluster.Spec{})
	n := c.Nodes[0]
	if err := c.WriteObject("far", cluster.FarNodes(999)); err != nil {
		t.Fatal(err)
	}
	restart(t, n)
	for range 250 {
		addPod(t, n, "p")
	}
	<-time.After(10 * time.Second) // what the start left to do
	before, err := n.CPUTime()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	<-time.After(10 * time.Second)
	after, err := n.CPUTime()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("idle CPU %.2f %% of a core", 100*(after-before).Seconds()/time.Since(begin).Seconds())
	// The collector gives back in its own time.
	testnet.Until(t, 60*time.Second, func() error {
		mib, err := n.PSS()
		if most := 30.0; err == nil && mib > most {
			err = fmt.Errorf("PSS: got %.1f MiB, want at most %.0f", mib, most)
		}
		t.Logf("PSS %.1f MiB", mib)
		return err
	})
}
