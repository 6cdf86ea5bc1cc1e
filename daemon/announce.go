package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/announce"
	"github.com/weftnet/weft/daemon/loadbalancer"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/pace"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/overlay"
)

const (
	// beatEvery is how often the daemon gives a sign of life while there are addresses to
	// announce, beatIdle while there are none: others may have heard of the first one
	// before this node does.
	beatEvery = 500 * time.Millisecond
	beatIdle  = pace.Usual
	// adoptWithin is how old the sign of life of a former daemon may be for its addresses
	// to be kept: a second less than until the programs stop to answer for them.
	adoptWithin = bpf.SilenceLimit - time.Second
	// claimsEvery is how often the programs' notes are read of who else claims an address.
	claimsEvery = 2 * time.Second
	// updateEvery bounds how often the addresses are worked out anew.
	updateEvery = 100 * time.Millisecond

	// ownerAnnounce owns the programs on links that have no address of the node.
	ownerAnnounce = "announce"

	// excludeLabel on a Node: it announces nothing (k8s.io/api/core/v1,
	// LabelNodeExcludeBalancers).
	excludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"
)

// announcer announces load balancers' addresses on the links of this node, as far as it is
// this node's turn, and finds out which nodes are lost. What it decides is package
// announce's; this is its hands.
type announcer struct {
	cfg      Config
	log      *slog.Logger
	dp       *bpf.Datapath
	rows     *reconcile.Table[netip.Addr, bpf.Announced]
	hooks    *reconcile.Table[bpf.Hook, struct{}]
	problems *problems
	source   func() source.State
	self     func() overlay.Node
	changed  chan struct{} // what the addresses are made of may be other than before
	sockets  *announceSockets
	groups   *overlay.Groups
	lose     func(lost map[string]bool, cutOff bool)

	// Of run alone.
	links     []overlay.Link
	nodes     []*source.Node // that known and places were made of
	node      overlay.Node   // likewise: this node
	known     known
	own       []netip.Addr // this node's addresses by which it asks
	watch     *announce.Watch
	watchAt   time.Time // its next step; zero: none
	conflicts announce.Conflicts
	read      time.Time // when claims were
	beat      time.Time
	updated   time.Time
	pruned    bool // the source has told all once, and a former daemon's rows that are not ours are gone
	settled   bool // there was no address when all was worked out last, and nothing failed

	mu      sync.Mutex
	machine *announce.Machine
	places  map[netip.Addr]place
}

// place is an address and how this node stands to it.
type place struct {
	need announce.Need
	link overlay.Link // zero: none
	announce.Candidate
	first string // the node that announces it if all are well
}

// newAnnouncer takes up what a former daemon announced, if that was a moment ago.
func newAnnouncer(cfg Config, n *node, dp *bpf.Datapath) *announcer {
	a := &announcer{
		cfg: cfg, log: n.log, dp: dp, rows: n.tables.announced, hooks: n.tables.links, problems: n.problems,
		source: n.source.Snapshot, changed: make(chan struct{}, 1), sockets: newAnnounceSockets(cfg.announcePort()),
		groups: overlay.NewGroups(filepath.Join(cfg.StateDir, groupsFile)), lose: n.lose,
		watch: announce.NewWatch(cfg.NodeName, nonce), places: map[netip.Addr]place{},
	}
	a.self = func() overlay.Node {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.around.self
	}
	adopted, err := a.adopt()
	a.problems.err(problemAnnounce, err)
	start := time.Now().Add(pace.Next(announce.Every) - announce.Every) // it asks at common moments
	a.machine = announce.New(cfg.NodeName, start, adopted, nonce)
	return a
}

func nonce() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.NativeEndian.Uint64(b[:])
}

// adopt returns the addresses that a former daemon announced. If it has been silent for too
// long, others do by now: they are off before our first sign of life would revive them.
func (a *announcer) adopt() ([]netip.Addr, error) {
	held, err := a.dp.Announced().Dump()
	if err != nil {
		return nil, err
	}
	silence, ever, err := a.dp.Silence()
	if err != nil {
		return nil, err
	}
	var on []netip.Addr
	for at, row := range held {
		switch {
		case !row.On:
		case ever && silence <= adoptWithin:
			on = append(on, at)
		default:
			row.On = false
			if err := a.dp.Announced().Set(at, row); err != nil {
				return nil, err
			}
		}
	}
	return on, a.dp.Beat()
}

