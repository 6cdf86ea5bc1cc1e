package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// LookupPath asks the kernel for the way to an outer address. PMTU exceptions
// are in Path.MTU. [ErrLocal] if the address is our own.
func LookupPath(dst netip.Addr) (Path, error) {
	paths, err := LookupPaths([]netip.Addr{dst})
	return paths[unmapped(dst)], err
}

// LookupPaths is LookupPath for many. Addresses without a way are not in the
// result, but in the error.
func LookupPaths(addrs []netip.Addr) (map[netip.Addr]Path, error) {
	var c conn
	defer c.Close()
	links := newLinkInfo()
	defer links.close()
	paths := make(map[netip.Addr]Path, len(addrs))
	var errs []error
	for _, a := range addrs {
		a = unmapped(a)
		if _, ok := paths[a]; ok {
			continue
		}
		p, err := lookupPath(&c, links, a)
		if err != nil {
			errs = append(errs, fmt.Errorf("look up the way to %s: %w", a, err))
			continue
		}
		paths[a] = p
	}
	return paths, errors.Join(errs...)
}

func lookupPath(c *conn, links *linkInfo, dst netip.Addr) (Path, error) {
	var (
		p     Path
		local bool
	)
	err := c.iter(unix.RTM_GETROUTE, 0, func(b []byte) {
		if len(b) < unix.SizeofRtMsg {
			return
		}
		local = nl.DeserializeRtMsg(b).Type != unix.RTN_UNICAST
		attrs(b[unix.SizeofRtMsg:], func(typ int, data []byte) {
			switch typ {
			case unix.RTA_OIF:
				p.LinkIndex = int(get32(data))
			case unix.RTA_GATEWAY:
				p.NextHop = getAddr(data)
			case unix.RTA_VIA:
				p.NextHop = getVia(data)
			case unix.RTA_PREFSRC:
				p.Src = getAddr(data)
			case unix.RTA_METRICS:
				var r kernelRoute
				r.metrics(data)
				p.MTU = r.MTU
			}
		})
	}, routeLookup(dst, 0)...)
	if err != nil {
		return Path{}, err
	}
	if local {
		return Path{}, ErrLocal
	}
	p.LinkName = links.name(p.LinkIndex)
	p.LinkMTU = links.mtu(p.LinkName)
	if p.LinkMTU == 0 {
		return Path{}, unix.ENODEV // gone meanwhile
	}
	if p.MTU == 0 || p.MTU > p.LinkMTU {
		p.MTU = p.LinkMTU
	}
	if !p.NextHop.IsValid() {
		p.NextHop, p.OnLink = dst, true
	}
	return p, nil
}

// Uplinks returns the devices that are up and have one of the node's addresses or
// a default route, without ours and the loopback, in the order of their indexes.
func Uplinks(addrs []netip.Addr) ([]Uplink, error) {
	var c conn
	defer c.Close()
	indexes := map[int]bool{}
	err := c.dump(unix.RTM_GETADDR, func() { clear(indexes) }, func(b []byte) {
		if p, index, _ := parseAddr(b); slices.Contains(addrs, p.Addr()) {
			indexes[index] = true
		}
	}, ifAddrMsg(unix.IfAddrmsg{}))
	if err != nil {
		return nil, fmt.Errorf("dump addresses: %w", err)
	}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := defaultRouteLinks(&c, fam, indexes); err != nil {
			return nil, err
		}
	}
	links := newLinkInfo()
	defer links.close()
	var out []Uplink
	for i := range indexes {
		name := links.name(i)
		up := links.flags(name)&(unix.IFF_UP|unix.IFF_LOOPBACK) == unix.IFF_UP
		if mtu := links.mtu(name); up && mtu > 0 && !strings.HasPrefix(name, "weft") {
			out = append(out, Uplink{Index: i, Name: name, MTU: mtu})
		}
	}
	slices.SortFunc(out, func(a, b Uplink) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}

// OwnAddrs returns the addresses of all devices of the network namespace.
func OwnAddrs() (map[netip.Addr]struct{}, error) {
	var c conn
	defer c.Close()
	own := map[netip.Addr]struct{}{}
	err := c.dump(unix.RTM_GETADDR, func() { clear(own) }, func(b []byte) {
		if p, _, _ := parseAddr(b); p.IsValid() {
			own[p.Addr().Unmap()] = struct{}{}
		}
	}, ifAddrMsg(unix.IfAddrmsg{}))
	if err != nil {
		return nil, fmt.Errorf("dump addresses: %w", err)
	}
	return own, nil
}

// defaultRouteLinks adds the devices of the main table's default routes.
func defaultRouteLinks(c *conn, fam uint8, indexes map[int]bool) error {
	err := c.dump(unix.RTM_GETROUTE, func() {}, func(b []byte) {
		if len(b) < unix.SizeofRtMsg || b[1] != 0 { // rtm_dst_len
			return
		}
		if r, ok := parseRoute(b); ok && r.kind == unix.RTN_UNICAST && r.table == unix.RT_TABLE_MAIN {
			for _, i := range append(r.hops, r.LinkIndex) {
				indexes[i] = true
			}
		}
	}, rtMsg(unix.RtMsg{Family: fam, Table: unix.RT_TABLE_MAIN}))
	if err != nil && !isErr(err, unix.ENOENT, unix.EAFNOSUPPORT) {
		return fmt.Errorf("dump routes: %w", err)
	}
	return nil
}
