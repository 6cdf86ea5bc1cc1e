package daemon

import (
	"net/netip"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// nameEnds says whose the addresses are, as far as it is known and not said yet: pods' and
// nodes'. It looks once through all that there are, whatever the number of ends, so that no
// index of the cluster's addresses must be kept.
func nameEnds(state source.State, ends []*api.DropEnd) {
	unnamed := map[netip.Addr][]*api.DropEnd{}
	for _, e := range ends {
		if e.Pod == "" && e.Node == "" && e.Addr.IsValid() {
			unnamed[e.Addr] = append(unnamed[e.Addr], e)
		}
	}
	if len(unnamed) == 0 {
		return
	}
	name := func(addrs []netip.Addr, pod, node string) {
		for _, a := range addrs {
			for _, e := range unnamed[a] {
				if e.Pod == "" && e.Node == "" {
					e.Pod, e.Node = pod, node
				}
			}
		}
	}
	for _, n := range state.Nodes {
		name(n.InternalIPs, "", n.Name)
		name(overlay.GatewayAddrs(n.PodCIDRs), "", n.Name)
	}
	for _, p := range state.Pods {
		if p.HostNetwork || p.Finished {
			continue
		}
		addrs := p.IPs
		if len(addrs) == 0 {
			addrs = p.Announced
		}
		for _, a := range addrs {
			if unnamed[a] != nil {
				name([]netip.Addr{a}, p.Namespace+"/"+p.Name, p.Node)
			}
		}
	}
}

// nameDrops is drops with the names of their ends. The list may be changed, what it points
// to is not.
func nameDrops(state source.State, list []api.Drop) []api.Drop {
	var ends []*api.DropEnd
	for i := range list {
		d := &list[i]
		ends = append(ends, &d.Src, &d.Dst)
		if d.Backend != nil {
			backend := *d.Backend
			d.Backend = &backend
			ends = append(ends, d.Backend)
		}
	}
	nameEnds(state, ends)
	return list
}