// announceAddresses announces load balancers' addresses until ctx is done.
func (n *node) announceAddresses(ctx context.Context) error {
	if n.announcer == nil {
		return nil
	}
	return n.announcer.run(ctx)
}

// run announces until ctx is done. Then everything stays: the programs go on for a while.
func (a *announcer) run(ctx context.Context) error {
	defer a.sockets.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pending := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
			pending = true
		case <-timer.C:
		}
		now := time.Now()
		if pending && now.Sub(a.updated) >= updateEvery {
			pending = !a.update(now)
		}
		busy := a.step(now)
		took := time.Since(now)
		wait := took + pace.Next(beatIdle)
		if busy {
			wait = min(wait, beatEvery)
		}
		if pending {
			wait = min(wait, updateEvery)
		}
		if due := a.machine.Wait(); due > 0 {
			wait = min(wait, due)
		}
		if !a.watchAt.IsZero() {
			wait = min(wait, a.watchAt.Sub(now))
		}
		timer.Reset(max(wait-took, took)) // half of a processor at most
	}
}

// poke says that something may have changed.
func (a *announcer) poke() {
	if a != nil {
		offerLatest(a.changed, struct{}{})
	}
}

// update works out which addresses there are and how this node stands to them; false: it
// cannot yet.
func (a *announcer) update(now time.Time) bool {
	state, self := a.source(), a.self()
	// A file of the folder that comes later and cannot be read is as one that is not there.
	if !state.Complete && !a.pruned || len(self.Addrs) == 0 {
		return true // somebody will poke
	}
	a.updated = now
	moved := !slices.Equal(state.Nodes, a.nodes) || !sameNode(self, a.node)
	if moved {
		a.nodes, a.node, a.known = state.Nodes, self, neighbours(a.cfg.NodeName, self, state.Nodes)
		a.own = slices.Compact(slices.SortedFunc(maps.Values(a.known.from), netip.Addr.Compare))
		a.watch.Set(a.known.probed)
		a.watchAt = now
	}
	listenErr := a.sockets.listen(a.own)
	needs := announce.Needs(state.Services, state.Slices, func(s *source.Service) bool {
		return loadbalancer.Ours(s, a.cfg.LoadBalancerDefault)
	})
	if len(needs) == 0 && a.settled { // as in most clusters, whatever their nodes are
		err := errors.Join(listenErr, a.write()) // rows that somebody else made
		a.settled = err == nil
		a.problems.err(problemAnnounce, err)
		return true
	}
	var links []overlay.Link
	if len(needs) > 0 {
		var err error
		if links, err = overlay.Links(); err != nil {
			a.problems.err(problemAnnounce, err)
			return false
		}
	}
	var former map[netip.Addr]place
	if !moved && slices.EqualFunc(links, a.links, sameLink) {
		former = a.places
	}
	places := placesOf(a.cfg.NodeName, a.known.candidates, a.known.taken, links, needs, former)
	a.links = links

	candidates := make(map[netip.Addr]announce.Candidate, len(places))
	for at, p := range places {
		candidates[at] = p.Candidate
	}
	a.mu.Lock()
	a.places = places
	a.machine.Set(now, candidates, a.known.probed)
	a.mu.Unlock()
	err := errors.Join(listenErr, a.write(), a.join())
	a.settled = err == nil && len(places) == 0 && len(needs) == 0
	a.problems.err(problemAnnounce, err)
	a.problems.set(problemAddressLink, few(8, nowhere(places))...)
	if !a.pruned {
		a.rows.AllowPrune()
		a.pruned = true
	}
	return true
}

