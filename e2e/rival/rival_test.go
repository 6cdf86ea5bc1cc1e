package rival

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
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

// Each way to a Service of kube-proxy's rules reaches its endpoint, before and after more
// Services are there.
func TestKubeProxyCarriesTraffic(t *testing.T) {
	testnet.Require(t, "iptables", "nft", "bridge")
	for _, mode := range []ProxyMode{IPTables, NFTables} {
		t.Run(string(mode), func(t *testing.T) {
			k, err := NewKubeProxy(mode)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := k.Close(); err != nil {
					t.Error(err)
				}
			})
			const port, nodePort = 8080, 30080
			var kept []Service
			for i, p := range []load.Path{k.Same4, k.Cross4} {
				for _, protocol := range []string{"tcp", "udp"} {
					kept = append(kept, Service{
						Name: "real-" + protocol + string(rune('a'+i)), Protocol: protocol, IP: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Port: 80,
						NodePort: uint16(nodePort + i), Endpoint: netip.AddrPortFrom(p.Addr, port),
					})
				}
			}
			for _, n := range []int{1, 300} {
				services := slices.Clone(kept) // those from before come first
				for i := range n {
					services = append(services, Service{
						Name: "other-" + strconv.Itoa(i), Protocol: "tcp", IP: netip.AddrFrom4([4]byte{10, 97, byte(i / 256), byte(i)}), Port: 80,
						Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 130, byte(i / 256), byte(i)}), port),
					})
				}
				if err := k.Load(services); err != nil {
					t.Fatal(err)
				}
				same, cross, outside := k.Same4, k.Cross4, k.Outside4
				same.Service = netip.MustParseAddrPort("10.96.0.0:80")
				cross.Service = netip.MustParseAddrPort("10.96.0.1:80")
				outside.Service = netip.AddrPortFrom(k.Node, nodePort+1)
				for way, p := range map[string]load.Path{"same node": same, "cross node": cross, "node port": outside} {
					p.Port = port
					for _, kind := range []load.Kind{load.RR, load.CRR, load.UDP} {
						got, err := load.Measure(p, kind, 1, 200*time.Millisecond)
						if err != nil || got < 100 {
							t.Errorf("%d others, %s: %s: %.0f a second, %v", n, way, kind, got, err)
						}
						t.Logf("%d others, %s %s: %.0f/s", n, way, kind, got)
					}
				}
			}
		})
	}
}
