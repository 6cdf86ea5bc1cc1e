package announce

import (
	"net/netip"

	"github.com/weftnet/weft/daemon/source"
)

// Need is what Services want of the node that announces one of their addresses.
type Need struct {
	Services []string // namespace/name, in the source's order
	// Nodes are the only ones that have what the Services' traffic policy needs; nil: any
	// node has.
	Nodes map[string]bool
	// Split says that no node has what all the Services need: Nodes are those that have
	// what one of them does.
	Split bool
}

// Has says whether a node has what is needed.
func (n Need) Has(node string) bool { return n.Nodes == nil || n.Nodes[node] }

// Needs returns all load balancer addresses of the Services that are ours, and what is
// needed to announce each. An address with the mode Proxy is none: it is somebody else's
// business who answers for it.
func Needs(services []*source.Service, slices source.List[source.EndpointSlice], ours func(*source.Service) bool) map[netip.Addr]Need {
	type name struct{ namespace, name string }
	needs := map[netip.Addr]Need{}
	local := map[name][]*source.EndpointSlice{}
	var list []*source.Service
	for _, s := range services {
		if len(s.LoadBalancerIPs) == 0 || s.ProxyName != "" || !ours(s) {
			continue
		}
		list = append(list, s)
		if s.ExternalLocal {
			local[name{s.Namespace, s.Name}] = nil
		}
	}
	if len(local) > 0 {
		for e := range slices.All() {
			k := name{e.Namespace, e.Service}
			if of, ok := local[k]; ok {
				local[k] = append(of, e)
			}
		}
	}
	for _, s := range list {
		for _, lb := range s.LoadBalancerIPs {
			if lb.Proxy {
				continue
			}
			need := needs[lb.IP]
			need.Services = append(need.Services, s.Namespace+"/"+s.Name)
			if s.ExternalLocal {
				need.restrict(withEndpoints(local[name{s.Namespace, s.Name}], lb.IP.Is6()))
			}
			needs[lb.IP] = need
		}
	}
	return needs
}

// restrict takes up that one more Service needs one of these nodes.
func (n *Need) restrict(nodes map[string]bool) {
	if n.Nodes == nil {
		n.Nodes = nodes
		return
	}
	both := map[string]bool{}
	for name := range nodes {
		if n.Nodes[name] {
			both[name] = true
		}
	}
	if len(both) > 0 && !n.Split {
		n.Nodes = both
		return
	}
	n.Split = n.Split || len(nodes) > 0 && len(n.Nodes) > 0
	for name := range nodes {
		n.Nodes[name] = true
	}
}

// withEndpoints are the nodes that have a ready endpoint of a family; if no endpoint is
// ready anywhere, those where one still does its work while it ends (KEP-1669). Never nil.
func withEndpoints(slices []*source.EndpointSlice, ipv6 bool) map[string]bool {
	ready, leaving := map[string]bool{}, map[string]bool{}
	for _, s := range slices {
		if s.IPv6 != ipv6 || len(s.Ports) == 0 {
			continue
		}
		for _, e := range s.Endpoints {
			switch {
			case e.Node == "":
			case e.Ready:
				ready[e.Node] = true
			case e.Serving && e.Terminating:
				leaving[e.Node] = true
			}
		}
	}
	if len(ready) == 0 {
		return leaving
	}
	return ready
}
