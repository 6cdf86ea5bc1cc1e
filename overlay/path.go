package overlay

import (
	"errors"
	"net/netip"
)

// LookupPath asks the kernel for the way to an outer address. PMTU exceptions
// are in Path.MTU. [ErrLocal] if the address is our own.
func LookupPath(dst netip.Addr) (Path, error) { return Path{}, errors.New("x") }

// LookupPaths looks up what [Compile] needs for one peer. A way that is missing
// is an error beside the others.
func LookupPaths(cfg Config, self, peer Node) (map[netip.Addr]Path, error) { return nil, nil }

// Uplinks returns the devices that are up and have one of the node's addresses or
// a default route, without ours and the loopback, in the order of their indexes.
func Uplinks(addrs []netip.Addr) ([]Uplink, error) { return nil, nil }
