package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// book is what was compiled for each of the other nodes, so that a change of one
// recompiles that one. It is not safe for concurrent use.
type book struct {
	lookup func([]netip.Addr) (map[netip.Addr]overlay.Path, error)
	put    func(name string, rows peerRows)

	cfg     overlay.Config
	self    overlay.Node
	entries map[string]*entry
	byName  []*entry // of entries; nil: not made since one came or went
	paths   map[netip.Addr]overlay.Path
	lost    map[netip.Addr]bool   // addresses whose path is a former one: there is none now
	mute    map[netip.Prefix]bool // nodes' prefixes that cannot answer clients; see daemon/returns
}

// peerRows is what one of the other nodes wants of the kernel's tables.
type peerRows struct {
	peers  map[netip.Prefix]bpf.Peer
	nodes  map[netip.Addr]netip.Addr
	routes map[overlay.RouteKey]overlay.Route
}

// entry is one node.
type entry struct {
	node    overlay.Node
	remotes []netip.Addr // addresses whose paths it depends on
	rows    []overlay.Peer
	err     error
	reach   reach
}

func newBook(
	lookup func([]netip.Addr) (map[netip.Addr]overlay.Path, error),
	put func(string, peerRows),
) *book {
	return &book{
		lookup: lookup, put: put, entries: map[string]*entry{},
		paths: map[netip.Addr]overlay.Path{}, lost: map[netip.Addr]bool{}, mute: map[netip.Prefix]bool{},
	}
}

// update compiles the nodes that changed; all of them if we ourselves did.
func (b *book) update(cfg overlay.Config, self overlay.Node, nodes map[string]overlay.Node) {
	all := cfg != b.cfg || !sameNode(self, b.self)
	b.cfg, b.self = cfg, self
	for name := range b.entries {
		if _, ok := nodes[name]; !ok {
			delete(b.entries, name)
			b.byName = nil
			b.put(name, peerRows{})
		}
	}
	var dirty []*entry
	var unknown []netip.Addr
	for name, n := range nodes {
		e := b.entries[name]
		if e == nil {
			e = &entry{}
			b.entries[name], b.byName = e, nil
		} else if !all && sameNode(e.node, n) {
			continue
		}
		e.node = n
		e.remotes, e.err = overlay.Remotes(cfg, self, n)
		dirty = append(dirty, e)
		for _, a := range e.remotes {
			if _, ok := b.paths[a]; !ok {
				unknown = append(unknown, a)
			}
		}
	}
	if len(unknown) > 0 {
		found, _ := b.lookup(unknown) // what has no way is the compilation's error
		maps.Copy(b.paths, found)
	}
	for _, e := range dirty {
		b.compile(e)
	}
}

// refreshPaths asks the kernel for all ways again and compiles what they changed.
func (b *book) refreshPaths() {
	users := map[netip.Addr][]*entry{}
	for _, e := range b.entries {
		for _, a := range e.remotes {
			users[a] = append(users[a], e)
		}
	}
	found, _ := b.lookup(slices.Collect(maps.Keys(users)))
	dirty := map[*entry]bool{}
	old := b.paths
	b.paths = make(map[netip.Addr]overlay.Path, len(users))
	for a, es := range users {
		was, had := old[a]
		now, ok := found[a]
		// A link that flaps must not turn a peer into "the internet": the former way
		// stays until there is another.
		lost := !ok && had
		if lost {
			now, ok = was, true
		}
		if ok {
			b.paths[a] = now
		}
		if had == ok && was == now && b.lost[a] == lost {
			continue
		}
		b.lost[a] = lost
		for _, e := range es {
			dirty[e] = true
		}
	}
	maps.DeleteFunc(b.lost, func(a netip.Addr, lost bool) bool { return !lost || users[a] == nil })
	for e := range dirty {
		b.compile(e)
	}
}

// compile makes one node's rows. Where there is no way to it, its prefixes are
// unreachable: they must not follow the default route out of the cluster.
func (b *book) compile(e *entry) {
	rows, routes, err := overlay.Compile(b.cfg, b.self, e.node, b.paths)
	e.rows, e.err = rows, err
	if len(e.remotes) > 0 && len(rows) == 0 {
		if _, ok := b.paths[e.remotes[0]]; !ok {
			routes = b.deadEnds(e.node)
		}
	}
	if e.err == nil && slices.ContainsFunc(e.remotes, func(a netip.Addr) bool { return b.lost[a] }) {
		e.err = fmt.Errorf("node %s: no way to %v now, the former one is kept", e.node.Name, e.remotes)
	}
	b.put(e.node.Name, peerRows{bpfPeers(rows, b.mute), bpfNodes(e.node, rows), routes})
}

// deadEnds is unreachable routes for the prefixes of a node that could be reached
// if there were a way.
func (b *book) deadEnds(n overlay.Node) map[overlay.RouteKey]overlay.Route {
	routes := map[overlay.RouteKey]overlay.Route{}
	for _, p := range n.PodCIDRs {
		taken := slices.ContainsFunc(b.self.PodCIDRs, p.Overlaps) ||
			slices.ContainsFunc(slices.Concat(b.self.Addrs, n.Addrs), p.Contains)
		if !taken {
			routes[overlay.RouteKey{Dst: p.Masked(), Metric: overlay.MetricUnreachable}] = overlay.Route{Unreachable: true}
		}
	}
	return routes
}

// outerFamilies is one peer for each address family that the outer packets have:
// what the pods' MTU depends on.
func outerFamilies(self overlay.Node, nodes map[string]overlay.Node) []overlay.Peer {
	var v4, v6 netip.Addr
	for _, n := range nodes {
		if _, remote, err := overlay.Outer(self, n); err == nil && remote.Is4() {
			v4 = remote
		} else if err == nil {
			v6 = remote
		}
		if v4.IsValid() && v6.IsValid() {
			break
		}
	}
	var out []overlay.Peer
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			out = append(out, overlay.Peer{Remote: a})
		}
	}
	return out
}

// reaches counts the peers by how they answer, in the order of the states' names.
func (b *book) reaches() []api.Reach {
	const show = 5
	byState := map[string]*api.Reach{}
	for _, e := range b.sorted() {
		state := e.reach.String()
		r := byState[state]
		if r == nil {
			r = &api.Reach{State: state}
			byState[state] = r
		}
		r.Nodes++
		if !e.reach.ok() && len(r.Names) < show {
			r.Names = append(r.Names, e.node.Name)
		}
	}
	out := []api.Reach{}
	for _, state := range slices.Sorted(maps.Keys(byState)) {
		out = append(out, *byState[state])
	}
	return out
}

// sorted is the entries in the order of their names. It is not to be changed.
func (b *book) sorted() []*entry {
	if b.byName == nil {
		b.byName = slices.SortedFunc(maps.Values(b.entries), func(x, y *entry) int {
			return cmp.Compare(x.node.Name, y.node.Name)
		})
	}
	return b.byName
}

func sameNode(a, b overlay.Node) bool {
	return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
}