// step does what is to be done now. It says whether there is anything to wait for.
func (a *announcer) step(now time.Time) (busy bool) {
	a.mu.Lock()
	a.sockets.receive(func(from netip.Addr, d announce.Datagram) {
		a.machine.Hear(now, from, d)
		if a.watch.Hear(now, from, d) && !a.watchAt.IsZero() {
			a.watchAt = now
		}
	})
	do := a.machine.Step(now)
	busy = len(a.places) > 0
	a.mu.Unlock()
	a.look(now)
	var errs []error
	if beatDue(now.Sub(a.beat), busy) {
		a.beat = now
		errs = append(errs, a.dp.Beat())
	}
	if len(do.Began)+len(do.Ended) > 0 {
		errs = append(errs, a.write())
	}
	for _, at := range do.Began {
		a.log.Info("announce address", "ip", at)
	}
	for _, e := range do.Ended {
		a.log.Info("announce address no more", "ip", e.Addr, "node", e.For)
	}
	for _, at := range do.Tell {
		if l := a.places[at].link; l.Index != 0 {
			errs = append(errs, a.sockets.frames(l.Index, announce.Tell(at, l.MAC)...))
		}
	}
	a.send(do.Send)
	if len(do.Began)+len(do.Ended) > 0 {
		errs = append(errs, a.join())
	}
	if busy && now.Sub(a.read) >= claimsEvery {
		a.read = now
		errs = append(errs, a.dispute(now))
	}
	if err := errors.Join(errs...); err != nil {
		a.problems.err(problemAnnounce, err)
	}
	return busy
}

// beatDue says whether a sign of life is due so long after the last. An idle step comes at
// each moment that beatIdle has, and at others when the announcer is poked; after one of these
// the next moment may be too soon, but not the one after it.
func beatDue(since time.Duration, busy bool) bool {
	if busy {
		return since >= beatEvery
	}
	return since >= beatIdle/2
}

// write makes the kernel hold what the machine says.
func (a *announcer) write() error {
	rows := map[netip.Addr]bpf.Announced{}
	hooks := map[bpf.Hook]struct{}{}
	for at, on := range a.machine.Held() {
		p, ok := a.places[at]
		if !ok || p.link.Index == 0 { // a former daemon's, until the source has spoken
			continue
		}
		rows[at] = bpf.Announced{IfIndex: uint32(p.link.Index), MAC: p.link.MAC, On: on}
		hooks[bpf.Hook{Program: bpf.FromUplink, IfIndex: p.link.Index}] = struct{}{}
		hooks[bpf.Hook{Program: bpf.ToUplink, IfIndex: p.link.Index}] = struct{}{}
	}
	a.hooks.Put(ownerAnnounce, hooks)
	a.rows.Put(ownerSelf, rows)
	return errors.Join(a.hooks.WriteOwner(ownerAnnounce), a.rows.Write(), a.rows.Prune(), a.hooks.PruneOwner(ownerAnnounce))
}

// join lets neighbours' questions for the announced IPv6 addresses through to this node: by
// membership, of which switches are told, and in the devices' filters also while no daemon
// runs.
func (a *announcer) join() error {
	want := map[linkGroup]bool{}
	var filters []overlay.Group
	for at, on := range a.machine.Held() {
		if l := a.places[at].link; on && at.Is6() && l.Index != 0 {
			group := announce.Group(at)
			want[linkGroup{l.Index, group}] = true
			filters = append(filters, overlay.Group{Link: l.Name, MAC: announce.GroupMAC(group)})
		}
	}
	return errors.Join(a.groups.Keep(filters), a.sockets.join(want))
}

// dispute finds out whether somebody else has an address that this node announces.
func (a *announcer) dispute(now time.Time) error {
	said, err := a.dp.Claims()
	if err != nil {
		return err
	}
	claims := make(map[netip.Addr]announce.Claim, len(said))
	for at, c := range said {
		claims[at] = announce.Claim{MAC: c.MAC, At: now.Add(-c.Age)}
	}
	announced := map[netip.Addr]time.Time{}
	for at, on := range a.machine.Held() {
		if on {
			announced[at] = a.machine.Began(at)
		}
	}
	var errs []error
	for _, at := range a.conflicts.Take(now, announced, claims) {
		if l := a.places[at].link; l.Index != 0 {
			errs = append(errs, a.sockets.frames(l.Index, announce.Ask(at, l.MAC)))
		}
	}
	var texts []string
	for _, c := range a.conflicts.List(now) {
		texts = append(texts, fmt.Sprintf("%s is announced here, but the machine with the MAC %s answers for it, too: "+
			"take the address from that machine, or out of the load balancer's pool", c.Addr, net.HardwareAddr(c.MAC[:])))
	}
	a.problems.set(problemAddressConflict, few(8, texts)...)
	return errors.Join(errs...)
}
