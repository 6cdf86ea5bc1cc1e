package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/daemon/announce"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/overlay"
)

// known is the nodes as one of them sees them.
type known struct {
	candidates []announce.Node           // that may announce addresses, this one among them
	probed     map[string]netip.Addr     // where each other one is probed
	from       map[netip.Addr]netip.Addr // by which of our addresses
	taken      map[netip.Addr]bool       // addresses of nodes, which their kernels answer for
}

// neighbours sorts the nodes. Those that this one has no family in common with are not on
// its links, and those with the exclude label announce nothing.
func neighbours(name string, self overlay.Node, nodes []*source.Node) known {
	k := known{probed: map[string]netip.Addr{}, from: map[netip.Addr]netip.Addr{}, taken: map[netip.Addr]bool{}}
	for _, n := range nodes {
		for _, a := range n.InternalIPs {
			k.taken[a.Unmap()] = true
		}
		if n.Name != name {
			local, remote, err := overlay.Outer(self, overlay.Node{Name: n.Name, Addrs: n.InternalIPs})
			if err != nil {
				continue
			}
			k.probed[n.Name], k.from[remote] = remote, local
		}
		if _, excluded := n.Labels[excludeLabel]; !excluded {
			k.candidates = append(k.candidates, announce.Node{Name: n.Name, Addrs: n.InternalIPs})
		}
	}
	return k
}

// placesOf works out how a node stands to each address. former is what it was when nodes
// and links were the same; it may be nil.
func placesOf(name string, nodes []announce.Node, taken map[netip.Addr]bool, links []overlay.Link,
	needs map[netip.Addr]announce.Need, former map[netip.Addr]place) map[netip.Addr]place {
	var prefixes []netip.Prefix
	for _, l := range links {
		prefixes = append(prefixes, l.Prefixes...)
	}
	places := make(map[netip.Addr]place, len(needs))
	for a, need := range needs {
		if taken[a] {
			continue
		}
		if was, ok := former[a]; ok && sameNeed(was.need, need) {
			was.need = need
			places[a] = was
			continue
		}
		p := place{need: need}
		able := slices.DeleteFunc(slices.Clone(announce.Near(a, prefixes, nodes)), func(n announce.Node) bool { return !need.Has(n.Name) })
		p.Ahead, p.May = announce.Ahead(a, name, able)
		p.first = announce.First(a, able)
		link, ok := overlay.LinkOf(links, a)
		if p.link = link; !ok {
			p.May = false
		}
		places[a] = p
	}
	return places
}

func sameNeed(a, b announce.Need) bool {
	return (a.Nodes == nil) == (b.Nodes == nil) && maps.Equal(a.Nodes, b.Nodes) && a.Split == b.Split
}

func sameLink(a, b overlay.Link) bool {
	return a.Index == b.Index && a.Name == b.Name && a.MAC == b.MAC && a.Default4 == b.Default4 &&
		a.Default6 == b.Default6 && slices.Equal(a.Prefixes, b.Prefixes)
}

// nowhere says of which addresses this node cannot be the announcer for want of a link, and
// which nobody can announce for all Services.
func nowhere(places map[netip.Addr]place) []string {
	var texts []string
	for _, a := range slices.SortedFunc(maps.Keys(places), netip.Addr.Compare) {
		p := places[a]
		if p.link.Index == 0 {
			texts = append(texts, fmt.Sprintf("%s of %s is on no link of this node: no device has a prefix around it, "+
				"and there is no default route", a, p.need.Services[0]))
		}
		if p.need.Split {
			texts = append(texts, fmt.Sprintf("%s is shared by %v, but no node has endpoints of all of them: "+
				"those with externalTrafficPolicy Local on other nodes get no traffic", a, p.need.Services))
		}
	}
	return texts
}
