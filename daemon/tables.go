package daemon

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/overlay"
)

// tables is every kernel table of the node. Pods' rows are in them beside the
// node's: see the owners below.
type tables struct {
	sysctls   *overlay.Sysctls // also tells which are wanted
	chainer   *overlay.Chains  // also tells which back end is in use
	offloader *overlay.Offload // also remembers what was turned off

	device *reconcile.Table[string, overlay.DeviceSpec]
	sysctl *reconcile.Table[string, string]
	addrs  *reconcile.Table[overlay.AddrKey, struct{}]
	routes *reconcile.Table[overlay.RouteKey, overlay.Route]
	neighs *reconcile.Table[overlay.NeighKey, overlay.NeighMAC]
	rows   *reconcile.Table[netip.Addr, bpf.Endpoint]
	peers  *reconcile.Table[netip.Prefix, bpf.Peer]
	nodes  *reconcile.Table[netip.Addr, netip.Addr]
	links  *reconcile.Table[bpf.Hook, struct{}]
	// Of Services and host ports; their targets are in served.
	alive     *reconcile.Table[bpf.Place, uint32]
	backends  *reconcile.Table[bpf.Slot, bpf.Backend]
	maglev    *reconcile.Table[bpf.Block, bpf.MaglevRow]
	ranges    *reconcile.Table[bpf.Range, struct{}]
	sets      *reconcile.Table[bpf.SetID, bpf.Set]
	frontends *reconcile.Table[bpf.Place, bpf.Frontend]

	// Of policies; only [policies] writes them, as their order matters.
	rules   *reconcile.Flat[bpf.RuleKey, bpf.RuleRow]
	classes *reconcile.Flat[netip.Prefix, bpf.Class]

	// Of load balancers' addresses; only [announcer] says what it wants.
	announced *reconcile.Table[netip.Addr, bpf.Announced]

	own     *reconcile.Table[bpf.Stand, netip.Addr]
	sockets *reconcile.Table[bpf.Program, struct{}]

	chains  *reconcile.Table[overlay.ChainKey, overlay.Chain]
	offload *reconcile.Table[string, bool]

	rowTarget  reconcile.Target[netip.Addr, bpf.Endpoint]
	linkTarget reconcile.Target[bpf.Hook, struct{}]
	served     bpf.Services
}

// Owners of rows. Pods' are "pod:<containerID>/<ifname>" (daemon/endpoint).
const ownerSelf = "self"

func ownerNode(name string) string { return "node:" + name }

func ownerService(k serviceName) string { return "svc:" + k.String() }

func ownerPorts(r api.Ref) string { return "hostport:" + r.String() }

// Files below the state folder; see docs/ARCHITECTURE.md, "Ownership".
const (
	sysctlFile   = "sysctls.json"
	offloadFile  = "offload.json"
	groupsFile   = "groups.json"
	nodeFile     = "node.json"
	nodesFile    = "nodes.json"
	policiesFile = "policies.json"
	serversFile  = "apiservers.json"
	lockFile     = "weftd.lock"
)

// newTables opens the tables of this network namespace, and of the cgroup whose sockets
// are served. Nothing is read or written.
func newTables(stateDir, cgroup string, dp *bpf.Datapath) *tables {
	sysctls := overlay.NewSysctls(filepath.Join(stateDir, sysctlFile))
	chains := overlay.NewChains()
	offload := overlay.NewOffload(filepath.Join(stateDir, offloadFile))
	rows, links := dp.Endpoints(), dp.Links()
	t := &tables{
		sysctls: sysctls, chainer: chains, offloader: offload,
		rowTarget: rows, linkTarget: links,

		device:    reconcile.New("device", overlay.NewDevice(overlay.DeviceName)),
		sysctl:    reconcile.New("sysctls", sysctls),
		addrs:     reconcile.New("addresses", overlay.NewAddresses(overlay.DeviceName)),
		routes:    reconcile.New("routes", overlay.NewRoutes()),
		neighs:    reconcile.New("neighbours", overlay.NewNeighbours(ourLink)),
		rows:      reconcile.New("endpoints", rows),
		peers:     reconcile.New("peers", dp.Peers()),
		nodes:     reconcile.New("nodes", dp.Nodes()),
		links:     reconcile.New("links", links),
		own:       reconcile.New("own", dp.Own()),
		sockets:   reconcile.New("sockets", dp.SocketHooks(cgroup)),
		chains:    reconcile.New("chains", chains),
		offload:   reconcile.New("offload", offload),
		announced: reconcile.New("announced", dp.Announced()),
		rules:     reconcile.NewFlat("rules", dp.Rules()),
		classes:   reconcile.NewFlat("classes", dp.Classes()),
	}
	t.serve(dp.Services())
	return t
}

