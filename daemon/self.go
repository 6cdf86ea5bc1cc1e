package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// surroundings is what the node's own rows are compiled from.
type surroundings struct {
	cfg     Config
	self    overlay.Node
	device  int // ifindex of weft-vxlan; 0 while it does not exist
	mtu     int // of the pods
	uplinks []overlay.Uplink
	cluster []netip.Prefix // pod prefixes of all nodes, merged
}

// overlayConfig is what overlay's functions want to know of the settings.
func (s surroundings) overlayConfig() overlay.Config {
	return overlay.Config{Mode: s.cfg.mode(), MTU: s.cfg.MTU, Device: s.device}
}

// selfDevice is the wanted VXLAN device: none before the node has an address.
func selfDevice(s surroundings) map[string]overlay.DeviceSpec {
	if len(s.self.Addrs) == 0 || s.mtu == 0 {
		return nil
	}
	return map[string]overlay.DeviceSpec{
		overlay.DeviceName: {MAC: overlay.NodeMAC(s.self.Addrs[0]), MTU: s.mtu, Port: s.cfg.Port},
	}
}

// selfRows is the addresses that end on the node itself: those by which the others
// know it, and its gateways.
func selfRows(s surroundings) map[netip.Addr]bpf.Endpoint {
	rows := map[netip.Addr]bpf.Endpoint{}
	for _, a := range slices.Concat(s.self.Addrs, overlay.GatewayAddrs(s.self.PodCIDRs)) {
		rows[a.Unmap()] = bpf.Endpoint{Flags: bpf.EndpointHost}
	}
	return rows
}

// selfStands is the addresses that stand in for clients of Services: towards pods the
// gateway, which leads back here through the overlay, towards nodes the first address. And
// the first one that serves node ports, which has the rows for those of other nodes.
func selfStands(s surroundings) map[bpf.Stand]netip.Addr {
	rows := map[bpf.Stand]netip.Addr{}
	first := func(k bpf.Stand, addrs []netip.Addr) {
		for _, a := range addrs {
			a = a.Unmap()
			k.IPv6 = a.Is6()
			if _, ok := rows[k]; !ok {
				rows[k] = a
			}
		}
	}
	prefixes, _ := s.cfg.nodePortPrefixes() // validated
	first(bpf.Stand{}, overlay.GatewayAddrs(s.self.PodCIDRs))
	first(bpf.Stand{Nodes: true}, s.self.Addrs)
	first(bpf.Stand{Ports: true}, nodePortAddrs(prefixes, s.self.Addrs))
	return rows
}

// selfHooks is the programs on the uplinks and on the VXLAN device.
func selfHooks(s surroundings) map[bpf.Hook]struct{} {
	hooks := map[bpf.Hook]struct{}{}
	for _, u := range s.uplinks {
		hooks[bpf.Hook{Program: bpf.FromUplink, IfIndex: u.Index}] = struct{}{}
		if s.cfg.Services {
			hooks[bpf.Hook{Program: bpf.ToUplink, IfIndex: u.Index}] = struct{}{}
		}
	}
	if s.device != 0 {
		hooks[bpf.Hook{Program: bpf.ToOverlay, IfIndex: s.device}] = struct{}{}
		hooks[bpf.Hook{Program: bpf.FromOverlay, IfIndex: s.device}] = struct{}{}
	}
	return hooks
}

// cluster is what the source says of all nodes, without what they may not have.
type cluster struct {
	self     overlay.Node            // zero if the source has none of our name
	peers    map[string]overlay.Node // without prefixes lost to others
	prefixes []netip.Prefix          // of all, merged
	lost     error                   // a prefix of ours belongs to another node
	clashes  []string                // who disputes what, for people
	of       []*source.Node          // what it was made of; nil: of what a former daemon knew
}

// holds says that the cluster is the one that these nodes make. Where they dispute a prefix
// it depends on what lives in it, too.
func (c cluster) holds(nodes []*source.Node) bool {
	return c.of != nil && len(c.clashes) == 0 && slices.Equal(c.of, nodes)
}

