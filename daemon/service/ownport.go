package service

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// ownPort makes the set by which the node's own sockets are served at its own node ports
// if the policy for outside is Local: c.chosen, which is what was chosen for Cluster, with
// the node port of another node in the place of that node's pods. There such a socket is a
// client from outside, whose address is kept; asked by way of the overlay, a pod would see
// the gateway. 0: it would be the set for Cluster.
func (c *compiler) ownPort(p source.ServicePort, ipv6 bool) bpf.SetID {
	if !c.svc.ExternalLocal || p.Protocol == source.SCTP { // sockets of that are not served
		return 0
	}
	if p.Protocol != source.UDP { // see port; also if none of them is chosen
		for _, e := range c.ends {
			if at, ok := c.nodePortOf(e, p, ipv6); ok {
				c.Alive[at.place(p.Protocol)] = at.generation
			}
		}
	}
	found := false
	for i, e := range c.chosen {
		if at, ok := c.nodePortOf(e, p, ipv6); ok {
			c.chosen[i], found = at, true
		}
	}
	if !found {
		return 0
	}
	return c.set(p, ipv6, "own port", 0, false)
}

// nodePortOf is the node port of the node that has an endpoint, for which it stands; false
// if it is this node, one that serves no node ports, or the endpoint is not behind them but
// on an address of that node itself.
func (c *compiler) nodePortOf(e endpoint, p source.ServicePort, ipv6 bool) (endpoint, bool) {
	if _, nodes := c.node.Addrs[e.at.Addr()]; nodes || e.local {
		return e, false
	}
	addrs := c.node.Others[e.Node]
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == ipv6 })
	if i < 0 {
		return e, false
	}
	e.at = netip.AddrPortFrom(addrs[i], p.NodePort)
	e.generation = generation("", addrs[i]) // it moves on to that node's other endpoints itself
	if g, ok := c.Alive[e.place(p.Protocol)]; ok {
		e.generation = g // another port's, of an endpoint that is there
	}
	return e, true
}
