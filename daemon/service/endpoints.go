package service

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// endpoint is where one endpoint receives what comes to the port at hand.
type endpoint struct {
	at netip.AddrPort
	*source.SliceEndpoint
	local      bool // on this node
	lost       bool // on a node that is
	generation uint32
}

func (e endpoint) place(p source.Protocol) bpf.Place {
	return bpf.Place{Addr: e.at.Addr(), Port: e.at.Port(), Protocol: bpf.Protocol(p)}
}

// leaving: it still does its work but gets nothing new, if others are ready (KEP-1669).
func (e endpoint) leaving() bool { return e.Serving && e.Terminating }

func (c *compiler) local(e *source.SliceEndpoint) bool { return e.Node != "" && e.Node == c.node.Name }

// isOverlay: what came there would be taken for another node's pods'.
func (c *compiler) isOverlay(e *source.SliceEndpoint, p source.SlicePort) bool {
	if p.Protocol != source.UDP || p.Port != c.node.OverlayPort {
		return false
	}
	_, node := c.node.Addrs[e.IP]
	return node
}

// collect puts all endpoints of a port and family into c.ends, by address and port.
func (c *compiler) collect(p source.ServicePort, ipv6 bool) {
	c.ends = c.ends[:0]
	for _, s := range c.slices {
		if s.IPv6 != ipv6 {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol || sp.Port == 0 {
				continue
			}
			c.ends = slices.Grow(c.ends, len(s.Endpoints))
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				if c.isOverlay(e, sp) {
					c.barred = true
					continue
				}
				c.ends = append(c.ends, endpoint{
					at: netip.AddrPortFrom(e.IP, sp.Port), SliceEndpoint: e,
					local: c.local(e), lost: c.node.IsLost(e), generation: generation(e.TargetUID, e.IP),
				})
			}
		}
	}
	slices.SortFunc(c.ends, func(a, b endpoint) int {
		if by := a.at.Compare(b.at); by != 0 {
			return by
		}
		return compareSame(a, b)
	})
	// An endpoint that moves to another slice is in both for a while.
	c.ends = slices.CompactFunc(c.ends, func(a, b endpoint) bool { return a.at == b.at })
	if len(c.Alive) == 0 {
		return
	}
	// Two ports may lead to one place. If slices disagree about who is there, the
	// first port is right, as all must say the same.
	for i, e := range c.ends {
		if g, ok := c.Alive[e.place(p.Protocol)]; ok {
			c.ends[i].generation = g
		}
	}
}

// compareSame orders what two slices say of one address: what to believe comes first.
func compareSame(a, b endpoint) int {
	return cmp.Or(
		trueFirst(a.local, b.local),
		trueFirst(a.Ready, b.Ready),
		trueFirst(a.Serving, b.Serving),
		trueFirst(b.Terminating, a.Terminating),
		cmp.Compare(a.TargetUID, b.TargetUID),
		slices.Compare(a.ForNodes(), b.ForNodes()),
		slices.Compare(a.ForZones(), b.ForZones()),
	)
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// choose puts the endpoints that are wanted into c.chosen.
func (c *compiler) choose(wanted func(endpoint) bool) {
	c.chosen, c.whole = c.chosen[:0], nil
	for _, e := range c.ends {
		if wanted(e) {
			c.chosen = append(c.chosen, e)
		}
	}
}

// chooseCluster chooses for the policy Cluster: what is ready, and of it what hints keep
// for this node or zone; if nothing is ready anywhere, what is leaving. What is on a lost
// node is none of all that, unless there is nothing else: then it is as good as any.
func (c *compiler) chooseCluster() {
	all := func(endpoint) bool { return true }
	if !slices.ContainsFunc(c.ends, func(e endpoint) bool { return e.lost }) {
		c.chooseOf(all)
		return
	}
	c.chooseOf(all)
	whole := slices.Clone(c.chosen)
	c.chooseOf(func(e endpoint) bool { return !e.lost })
	if len(c.chosen) == 0 {
		c.chooseOf(all)
		return
	}
	kept := slices.DeleteFunc(slices.Clone(whole), func(e endpoint) bool { return e.lost })
	if slices.EqualFunc(kept, c.chosen, func(a, b endpoint) bool { return a.at == b.at }) && len(kept) < len(whole) && len(whole) <= maxBackends {
		c.whole = whole
	}
}

// chooseOf is chooseCluster among some endpoints.
func (c *compiler) chooseOf(may func(endpoint) bool) {
	prefers := c.preference(may)
	c.choose(func(e endpoint) bool { return e.Ready && may(e) && (prefers == nil || prefers(e)) })
	if len(c.chosen) == 0 {
		c.choose(func(e endpoint) bool { return e.leaving() && may(e) })
	}
}

// chooseLocal chooses for the policy Local: what is ready on this node; if nothing, what
// is leaving there. It returns the flags of the set.
func (c *compiler) chooseLocal() uint32 {
	c.choose(func(e endpoint) bool { return e.local && e.Ready })
	if len(c.chosen) == 0 {
		c.choose(func(e endpoint) bool { return e.local && e.leaving() })
	}
	elsewhere := func(e endpoint) bool { return e.Ready || e.leaving() }
	if len(c.chosen) == 0 && slices.ContainsFunc(c.ends, elsewhere) {
		return bpf.SetDrop
	}
	return 0
}

// preference says which ready endpoints of some the hints keep for this node; nil: all.
// Hints count only if every one has some and one has ours; those of nodes go first.
// spec.trafficDistribution is not asked: who makes the slices did that.
func (c *compiler) preference(may func(endpoint) bool) func(endpoint) bool {
	forNode := func(e endpoint) bool { return c.node.Name != "" && slices.Contains(e.ForNodes(), c.node.Name) }
	forZone := func(e endpoint) bool { return c.node.Zone != "" && slices.Contains(e.ForZones(), c.node.Zone) }
	nodeHints, zoneHints := true, true
	node, zone := false, false
	for _, e := range c.ends {
		if !e.Ready || !may(e) {
			continue
		}
		nodeHints = nodeHints && len(e.ForNodes()) > 0
		zoneHints = zoneHints && len(e.ForZones()) > 0
		if !nodeHints && !zoneHints {
			return nil
		}
		node = node || forNode(e)
		zone = zone || forZone(e)
	}
	switch {
	case nodeHints && node:
		return forNode
	case zoneHints && zone:
		return forZone
	}
	return nil
}
