package endpoint

import (
	"encoding/json"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/api"
)

// result is the answer to ADD: what the plugins before us in a chain said, and
// after it our two interfaces, the addresses and the routes.
func result(a *attachment, n Net, asked api.Attach, prev *types100.Result) *types100.Result {
	r := &types100.Result{}
	if prev != nil {
		r = prev
	}
	r.CNIVersion = "1.1.0"
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: a.host.name, Mac: hostMAC(a.lease.Owner).String(), Mtu: a.mtu},
		&types100.Interface{Name: a.lease.IfName, Mac: a.rec.MAC, Mtu: a.mtu, Sandbox: asked.Netns},
	)
	inside := len(r.Interfaces) - 1
	for _, addr := range a.lease.Addrs {
		gw := gatewayFor(addr, n.Gateways)
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inside, Address: ipNet(addr), Gateway: gw.AsSlice()})
		link := int(unix.RT_SCOPE_LINK)
		anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if addr.Is6() {
			anywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r.Routes = append(r.Routes,
			&types.Route{Dst: ipNet(gw), Scope: &link},
			&types.Route{Dst: net.IPNet{IP: anywhere.Addr().AsSlice(), Mask: net.CIDRMask(0, addr.BitLen())}, GW: gw.AsSlice(), MTU: a.mtu},
		)
	}
	if len(asked.DNS) > 0 {
		var dns types.DNS
		if err := json.Unmarshal(asked.DNS, &dns); err == nil && !dns.IsEmpty() {
			r.DNS = dns
		}
	}
	return r
}

func gatewayFor(addr netip.Addr, gateways []netip.Addr) netip.Addr {
	for _, g := range gateways {
		if g.Is4() == addr.Is4() {
			return g
		}
	}
	return netip.Addr{}
}

func ipNet(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
