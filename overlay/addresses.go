package overlay

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/weftnet/weft/internal/crash"
	"golang.org/x/sys/unix"
)

// Addresses is the target of the addresses on our device. All of them are ours
// but the link-local ones that the kernel makes. It is safe for concurrent use.
type Addresses struct {
	conn conn
	link string
}

// NewAddresses takes the device's name; the device need not exist yet.
func NewAddresses(link string) *Addresses { return &Addresses{link: link} }

// Close releases the socket.
func (a *Addresses) Close() { a.conn.Close() }

// index returns 0 if there is no such device.
func (a *Addresses) index() int {
	links := newLinkInfo()
	defer links.close()
	return links.index(a.link)
}

func ifAddrMsg(m unix.IfAddrmsg) *nl.IfAddrmsg { return &nl.IfAddrmsg{IfAddrmsg: m} }

// Dump returns the permanent addresses of the device that packets get to: none without the device.
func (a *Addresses) Dump() (map[AddrKey]struct{}, error) {
	index := a.index()
	if index == 0 {
		return map[AddrKey]struct{}{}, nil
	}
	rows := map[AddrKey]struct{}{}
	err := a.conn.dump(unix.RTM_GETADDR, func() { clear(rows) }, func(b []byte) {
		p, i, flags := parseAddr(b)
		if i == index && flags&unix.IFA_F_PERMANENT != 0 && !p.Addr().IsLinkLocalUnicast() {
			rows[AddrKey{LinkIndex: i, Prefix: p}] = struct{}{}
		}
	}, ifAddrMsg(unix.IfAddrmsg{Index: uint32(index)}))
	if err != nil && !isErr(err, unix.ENODEV) {
		return nil, fmt.Errorf("dump addresses of %s: %w", a.link, err)
	}
	for k := range rows {
		if !a.reached(k) {
			delete(rows, k)
		}
	}
	return rows, nil
}

// reached says whether the kernel takes packets for an address: its route in the table local may
// have been deleted. A device that is down has none.
func (a *Addresses) reached(k AddrKey) bool {
	links := newLinkInfo()
	defer links.close()
	return links.flags(a.link)&unix.IFF_UP == 0 || a.routed(k.Prefix.Addr())
}

// routed says whether an address has its route in the table local: by a lookup, and if that ends
// elsewhere, as a rule may come before that table, by reading it.
func (a *Addresses) routed(addr netip.Addr) (ok bool) {
	_ = a.conn.iter(unix.RTM_GETROUTE, 0, func(b []byte) { // an error is an answer, too
		ok = len(b) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(b).Type == unix.RTN_LOCAL
	}, routeLookup(addr, 0)...)
	if ok {
		return true
	}
	err := a.conn.dump(unix.RTM_GETROUTE, func() { ok = false }, func(b []byte) {
		if r, good := parseRoute(b); good && r.table == unix.RT_TABLE_LOCAL && r.kind == unix.RTN_LOCAL && r.key.Dst.Addr() == addr {
			ok = true
		}
	}, rtMsg(unix.RtMsg{Family: family(addr), Table: unix.RT_TABLE_LOCAL}))
	return ok || err != nil
}

// parseAddr reads an RTM_NEWADDR: address, device, flags (IFA_F_…).
func parseAddr(b []byte) (p netip.Prefix, index int, flags uint32) {
	if len(b) < unix.SizeofIfAddrmsg {
		return p, 0, 0
	}
	m := nl.DeserializeIfAddrmsg(b)
	flags = uint32(m.Flags)
	var addr, local netip.Addr
	attrs(b[unix.SizeofIfAddrmsg:], func(typ int, data []byte) {
		switch typ {
		case unix.IFA_ADDRESS:
			addr = getAddr(data)
		case unix.IFA_LOCAL:
			local = getAddr(data)
		case unix.IFA_FLAGS:
			flags = get32(data)
		}
	})
	if local.IsValid() { // IFA_ADDRESS is then the other end's
		addr = local
	}
	return netip.PrefixFrom(addr, int(m.Prefixlen)), int(m.Index), flags
}

// Set adds an address, for IPv6 without duplicate address detection (nobody else
// is on the device, and the address must be usable at once) and without the
// prefix route that the kernel would add.
func (a *Addresses) Set(k AddrKey, _ struct{}) error {
	ip := k.Prefix.Addr().AsSlice()
	parts := append(addrParts(k), attr(unix.IFA_ADDRESS, ip))
	if k.Prefix.Addr().Is6() {
		parts = append(parts, attr32(unix.IFA_FLAGS, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE))
	}
	err := a.conn.write(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
	if isErr(err, unix.EEXIST) {
		if !a.reached(k) {
			if err := a.reach(k); err != nil {
				return err
			}
		}
		err = a.conn.write(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...)
	}
	if err != nil {
		return fmt.Errorf("set address %s on %s: %w", k.Prefix, a.link, err)
	}
	crash.Point("addr")
	// The route of IPv6 comes a moment after the address (net/ipv6/addrconf.c, addrconf_dad_work).
	for deadline := time.Now().Add(time.Second); k.Prefix.Addr().Is6() && !a.reached(k) && time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// reach gives an address back its route in the table local. That of IPv6 the kernel makes only
// with the address; with one of IPv4 it would delete all routes that name it as their source.
func (a *Addresses) reach(k AddrKey) error {
	addr := k.Prefix.Addr()
	if addr.Is6() {
		return a.Delete(k)
	}
	err := a.conn.write(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		rtMsg(unix.RtMsg{Family: unix.AF_INET, Dst_len: 32, Table: unix.RT_TABLE_LOCAL,
			Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL, Scope: unix.RT_SCOPE_HOST}),
		attr(unix.RTA_DST, addr.AsSlice()), attr(unix.RTA_PREFSRC, addr.AsSlice()), attr32(unix.RTA_OIF, uint32(k.LinkIndex)))
	if err != nil && !isErr(err, unix.EEXIST) {
		return fmt.Errorf("set local route of %s: %w", addr, err)
	}
	crash.Point("addr route")
	return nil
}

func addrParts(k AddrKey) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{
		ifAddrMsg(unix.IfAddrmsg{
			Family: family(k.Prefix.Addr()), Prefixlen: uint8(k.Prefix.Bits()), Index: uint32(k.LinkIndex),
		}),
		attr(unix.IFA_LOCAL, k.Prefix.Addr().AsSlice()),
	}
}

// Delete removes an address; nil if it or the device is gone, or if the index is
// no longer our device's.
func (a *Addresses) Delete(k AddrKey) error {
	if k.LinkIndex != a.index() {
		return nil
	}
	err := a.conn.write(unix.RTM_DELADDR, 0, addrParts(k)...)
	if isErr(err, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete address %s on %s: %w", k.Prefix, a.link, err)
	}
	crash.Point("addr")
	return nil
}
