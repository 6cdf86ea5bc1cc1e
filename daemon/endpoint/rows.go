package endpoint

import (
	"net/netip"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/ipam"
	"github.com/weftnet/weft/overlay"
)

// putRows says in the tables what the attachment wants there.
func (m *Manager) putRows(a *attachment, w wiring, offer Net) {
	m.update(a, func(a *attachment) { a.offered = offer.Gateways })
	owner := rowOwner(w.owner)
	routes := map[overlay.RouteKey]overlay.Route{}
	neighs := map[overlay.NeighKey]overlay.NeighMAC{}
	for i, addr := range w.addrs {
		routes[overlay.RouteKey{Dst: netip.PrefixFrom(addr, addr.BitLen())}] =
			overlay.Route{LinkIndex: a.host.index, Src: w.sources[i]}
		neighs[overlay.NeighKey{LinkIndex: a.host.index, IP: addr}] = overlay.NeighMAC(w.mac)
	}
	m.Routes.Put(owner, routes)
	m.Neighs.Put(owner, neighs)
	m.putEndpoints(a, w)
	hooks := map[bpf.Hook]struct{}{}
	for _, p := range podPrograms {
		hooks[bpf.Hook{Program: p, IfIndex: a.host.index}] = struct{}{}
	}
	m.Links.Put(owner, hooks)
}

// putEndpoints says in the table what the attachment's endpoint rows are.
func (m *Manager) putEndpoints(a *attachment, w wiring) {
	m.rowsMu.Lock()
	defer m.rowsMu.Unlock()
	a.rows, a.isolation = true, m.Policies.Isolation(refOf(w.owner))
	rows := map[netip.Addr]bpf.Endpoint{}
	for _, addr := range w.addrs {
		rows[addr] = w.row(a)
	}
	m.Rows.Put(rowOwner(w.owner), rows)
}

// dropEndpoints says in the table that an owner has no endpoint rows.
func (m *Manager) dropEndpoints(o ipam.Owner) {
	m.rowsMu.Lock()
	defer m.rowsMu.Unlock()
	if a := m.get(o); a != nil {
		a.rows = false
	}
	m.Rows.Put(rowOwner(o), nil)
}

// podPrograms run on the host end of every pod's veth.
var podPrograms = []bpf.Program{bpf.FromPod, bpf.ToPod}

// row is the BPF row of each of the attachment's addresses.
func (w wiring) row(a *attachment) bpf.Endpoint {
	r := bpf.Endpoint{
		IfIndex: uint32(a.host.index), MAC: [6]byte(w.mac), HostMAC: [6]byte(hostMAC(w.owner)),
		Ingress: a.isolation.Ingress, Egress: a.isolation.Egress,
	}
	if a.stack || limitsIn(w.bandwidth) || limitsOut(w.bandwidth) {
		r.Flags |= bpf.EndpointStack
	}
	return r
}