// serve opens the tables of Services.
func (t *tables) serve(s bpf.Services) {
	t.served = s
	t.alive = reconcile.New("alive", s.Alive)
	t.backends = reconcile.New("backends", s.Backends)
	t.maglev = reconcile.New("maglev", s.Maglev)
	t.ranges = reconcile.New("ranges", s.Ranges)
	t.sets = reconcile.New("sets", s.Sets)
	t.frontends = reconcile.New("frontends", s.Frontends)
	t.frontends.Prefer(stricter)
	// A Service whose backends find no room stays as it was, or is not served, rather than
	// have sets that count backends which are not there. One without a whole Maglev table is
	// served, but not by every node alike.
	t.backends.After(t.alive)
	t.sets.After(t.alive, t.backends)
	t.frontends.After(t.alive, t.backends, t.sets)
	t.alive.HoldFor(t.alive, t.backends)
	t.backends.HoldFor(t.alive, t.backends)
}

// stricter puts first what of two owners' places takes nothing that is not its own: a ClusterIP,
// which nobody can choose at will, before an outer address, which everybody can who may make a
// Service; and of these one with source ranges.
func stricter(a, b bpf.Frontend) int {
	rank := func(f bpf.Frontend) int {
		switch {
		case f.Outside == 0:
			return 0
		case f.Ranges != 0:
			return 1
		}
		return 2
	}
	return cmp.Compare(rank(a), rank(b))
}

// noRoom is the owners of rows of Services that cannot be written.
func (t *tables) noRoom() []string {
	names := map[string]struct{}{}
	for _, table := range []reconcile.Unwritten{t.alive, t.backends, t.maglev, t.ranges, t.sets, t.frontends} {
		maps.Copy(names, table.Unwritten())
	}
	return slices.Sorted(maps.Keys(names))
}

// heldIsolation is what the kernel's row of an address says of policies; false: there is no
// row, or it cannot be read.
func (t *tables) heldIsolation(a netip.Addr) (endpoint.Isolation, bool) {
	row, ok := held(t.rowTarget, a)
	return endpoint.Isolation{Ingress: row.Ingress, Egress: row.Egress}, ok
}

// ourLink says whether permanent neighbours on a device are ours.
func ourLink(name string) bool { return strings.HasPrefix(name, "weft") }

// all is the tables in the order of reference: addresses before the routes that
// prefer them, rows before the programs that read them, chains (so that nothing
// leaves with a pod's address) before the pods can send.
func (t *tables) all() reconcile.Group {
	return slices.Concat(t.network(), t.services(), t.hooks())
}

// network is the tables of the node and its peers, hooks those by which packets meet the
// programs.
func (t *tables) network() reconcile.Group {
	return reconcile.Group{t.device, t.sysctl, t.addrs, t.chains, t.routes, t.neighs, t.rows, t.peers, t.nodes}
}

func (t *tables) hooks() reconcile.Group {
	return reconcile.Group{t.own, t.links, t.sockets, t.offload}
}

// sync makes all tables hold what is wanted. Those of Services refer to none of the network,
// so that both are written at once: at the start there are many rows in each.
func (t *tables) sync() error {
	var network error
	var beside sync.WaitGroup
	beside.Go(func() { network = t.network().Write() })
	services := t.services().Write()
	beside.Wait()
	return errors.Join(network, services, t.hooks().Write(), t.announced.Write(), t.announced.Prune(), t.all().Prune())
}

