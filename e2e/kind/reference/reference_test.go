package reference

import (
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

func TestConfigurationIsOneThatRuntimesRead(t *testing.T) {
	for name, pods := range map[string][]netip.Prefix{
		"dual": {netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
		"ipv6": {netip.MustParsePrefix("fd00:10:244:1::/64")},
	} {
		list, err := libcni.NetworkConfFromBytes([]byte(conflist(pods)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(list.Plugins) != 2 || list.Plugins[0].Network.Type != "ptp" || list.Plugins[1].Network.Type != "portmap" {
			t.Errorf("%s: plugins are %v, want ptp and portmap", name, list.Plugins)
		}
	}
}
