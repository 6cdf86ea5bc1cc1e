package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a device of the node behind which there may be neighbours.
type Link struct {
	Index    int
	Name     string
	MAC      [6]byte
	Prefixes []netip.Prefix // in which its neighbours are, masked
	// Default says that the default route of IPv4, or of IPv6, leads there.
	Default4, Default6 bool
}

// Links returns the Ethernet devices that are up and have an address that others could be
// beside, or a default route, without ours and the loopback, in the order of their indexes.
func Links() ([]Link, error) {
	var c conn
	defer c.Close()
	prefixes := map[int][]netip.Prefix{}
	err := c.dump(unix.RTM_GETADDR, func() { clear(prefixes) }, func(b []byte) {
		p, index, _ := parseAddr(b)
		if p.IsValid() && !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(prefixes[index], p.Masked()) {
			prefixes[index] = append(prefixes[index], p.Masked())
		}
	}, ifAddrMsg(unix.IfAddrmsg{}))
	if err != nil {
		return nil, fmt.Errorf("dump addresses: %w", err)
	}
	default4, default6 := map[int]bool{}, map[int]bool{}
	if err := defaultRouteLinks(&c, unix.AF_INET, default4); err != nil {
		return nil, err
	}
	if err := defaultRouteLinks(&c, unix.AF_INET6, default6); err != nil {
		return nil, err
	}
	all := map[int]bool{}
	for i := range prefixes {
		all[i] = true
	}
	for i := range default4 {
		all[i] = true
	}
	for i := range default6 {
		all[i] = true
	}
	links := newLinkInfo()
	defer links.close()
	var out []Link
	for i := range all {
		name := links.name(i)
		if name == "" || strings.HasPrefix(name, "weft") || links.flags(name)&(unix.IFF_UP|unix.IFF_LOOPBACK) != unix.IFF_UP {
			continue
		}
		dev, err := netlink.LinkByIndex(i)
		if err != nil || len(dev.Attrs().HardwareAddr) != 6 {
			continue // gone meanwhile, or without Ethernet
		}
		out = append(out, Link{
			Index: i, Name: name, MAC: [6]byte(dev.Attrs().HardwareAddr), Prefixes: prefixes[i],
			Default4: default4[i], Default6: default6[i],
		})
	}
	slices.SortFunc(out, func(a, b Link) int { return a.Index - b.Index })
	return out, nil
}

// LinkOf returns the link that an address is on: that with the narrowest prefix around it,
// else the one that the default route leads to; false: none.
func LinkOf(links []Link, a netip.Addr) (Link, bool) {
	var best Link
	bits, found := -1, false
	for _, l := range links {
		for _, p := range l.Prefixes {
			if p.Contains(a) && p.Bits() > bits {
				best, bits, found = l, p.Bits(), true
			}
		}
	}
	for _, l := range links {
		if !found && (a.Is4() && l.Default4 || a.Is6() && l.Default6) {
			best, found = l, true
		}
	}
	return best, found
}