// shown is those, the tables of policies and of announced addresses.
func (t *tables) shown() reconcile.Group {
	return append(t.all(), t.rules, t.classes, t.announced)
}

// maps is the tables of maps that only we write and that can be checked.
func (t *tables) maps() reconcile.Group {
	return append(t.services(), t.peers, t.nodes, t.rules, t.classes, t.announced)
}

// checked is tables of which no more is read than a check asks for.
func checked(g reconcile.Group, whole bool) reconcile.Group {
	var out reconcile.Group
	for _, s := range g {
		out = append(out, check{s.(checker), whole})
	}
	return out
}

type checker interface {
	reconcile.Syncer
	Check(whole bool) error
}

// check is a table that is checked instead of read.
type check struct {
	checker
	whole bool
}

// Refresh checks it.
func (c check) Refresh() error { return c.Check(c.whole) }

// services is those of Services, in the order of reference.
func (t *tables) services() reconcile.Group {
	return reconcile.Group{t.alive, t.backends, t.maglev, t.ranges, t.sets, t.frontends}
}

// silent is the tables whose changes nobody tells us of. They are read, or checked, every few
// seconds, the others on events and at the full resync. If whole is true large ones are looked at
// wholly, and the links of pods are read.
func (t *tables) silent(whole bool) reconcile.Group {
	g := append(reconcile.Group{t.device, t.sysctl, t.rows, t.own, t.sockets, t.offload}, checked(t.maps(), whole)...)
	if whole {
		g = append(g, t.links)
	} else {
		g = append(g, nodeLinks{t.links})
	}
	if t.chainer.Backend() == "legacy" { // only nftables has notifications
		g = append(g, t.chains)
	}
	return g
}

// nodeLinks is the table of links without those of pods, whose changes are told
// (endpoint.Manager.Watch).
type nodeLinks struct {
	*reconcile.Table[bpf.Hook, struct{}]
}

// Refresh reads what is ours of the node's own devices.
func (t nodeLinks) Refresh() error {
	return errors.Join(t.RefreshOwner(ownerSelf), t.RefreshOwner(ownerAnnounce))
}

// unread is the tables whose last Refresh failed.
func (t *tables) unread() reconcile.Group {
	return slices.DeleteFunc(t.shown(), func(s reconcile.Syncer) bool { return !s.Stats().Unread })
}

// concerned is the tables that an event may have changed. A device that went down
// takes its IPv4 routes with it without a word about them; a program goes with
// its device, whose successor has another index.
func (t *tables) concerned(e overlay.Event) reconcile.Group {
	var g reconcile.Group
	for _, s := range []struct {
		on    overlay.Event
		table reconcile.Syncer
	}{
		{overlay.EventLinks, t.device},
		{overlay.EventLinks | overlay.EventSysctls, t.sysctl},
		{overlay.EventAddrs | overlay.EventLinks, t.addrs},
		{overlay.EventChains, t.chains},
		{overlay.EventRoutes | overlay.EventLinks | overlay.EventAddrs, t.routes},
		{overlay.EventNeighs, t.neighs},
		{overlay.EventLinks, t.offload},
	} {
		if e.Has(s.on) {
			g = append(g, s.table)
		}
	}
	return g
}

// clashes is the rows that two owners want differently.
func (t *tables) clashes() []reconcile.Conflict {
	return slices.Concat(
		t.addrs.Conflicts(), t.routes.Conflicts(), t.neighs.Conflicts(),
		t.rows.Conflicts(), t.peers.Conflicts(), t.nodes.Conflicts(), t.links.Conflicts(),
		t.alive.Conflicts(), t.backends.Conflicts(), t.maglev.Conflicts(),
		t.ranges.Conflicts(), t.sets.Conflicts(), t.frontends.Conflicts(),
	)
}

// turnedOff is the devices whose checksum offload a former daemon turned off. They
// stay so: that all is well now does not say that it would be with it.
func (t *tables) turnedOff() []string {
	rows, err := t.offloader.Dump()
	if err != nil {
		return nil // the table will say so
	}
	return slices.Sorted(maps.Keys(rows))
}
