package scenario

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/internal/testnet"
)

// Who is outside asks a pool of either family as himself, also where there is no other family,
// and however often the way is made.
func TestOutsidersAskAsThemselves(t *testing.T) {
	testnet.Require(t, "ip", "sh", "sed")
	for _, tc := range []struct{ gateway, node, outsider string }{
		{"172.18.0.1/16", "172.18.0.3", "192.0.2.1"},
		{"fc00:f853:ccd:e793::1/64", "fc00:f853:ccd:e793::3", "2001:db8:2::1"},
	} {
		ns, peer := testnet.New(t, "engine"), testnet.New(t, "node")
		if err := testnet.Veth(ns, "br-kind", peer, "eth0", 1500); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", tc.gateway, "dev", "br-kind"}} {
			if err := ns.IP(args...); err != nil {
				t.Fatal(err)
			}
		}
		node := netip.MustParseAddr(tc.node)
		pool := poolBeside(node)
		for range 2 {
			if out, err := ns.Output("sh", "-ec", wayIn(pool, node)); err != nil {
				t.Fatalf("%s: %v: %s", tc.node, err, out)
			}
		}
		for to, want := range map[string]string{
			pool.Addr().Next().String(): "src " + tc.outsider + " ",
			tc.node:                     "src " + netip.MustParsePrefix(tc.gateway).Addr().String() + " ",
		} {
			out, err := ns.Output("ip", "-o", "route", "get", to)
			if err != nil || !strings.Contains(out, "dev br-kind ") || !strings.Contains(out, want) {
				t.Errorf("to %s: got %q, %v, want br-kind and %s", to, out, err, want)
			}
		}
	}
}
