package load

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// Each kind of load, in both families, over a bare veth pair.
func TestMeasure(t *testing.T) {
	testnet.Require(t)
	a, b := testnet.New(t, "load-a"), testnet.New(t, "load-b")
	if err := testnet.Veth(a, "eth0", b, "eth0", 1500); err != nil {
		t.Fatal(err)
	}
	for ns, addrs := range map[*testnet.NS][]string{a: {"10.0.0.1/24", "fd00::1/64"}, b: {"10.0.0.2/24", "fd00::2/64"}} {
		for _, addr := range addrs {
			args := []string{"addr", "add", addr, "dev", "eth0"}
			if addr[0] == 'f' {
				args = append(args, "nodad")
			}
			if err := ns.IP(args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, addr := range []string{"10.0.0.2", "fd00::2"} {
		for _, kind := range []Kind{RR, CRR, Stream, Answer, UDP} {
			for _, n := range []int{1, 2} {
				got, err := Measure(Path{From: a, To: b, Addr: netip.MustParseAddr(addr)}, kind, n, 200*time.Millisecond)
				if err != nil {
					t.Fatalf("%s to %s: %v", kind, addr, err)
				}
				if got < 100 {
					t.Errorf("%d %s to %s: got %.0f a second, want more", n, kind, addr, got)
				}
				t.Logf("%d %s to %s: %.0f/s", n, kind, addr, got)
			}
		}
	}
}