// survey sorts out the nodes. Of two nodes that claim the same addresses, the one
// whose name sorts first keeps them (overlay.Conflicts); what we lose we give up
// only if held says that no pod of ours lives in it.
func survey(name string, nodes []overlay.Node, held func(netip.Prefix) bool) cluster {
	conflicts := overlay.Conflicts(nodes)
	c := cluster{peers: make(map[string]overlay.Node, len(nodes))}
	kept := overlay.WithoutConflicts(nodes, conflicts)
	for i, n := range kept {
		if n.Name != name {
			c.peers[n.Name] = n
			continue
		}
		for _, p := range nodes[i].PodCIDRs {
			if !slices.Contains(n.PodCIDRs, p) && held(p) {
				n.PodCIDRs = append(slices.Clone(n.PodCIDRs), p)
			}
		}
		kept[i], c.self = n, n
	}
	for _, x := range conflicts {
		c.clashes = append(c.clashes, x.String())
		if x.Loser == name {
			c.lost = errors.New(x.String())
		}
	}
	c.prefixes = overlay.ClusterPrefixes(kept)
	return c
}

// bpfPeers is the rows of one node's prefixes for the datapath, some of which are mute.
func bpfPeers(peers []overlay.Peer, mute map[netip.Prefix]bool) map[netip.Prefix]bpf.Peer {
	rows := make(map[netip.Prefix]bpf.Peer, len(peers))
	for _, p := range peers {
		row := bpf.Peer{
			Remote: p.Remote, Local: p.Local, NextHop: p.NextHop, MAC: p.MAC,
			LinkIndex: uint32(p.LinkIndex), MTU: uint32(p.MTU),
		}
		if p.Direct {
			row.Flags |= bpf.PeerDirect
		}
		if mute[p.Prefix] {
			row.Flags |= bpf.PeerMute
		}
		rows[p.Prefix] = row
	}
	return rows
}

// bpfNodes is one node's addresses for the datapath, with ours towards those that the overlay
// uses.
func bpfNodes(n overlay.Node, peers []overlay.Peer) map[netip.Addr]netip.Addr {
	rows := make(map[netip.Addr]netip.Addr, len(n.Addrs))
	for _, a := range n.Addrs {
		rows[a.Unmap()] = netip.Addr{}
	}
	for _, p := range peers {
		rows[p.Remote] = p.Local
	}
	return rows
}

// usable says what the node lacks before it can have pods, as a problem of a kind.
func usable(name string, self overlay.Node) (what string, err error) {
	switch {
	case self.Name == "":
		return problemNoNode, fmt.Errorf("the source has no Node %q: add it, or set node-name to the name it has", name)
	case len(self.PodCIDRs) == 0:
		return problemNoPodCIDR, fmt.Errorf("node %q has no spec.podCIDRs: waiting for them", name)
	case len(self.Addrs) == 0:
		return problemNoAddress, fmt.Errorf("node %q has no InternalIP in status.addresses: waiting for one", name)
	}
	return "", nil
}

// showNode is a peer as `weft nodes` shows it.
func showNode(n overlay.Node, rows []overlay.Peer, err error, links map[int]string, p reach) api.Node {
	out := api.Node{Name: n.Name, PodCIDRs: n.PodCIDRs, Reach: p.String(), Via: "no prefix that we can reach"}
	if len(n.Addrs) > 0 {
		out.Addr = n.Addrs[0]
	}
	if p.ok() {
		out.RTT = p.result.RTT.String()
	}
	if err != nil {
		out.Via = err.Error()
	}
	if len(rows) > 0 {
		r := rows[0]
		out.Addr, out.MTU, out.Link, out.Via = r.Remote, r.MTU, links[r.LinkIndex], "vxlan"
		if r.Direct {
			out.Via = "direct"
		}
	}
	return out
}
