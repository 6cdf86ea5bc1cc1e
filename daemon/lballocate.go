package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/daemon/loadbalancer"
	"github.com/weftnet/weft/daemon/source"
)

// grantShown is how long a status that was written may take to show in the state; then
// what the state shows is believed.
const grantShown = 10 * time.Second

// granter is the source as the allocator uses it.
type granter interface {
	// Snapshot is the state as it is known now. What has not changed keeps its pointer.
	Snapshot() source.State
	// Elect runs lead whenever this daemon is the elected one, until ctx is done. When lead
	// is called, what a former one wrote is in the state.
	Elect(ctx context.Context, lead func(context.Context)) error
	// Grant writes the status of Services, and returns those that were written.
	Grant(ctx context.Context, list []source.Grant) ([]source.Grant, error)
}

// allocator gives Services their load balancers' addresses when this daemon is elected to,
// and tells on each daemon who lacks them. Without pools there is none: a nil one does
// nothing.
type allocator struct {
	pools     []loadbalancer.Pool
	classless bool
	source    granter
	problems  *problems
	log       *slog.Logger
	changed   chan struct{} // of size 1: the state may be another
	todo      chan struct{} // likewise, for the elected one
	leads     atomic.Bool

	// Of the elected one alone: what was written that the state does not show yet.
	written map[serviceName]writtenGrant
}

type writtenGrant struct {
	source.Grant
	at time.Time
}

func newAllocator(cfg Config, src granter, p *problems, log *slog.Logger) *allocator {
	pools, _ := loadbalancer.ParsePools(cfg.LoadBalancerPools) // validated
	if len(pools) == 0 {
		return nil
	}
	return &allocator{
		pools: pools, classless: cfg.LoadBalancerDefault, source: src, problems: p, log: log,
		changed: make(chan struct{}, 1), todo: make(chan struct{}, 1),
	}
}

// wake says that the state may be another.
func (a *allocator) wake() {
	if a != nil {
		offerLatest(a.changed, struct{}{})
	}
}

// world is what the allocation goes by.
func (a *allocator) world(state source.State) loadbalancer.World {
	return loadbalancer.World{
		Pools: a.pools, Classless: a.classless, Services: state.Services, Reserved: loadbalancer.Reserved(state.Nodes),
	}
}

// use is how many addresses of the pools there are, and how many Services lack theirs.
func (a *allocator) use() ([]loadbalancer.Usage, int) {
	return loadbalancer.Use(a.world(a.source.Snapshot()))
}

// run takes part until ctx is done.
func (a *allocator) run(ctx context.Context) error {
	if a == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.source.Elect(ctx, a.lead) })
	group.Go(func() error {
		for {
			start := time.Now()
			state := a.source.Snapshot()
			a.problems.sum(problemLoadBalancer, strings.Join(few(8, loadbalancer.Problems(a.world(state), state.Nodes)), "\n"))
			offerLatest(a.todo, struct{}{})
			if !a.await(ctx, a.changed, start, 0) {
				return nil
			}
		}
	})
	return group.Wait()
}

// await rests, by how long it has been since start, and waits for a change, or for retry if
// that is not 0. It says whether there is anything to do yet.
func (a *allocator) await(ctx context.Context, changed <-chan struct{}, start time.Time, retry time.Duration) bool {
	rest := time.NewTimer(max(serviceDebounce, min(restFactor*time.Since(start), restMost)))
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-rest.C:
	}
	var again <-chan time.Time
	if retry > 0 {
		t := time.NewTimer(retry)
		defer t.Stop()
		again = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-again:
	}
	return true
}

// lead allocates, whenever something changed, until ctx is done.
func (a *allocator) lead(ctx context.Context) {
	a.leads.Store(true)
	a.written = map[serviceName]writtenGrant{}
	defer func() {
		a.leads.Store(false)
		a.problems.set(problemLoadBalancerWrite)
	}()
	wait := retryFirst
	for {
		took, err := a.allocate(ctx)
		if ctx.Err() != nil {
			return
		}
		failed := withoutStale(err)
		a.problems.err(problemLoadBalancerWrite, failed)
		retry := time.Duration(0)
		switch {
		case failed != nil:
			retry, wait = wait, min(2*wait, retryMost)
		case err != nil || len(a.written) > 0: // the state is behind
			retry, wait = retryMost, retryFirst
		default:
			wait = retryFirst
		}
		if !a.await(ctx, a.todo, time.Now().Add(-took), retry) {
			return
		}
	}
}

// allocate decides and writes once, and says how long the decision took.
func (a *allocator) allocate(ctx context.Context) (took time.Duration, err error) {
	start := time.Now()
	state := a.source.Snapshot()
	if !state.Complete {
		return 0, nil
	}
	w := a.world(state)
	w.Services = a.asWritten(w.Services, start)
	grants := loadbalancer.Allocate(w)
	took = time.Since(start)
	if len(grants) == 0 {
		return took, nil
	}
	written, err := a.source.Grant(ctx, grants)
	for _, g := range written {
		a.log.Info("load balancer's address", "svc", serviceName{g.Service.Namespace, g.Service.Name},
			"ip", g.IPs, "reason", g.Condition.Reason, "message", g.Condition.Message)
		a.written[serviceName{g.Service.Namespace, g.Service.Name}] = writtenGrant{g, time.Now()}
	}
	return took, err
}

// asWritten is the Services as they are with what was written of them, which the state may
// not show yet.
func (a *allocator) asWritten(services []*source.Service, now time.Time) []*source.Service {
	if len(a.written) == 0 {
		return services
	}
	out := make([]*source.Service, len(services))
	still := map[serviceName]writtenGrant{}
	for i, s := range services {
		out[i] = s
		n := serviceName{s.Namespace, s.Name}
		g, ok := a.written[n]
		if !ok || loadbalancer.Is(s, g.Grant) || now.Sub(g.at) > grantShown || s.Balancer == nil {
			continue
		}
		still[n] = g
		out[i] = loadbalancer.Applied(source.Grant{Service: s, IPs: g.IPs, Condition: g.Condition})
	}
	a.written = still
	return out
}

// withoutStale is the errors that are not about decisions that are void.
func withoutStale(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, one := range many.Unwrap() {
			rest = append(rest, withoutStale(one))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, source.ErrStale) {
		return nil
	}
	return err
}

// balancerProblem says why a Service lacks an address that it should have of us; "" if not.
func (c Config) balancerProblem(s *source.Service) string {
	switch {
	case !loadbalancer.Ours(s, c.LoadBalancerDefault):
		return ""
	case c.LoadBalancerPools == "" && len(s.LoadBalancerIPs) == 0:
		return "no load balancer's address: there are no pools (setting load-balancer-pools)"
	case c.LoadBalancerPools == "":
		return ""
	}
	return loadbalancer.Why(s)
}
