package overlay

import (
	"hash/fnv"
	"net/netip"
)

// GatewayAddrs returns the node's gateway address in each of its pod prefixes:
// the first host address. Prefixes without room for a pod have none.
func GatewayAddrs(prefixes []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range prefixes {
		if g := gateway(p); g.IsValid() {
			out = append(out, g)
		}
	}
	return out
}

// gateway is invalid for prefixes that have no room for a gateway and a pod.
func gateway(p netip.Prefix) netip.Addr {
	if !p.IsValid() || p.Addr().BitLen()-p.Bits() < 2 {
		return netip.Addr{}
	}
	return p.Masked().Addr().Next()
}

// gatewayOf returns the first gateway of a family.
func gatewayOf(prefixes []netip.Prefix, is4 bool) (netip.Addr, bool) {
	for _, g := range GatewayAddrs(prefixes) {
		if g.Is4() == is4 {
			return g, true
		}
	}
	return netip.Addr{}, false
}

// NodeMAC returns the MAC of the weft-vxlan device of the node with that outer
// address: 0e:57 and the FNV-1a hash of its 16 bytes. It is computed, so that no
// node need learn it from another. 0e is unicast and locally administered.
func NodeMAC(outer netip.Addr) [6]byte {
	b := outer.As16()
	h := fnv.New32a()
	h.Write(b[:])
	return [6]byte(h.Sum([]byte{0x0e, 0x57}))
}

// linkLocal returns the link-local address of a MAC (RFC 4291, appendix A).
func linkLocal(m [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// Overhead returns the bytes that encapsulation adds to an IP packet: outer IP
// (20 or 40), UDP (8), VXLAN (8, RFC 7348) and the inner Ethernet header (14).
func Overhead(outer netip.Addr) int {
	if outer.Unmap().Is4() {
		return 50
	}
	return 70
}

func prefixIs6(p netip.Prefix) bool { return p.Addr().Is6() }
