package e2e

import (
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
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
	mib, err := n.PSS()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("PSS %.1f MiB, idle CPU %.2f %% of a core", mib, 100*(after-before).Seconds()/time.Since(begin).Seconds())
	if most := 30.0; mib > most {
		t.Errorf("PSS: got %.1f MiB, want at most %.0f", mib, most)
	}
}
