package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// node is a node and the addresses by which its own traffic comes.
type node struct {
	obj   *source.Node
	sig   *sig
	addrs []netip.Addr // InternalIPs and gateways
}

func (c *Compiler) updateNodes(now []*source.Node) {
	moved := false
	diff(c.nodeList, now, func(a, b *source.Node) int { return compareText(a.Name, b.Name) },
		func(o *source.Node) {
			n := c.nodes[o.Name]
			for _, a := range n.addrs {
				m := c.crowd(a)
				m.nodes = without(m.nodes, n)
			}
			delete(c.nodes, o.Name)
			moved = true
		},
		func(o *source.Node) {
			n := &node{obj: o, sig: c.noSig}
			for _, a := range append(slices.Clone(o.InternalIPs), overlay.GatewayAddrs(o.PodCIDRs)...) {
				if !slices.Contains(n.addrs, a) {
					n.addrs = append(n.addrs, a)
				}
			}
			for _, a := range n.addrs {
				m := c.crowd(a)
				m.nodes = append(m.nodes, n)
			}
			c.nodes[o.Name] = n
			moved = true
		})
	c.nodeList = now
	if !moved {
		return
	}
	c.work.nodes = true
	for _, p := range c.pods { // what they announce may be theirs now, or not any more
		if len(p.obj.Announced) > 0 && len(p.obj.IPs) == 0 {
			c.work.pods[p] = struct{}{}
		}
	}
}

// matchNodes finds what nodes match.
func (c *Compiler) matchNodes() {
	if !c.work.nodes {
		return
	}
	var found []*atom
	for _, n := range c.nodes {
		found = found[:0]
		c.nodeSel.each(n.obj.Labels, func(a *atom) {
			if matches(a.sel, n.obj.Labels) {
				found = append(found, a)
			}
		})
		if s := c.sigOf(found); s != n.sig {
			n.sig = s
			for _, a := range n.addrs {
				c.place(a)
			}
		}
	}
}

// nodeAt is what an address of nodes matches as theirs, and the blocks that have it.
// A gateway is not known to who writes policies: it is matched as the node's own
// addresses of its family are, if there are some.
func (c *Compiler) nodeAt(a netip.Addr, at []*node, blocks *sig) (nodes, of *sig) {
	if len(at) == 1 {
		nodes = at[0].sig
	} else {
		nodes = c.union(at)
	}
	var all []*atom
	for _, n := range at {
		if slices.Contains(n.obj.InternalIPs, a) {
			return nodes, blocks
		}
		for _, ip := range n.obj.InternalIPs {
			if ip.Is4() == a.Is4() {
				all = c.blocksOf(netip.PrefixFrom(ip, ip.BitLen()), all)
				of = c.noSig
			}
		}
	}
	if of == nil {
		return nodes, blocks
	}
	slices.SortFunc(all, func(a, b *atom) int { return int(int64(a.id) - int64(b.id)) })
	return nodes, c.sigOf(slices.Compact(all))
}

func (c *Compiler) union(at []*node) *sig {
	var all []*atom
	for _, n := range at {
		all = append(all, n.sig.atoms...)
	}
	slices.SortFunc(all, func(a, b *atom) int { return int(int64(a.id) - int64(b.id)) })
	return c.sigOf(slices.Compact(all))
}
