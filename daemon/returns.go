package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/announce"
	"github.com/weftnet/weft/daemon/returns"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/pace"
)

// retarget bounds how often the nodes to watch are worked out anew.
const retarget = time.Second

// returner finds out to which nodes direct server return works, and lets the programs use
// snat towards the others. What it decides is package returns'; this is its hands.
type returner struct {
	n       *node
	dp      *bpf.Datapath
	log     *slog.Logger
	changed chan struct{} // what the targets are made of may be other than before
	mute    atomic.Int64  // nodes, for muteNodes

	// Of run alone.
	watch    *returns.Watch
	sockets  returnSockets
	services []*source.Service // that served was made of
	node     service.Node      // likewise
	served   [2]netip.Addr     // where clients ask, IPv4 and IPv6
}

// newReturner takes up what a former daemon found out.
func newReturner(n *node, dp *bpf.Datapath) *returner {
	r := &returner{n: n, dp: dp, log: n.log, changed: make(chan struct{}, 1), sockets: returnSockets{}}
	rows, err := dp.Peers().Dump()
	n.problems.err(problemEaten, err)
	var mute []netip.Prefix
	for p, row := range rows {
		if row.Flags&bpf.PeerMute != 0 {
			mute = append(mute, p)
			n.book.mute[p] = true
		}
	}
	r.watch = returns.New(mute, nonce)
	return r
}

// follow tells those who work out for themselves what the source's nodes and Services mean to
// them that these may have changed.
func (n *node) follow() {
	n.announcer.poke()
	n.returns.poke()
}

// poke says that something may have changed.
func (r *returner) poke() {
	if r != nil {
		offerLatest(r.changed, struct{}{})
	}
}

// muteNodes is how many nodes snat is used towards that dsr should be.
func (r *returner) muteNodes() int64 {
	if r == nil {
		return 0
	}
	return r.mute.Load()
}

// run watches until ctx is done. Without Services of dsr it only waits for some.
func (r *returner) run(ctx context.Context) error {
	if r == nil {
		return nil
	}
	defer r.sockets.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var updated time.Time
	pending := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
			pending = true
		case <-timer.C:
		}
		now := time.Now()
		if pending && now.Sub(updated) >= retarget {
			r.update(now)
			updated, pending = now, false
		}
		r.step(now)
		due := r.watch.Wait(now)
		if pending && (due == 0 || due > retarget) {
			due = retarget
		}
		if due > 0 { // the announcer wakes up then, too
			timer.Reset(pace.After(max(due-time.Since(now), 1), announce.Every))
		}
	}
}

// update works out whom to watch.
func (r *returner) update(now time.Time) {
	state := r.n.source.Snapshot()
	node := r.n.services.of()
	if !slices.Equal(state.Services, r.services) || node.Pass != r.node.Pass || !slices.Equal(node.NodePortAddrs, r.node.NodePortAddrs) {
		r.services, r.node = state.Services, node
		r.served = passedFrom(node, state.Services)
	}
	r.watch.Set(now, r.n.mayAnswer(r.served))
	r.show()
}

// passedFrom is where clients ask Services whose backends' nodes answer them, one address of
// each family, the lowest: a load balancer's or an external one, as the network knows these
// least; else the node's own, for node ports.
func passedFrom(node service.Node, services []*source.Service) (from [2]netip.Addr) {
	var addrs []netip.Addr
	ports := false
	for _, s := range services {
		if passes, _ := service.Passes(node, s); !passes {
			continue
		}
		addrs = append(addrs, s.ExternalIPs...)
		for _, lb := range s.LoadBalancerIPs {
			if !lb.Proxy {
				addrs = append(addrs, lb.IP)
			}
		}
		ports = ports || slices.ContainsFunc(s.Ports, func(p source.ServicePort) bool { return p.NodePort != 0 })
	}
	from[0], from[1] = returns.Sources(addrs)
	if own := [2]netip.Addr{}; ports {
		own[0], own[1] = returns.Sources(node.NodePortAddrs)
		for i := range from {
			if !from[i].IsValid() {
				from[i] = own[i]
			}
		}
	}
	return from
}

// mayAnswer is the other nodes' pods that packets from outside may be passed on to.
func (n *node) mayAnswer(served [2]netip.Addr) (targets []returns.Target) {
	if !served[0].IsValid() && !served[1].IsValid() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	self4, self6 := returns.Sources(n.around.self.Addrs)
	for _, e := range n.book.sorted() {
		own4, own6 := returns.Sources(e.node.Addrs)
		for _, p := range e.rows {
			t := returns.Target{Pods: p.Prefix, Node: e.node.Name, Local: p.Local, Remote: p.Remote, To: self4, Own: own4, Served: served[0]}
			if p.Prefix.Addr().Is6() {
				t.To, t.Own, t.Served = self6, own6, served[1]
			}
			if p.LinkIndex != 0 && t.To.IsValid() && t.Own.IsValid() && t.Served.IsValid() {
				targets = append(targets, t)
			}
		}
	}
	return targets
}

// step does what is to be done now.
func (r *returner) step(now time.Time) {
	var errs []error
	ask, changed := r.watch.Step(now, func(nonce uint64) bool {
		came, err := r.dp.Returned(nonce)
		errs = append(errs, err)
		return came
	})
	var failed netip.Prefix // one question without the other would accuse the node
	for _, q := range ask {
		if q.Pods == failed {
			continue
		}
		err := r.dp.AwaitReturn(q.Nonce)
		if err == nil {
			err = r.sockets.send(q.Local, netip.AddrPortFrom(q.Remote, r.n.cfg.Port), q.Encode(r.n.cfg.VNI+1, r.n.cfg.announcePort()))
		}
		if err != nil {
			failed = q.Pods
			errs = append(errs, err)
		}
	}
	for _, c := range changed {
		if c.Mute {
			r.log.Warn("answers do not arrive, use snat", "node", c.Node, "ip", c.Served)
		} else {
			r.log.Info("answers arrive again, use dsr", "node", c.Node, "ip", c.Served)
		}
		errs = append(errs, r.n.setMute(c.Node, c.Pods, c.Mute))
	}
	if len(changed) > 0 {
		r.show()
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Warn("watch for answers, will retry", "err", err)
	}
}

// setMute says in the kernel whether pods of a node can be passed on to.
func (n *node) setMute(name string, pods netip.Prefix, mute bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.book.mute[pods] = mute; !mute {
		delete(n.book.mute, pods)
	}
	e := n.book.entries[name]
	if e == nil {
		return nil
	}
	n.book.compile(e)
	return n.tables.peers.WriteOwner(ownerNode(name))
}

// show says which nodes are mute.
func (r *returner) show() {
	var list []string
	var from netip.Addr
	for _, t := range r.watch.Mute() {
		if from = t.Served; !slices.Contains(list, t.Node) {
			list = append(list, t.Node)
		}
	}
	r.mute.Store(int64(len(list)))
	r.n.problems.sum(problemEaten, names("forwarding dsr does not work from %s: what they send from "+from.String()+
		", an address where clients ask, does not arrive here, but what they send from their own does. snat is used "+
		"instead: clients are served, backends see this node. Let the network take such packets (clouds check the "+
		"source address of each machine, routers the way back to it), or set `forwarding` to snat", list))
}
