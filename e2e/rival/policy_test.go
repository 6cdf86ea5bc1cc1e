package rival

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

// Both ways of judging let pass what policies allow, and nothing else.
func TestPoliciesJudge(t *testing.T) {
	testnet.Require(t, "iptables", "nft", "ipset", "bridge")
	for _, mode := range []PolicyMode{PolicyNFTables, PolicyIPSet} {
		t.Run(string(mode), func(t *testing.T) {
			p, err := NewPolicies(mode)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			const port = 7000
			client := netip.MustParseAddr("10.244.1.2")
			others := []Allowed{{From: netip.MustParseAddr("10.9.9.9"), To: p.Same4.Addr, Port: port}, {From: client, To: p.Same4.Addr, Port: port + 1}}
			if err := p.Load(others); err != nil {
				t.Fatal(err)
			}
			path := p.Same4
			path.Port = port
			if got, err := load.Measure(path, load.CRR, 1, 200*time.Millisecond); err == nil && got > 0 {
				t.Errorf("%.0f connections/s pass that nobody allows", got)
			}
			if err := p.Load(append(others, Allowed{From: client, To: p.Same4.Addr, Port: port})); err != nil {
				t.Fatal(err)
			}
			got, err := load.Measure(path, load.CRR, 1, 200*time.Millisecond)
			if err != nil || got == 0 {
				t.Errorf("%.0f connections/s, %v; want some", got, err)
			}
			t.Logf("%.0f/s", got)
		})
	}
}
