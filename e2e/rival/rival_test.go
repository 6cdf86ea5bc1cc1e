package rival

import (
	"fmt"
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
			for way, p := range map[string]load.Path{"same v4": l.Same4, "same v6": l.Same6, "cross v4": l.Cross4, "cross v6": l.Cross6, "outside v4": l.Outside4, "near v4": l.Near4, "direct v4": l.Direct4} {
				if p.From == nil { // only limits have all
					continue
				}
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
			balancer := netip.MustParseAddr("172.18.0.100")
			if err := k.Announce(balancer); err != nil {
				t.Fatal(err)
			}
			var kept []Service
			for i, p := range []load.Path{k.Same4, k.Cross4} {
				for _, protocol := range []string{"tcp", "udp"} {
					s := Service{
						Name: "real-" + protocol + string(rune('a'+i)), Protocol: protocol, IP: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Port: 80,
						NodePort: uint16(nodePort + i), Endpoint: netip.AddrPortFrom(p.Addr, port),
					}
					if p.Addr == k.Cross4.Addr {
						s.Balancer = balancer
					}
					kept = append(kept, s)
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
				balanced := k.Outside4
				balanced.Service = netip.AddrPortFrom(balancer, 80)
				for way, p := range map[string]load.Path{"same node": same, "cross node": cross, "node port": outside, "load balancer": balanced} {
					p.Port = port
					for _, kind := range []load.Kind{load.RR, load.CRR, load.Answer, load.UDP} {
						var got float64
						// A connection may meet a former one's state on its random port, and wait.
						testnet.Until(t, 20*time.Second, func() (err error) {
							got, err = load.Measure(p, kind, 1, 200*time.Millisecond)
							if err == nil && got < 100 {
								err = fmt.Errorf("%d others, %s: %s: %.0f a second", n, way, kind, got)
							}
							return err
						})
						t.Logf("%d others, %s %s: %.0f/s", n, way, kind, got)
					}
				}
			}
		})
	}
}
