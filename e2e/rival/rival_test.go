package rival

import (
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/internal/testnet"
)

func TestMain(m *testing.M) {
	load.Main()
	os.Exit(m.Run())
}

// All paths of limits and peer carry traffic.
func TestLabsCarryTraffic(t *testing.T) {
	testnet.Require(t, "iptables", "ip6tables", "bridge")
	for name, make := range map[string]func() (*Lab, error){"limits": Limits, "flannel": Flannel} {
		t.Run(name, func(t *testing.T) {
			l, err := make()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			for way, p := range map[string]load.Path{"same v4": l.Same4, "same v6": l.Same6, "cross v4": l.Cross4, "cross v6": l.Cross6} {
				for _, kind := range []load.Kind{load.RR, load.CRR, load.Stream, load.UDP} {
					got, err := load.Measure(p, kind, 1, 200*time.Millisecond)
					if err != nil {
						t.Errorf("%s: %s: %v", way, kind, err)
					}
					t.Logf("%s %s: %.0f/s", way, kind, got)
				}
			}
		})
	}
}
