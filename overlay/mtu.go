package overlay

import (
	"errors"
	"fmt"
	"slices"
)

const (
	// minMTU4 is what every IPv4 host must take (RFC 791).
	minMTU4 = 576
	// minMTU6 is what every IPv6 link must carry (RFC 8200, section 5).
	minMTU6 = 1280
)

func minMTU(v6 bool) int {
	if v6 {
		return minMTU6
	}
	return minMTU4
}

func checkMTU(mtu int, v6 bool) error {
	if least := minMTU(v6); mtu < least {
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		return fmt.Errorf("mtu %d, %s needs %d: %w", mtu, family, least, ErrMTU)
	}
	return nil
}

// PodMTU returns the MTU of the pods: the setting, or what the narrowest uplink
// leaves inside the encapsulation of the widest outer family in use. It follows
// the devices, not the routes: a PMTU exception concerns one peer, comes and
// goes, and is in that peer's route.
func PodMTU(cfg Config, self Node, uplinks []Uplink, peers []Peer) (int, error) {
	v6 := slices.ContainsFunc(self.PodCIDRs, prefixIs6)
	if cfg.MTU > 0 {
		return cfg.MTU, checkMTU(cfg.MTU, v6)
	}
	if len(uplinks) == 0 {
		return 0, errors.New("no uplink: the node's addresses are on no device that is up")
	}
	overhead := 0
	if cfg.Mode != ModeDirect {
		if len(self.Addrs) > 0 {
			overhead = Overhead(self.Addrs[0])
		}
		for _, p := range peers {
			if !p.Direct {
				overhead = max(overhead, Overhead(p.Remote))
			}
		}
	}
	mtu := uplinks[0].MTU
	for _, u := range uplinks {
		mtu = min(mtu, u.MTU)
	}
	return mtu - overhead, checkMTU(mtu-overhead, v6)
}
