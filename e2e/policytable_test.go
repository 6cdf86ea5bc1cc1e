package e2e

import (
	"testing"
	"time"
)

// The truth table of network policy: for each case all pods ask all pods, the nodes and
// the host outside, and who is answered is compared with an oracle that reads the objects.
// Every packet that is denied leaves one record, which names what the oracle does.
func TestPolicyTruthTable(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t)
	cases := policyCases()
	if len(cases) < 100 {
		t.Errorf("%d cases, want 100", len(cases))
	}
	begin, asked := time.Now(), 0
	names := map[string]bool{}
	for _, k := range cases {
		if names[k.name] {
			t.Errorf("two cases are named %q", k.name)
		}
		names[k.name] = true
		t.Run(k.name, func(t *testing.T) {
			asked += w.sweep(t, k, w.apply(k))
		})
	}
	t.Logf("%d cases, %d questions in %s; %d packets denied, of which %d were not recorded",
		len(cases), asked, time.Since(begin).Round(time.Second), w.records.total[0], w.records.total[1])
	if total := w.records.total; total[1]*20 > total[0] {
		t.Errorf("%d of %d drops were not recorded: the table is asked too fast", total[1], total[0])
	}
}
