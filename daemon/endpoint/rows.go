package endpoint

import (
	"net/netip"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/overlay"
)

// putRows says in the tables what the attachment wants there.
func (m *Manager) putRows(a *attachment, w wiring) {
	owner := rowOwner(w.owner)
	routes := map[overlay.RouteKey]overlay.Route{}
	neighs := map[overlay.NeighKey]overlay.NeighMAC{}
	rows := map[netip.Addr]bpf.Endpoint{}
	for i, addr := range w.addrs {
		routes[overlay.RouteKey{Dst: netip.PrefixFrom(addr, addr.BitLen())}] =
			overlay.Route{LinkIndex: a.host.index, Src: w.gateways[i]}
		neighs[overlay.NeighKey{LinkIndex: a.host.index, IP: addr}] = overlay.NeighMAC(w.mac)
		rows[addr] = w.row(a)
	}
	m.Routes.Put(owner, routes)
	m.Neighs.Put(owner, neighs)
	m.Rows.Put(owner, rows)
	hooks := map[bpf.Hook]struct{}{}
	for _, p := range podPrograms {
		hooks[bpf.Hook{Program: p, IfIndex: a.host.index}] = struct{}{}
	}
	m.Links.Put(owner, hooks)
}

// podPrograms run on the host end of every pod's veth.
var podPrograms = []bpf.Program{bpf.FromPod, bpf.ToPod}

// row is the BPF row of each of the attachment's addresses.
func (w wiring) row(a *attachment) bpf.Endpoint {
	r := bpf.Endpoint{IfIndex: uint32(a.host.index), MAC: [6]byte(w.mac), HostMAC: [6]byte(hostMAC(w.owner))}
	if a.stack || limitsIn(w.bandwidth) || limitsOut(w.bandwidth) {
		r.Flags |= bpf.EndpointStack
	}
	return r
}
