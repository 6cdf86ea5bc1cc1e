package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/internal/api"
)

// LeaseName is the Lease, in Weft's namespace, of the daemon that gives Services their load
// balancers' addresses.
const LeaseName = "weft-load-balancer"

// leaseTimes are how long things take of an election.
type leaseTimes struct {
	valid time.Duration // without renewal, to others
	safe  time.Duration // without renewal, to the holder: it ends before valid does
	renew time.Duration // between renewals
	// ask is between looks at the Lease by the node that is first by name. The second looks
	// half as often, the third a third: how often all do grows with the logarithm of how
	// many they are, and who is dead does not matter.
	ask time.Duration
}

var usualLease = leaseTimes{valid: 15 * time.Second, safe: 10 * time.Second, renew: 4 * time.Second, ask: 5 * time.Second}

// elector has one daemon of all be the holder of a Lease. Time is measured by each on its own
// clock, from when it saw a change. The holder is named by its node: a daemon that comes
// back in time goes on. It is not client-go's leaderelection, which brings the clients of all
// kinds: docs/adr/009-load-balancer.md.
type elector struct {
	client    rest.Interface
	path      string // of the Leases of a namespace
	namespace string
	identity  string
	rank      func() int  // how many nodes are before ours
	ready     func() bool // we know enough to hold it
	times     leaseTimes
	log       *slog.Logger

	// What was seen last of another's Lease, and when first.
	seen   string
	seenAt time.Time

	mu    sync.Mutex
	until time.Time // we are the holder; zero: not
	err   error
	since time.Time // of err
}

// lease is what is read and written of a Lease (coordination.k8s.io/v1).
type lease struct {
	APIVersion string        `json:"apiVersion,omitempty"`
	Kind       string        `json:"kind,omitempty"`
	Metadata   leaseMetadata `json:"metadata"`
	Spec       leaseSpec     `json:"spec"`
}

type leaseMetadata struct {
	Name            string `json:"name,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

type leaseSpec struct {
	HolderIdentity       string            `json:"holderIdentity"`
	LeaseDurationSeconds int               `json:"leaseDurationSeconds"`
	AcquireTime          *metav1.MicroTime `json:"acquireTime,omitempty"`
	RenewTime            *metav1.MicroTime `json:"renewTime,omitempty"`
	LeaseTransitions     int               `json:"leaseTransitions"`
}

// run takes part until ctx is done, and runs lead whenever we are the holder, with a context
// that ends before anybody else can be. It waits for lead to end.
func (e *elector) run(ctx context.Context, lead func(context.Context)) {
	for ctx.Err() == nil {
		if !e.ready() {
			sleep(ctx, min(time.Second, e.times.ask))
			continue
		}
		asked := time.Now()
		held, wait, err := e.try(ctx)
		if ctx.Err() != nil {
			return
		}
		e.note(err)
		if held == nil {
			sleep(ctx, wait)
			continue
		}
		e.hold(ctx, *held, asked, lead)
	}
}

// try takes the Lease if nobody has it. If it is not ours then, it says how long to wait.
func (e *elector) try(ctx context.Context) (held *lease, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.times.safe/2)
	defer cancel()
	wait = e.often()*3/4 + rand.N(e.often()/2)
	var l lease
	err = sendJSON(ctx, e.client.Get().AbsPath(e.path, LeaseName), &l)
	now := metav1.NowMicro()
	switch {
	case apierrors.IsNotFound(err):
		l = lease{
			APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Metadata: leaseMetadata{Name: LeaseName},
			Spec: leaseSpec{HolderIdentity: e.identity, LeaseDurationSeconds: e.seconds(), AcquireTime: &now, RenewTime: &now},
		}
		err = sendJSON(ctx, e.client.Post().AbsPath(e.path).SetHeader("Content-Type", "application/json").Body(encode(l)), &l)
	case err != nil:
	case l.Spec.HolderIdentity != e.identity && l.Spec.HolderIdentity != "" && !e.expired(l, &wait):
		return nil, wait, nil
	default:
		if l.Spec.HolderIdentity != e.identity {
			l.Spec.AcquireTime = &now
			l.Spec.LeaseTransitions++
		}
		l.Spec.HolderIdentity = e.identity
		l, err = e.write(ctx, l)
	}
	switch {
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err): // another was quicker
		return nil, wait, nil
	case err != nil:
		return nil, wait, fmt.Errorf("lease %s/%s: %w", e.namespace, LeaseName, brief(err))
	}
	return &l, 0, nil
}

// often is how long it is between two of our looks at another's Lease.
func (e *elector) often() time.Duration { return time.Duration(e.rank()+1) * e.times.ask }

// seconds is how long the Lease is valid, as it says itself.
func (e *elector) seconds() int { return max(1, int(e.times.valid/time.Second)) }

// expired says whether another's Lease has not been renewed for as long as it is valid. If it
// was not since the last look, wait is no longer than until it is.
func (e *elector) expired(l lease, wait *time.Duration) bool {
	if l.Metadata.ResourceVersion != e.seen {
		e.seen, e.seenAt = l.Metadata.ResourceVersion, time.Now()
		return false
	}
	valid := max(e.times.valid, time.Duration(l.Spec.LeaseDurationSeconds)*time.Second)
	left := valid - time.Since(e.seenAt)
	*wait = min(*wait, max(left, e.times.ask/10))
	return left <= 0
}

// write renews the Lease, if it is still what it was.
func (e *elector) write(ctx context.Context, l lease) (lease, error) {
	now := metav1.NowMicro()
	l.Metadata, l.APIVersion, l.Kind = leaseMetadata{ResourceVersion: l.Metadata.ResourceVersion}, "", ""
	l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = &now, e.seconds()
	r := e.client.Patch(types.MergePatchType).AbsPath(e.path, LeaseName).Body(encode(l))
	var out lease
	return out, sendJSON(ctx, r, &out)
}

// hold runs lead and renews the Lease, which was taken at a time, as long as that goes well.
func (e *elector) hold(ctx context.Context, l lease, at time.Time, lead func(context.Context)) {
	e.log.Info("this daemon gives load balancers' addresses")
	ctx, cancel := context.WithCancel(ctx)
	e.valid(at.Add(e.times.safe))
	var work sync.WaitGroup
	work.Go(func() { lead(ctx) })
	defer func() {
		e.valid(time.Time{})
		cancel()
		work.Wait()
		e.log.Info("this daemon no longer gives load balancers' addresses")
	}()
	for {
		sleep(ctx, min(e.times.renew, time.Until(at.Add(e.times.safe))))
		if ctx.Err() != nil {
			return
		}
		asked := time.Now()
		renewing, stop := context.WithDeadline(ctx, at.Add(e.times.safe))
		next, err := e.write(renewing, l)
		stop()
		switch {
		case err == nil:
			l, at = next, asked
			e.note(nil)
			e.valid(at.Add(e.times.safe))
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err) || time.Since(at) >= e.times.safe:
			return
		default:
			e.note(fmt.Errorf("renew lease %s/%s: %w", e.namespace, LeaseName, brief(err)))
		}
	}
}

// valid notes until when we are the holder.
func (e *elector) valid(until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.until = until
}

// holds says whether we are the holder now. A daemon that was stopped for a while asks
// before it writes.
func (e *elector) holds() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.until)
}

func (e *elector) note(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil && e.err == nil {
		e.since = time.Now()
		e.log.Warn("who gives load balancers' addresses, will retry", "err", err)
	}
	e.err = err
}

// problem is why we cannot take part, if so.
func (e *elector) problem() []api.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		return nil
	}
	p := api.Problem{What: ProblemAPI, Since: e.since, Text: "load balancers' addresses: " + e.err.Error()}
	if apierrors.IsForbidden(e.err) {
		p.What, p.Text = ProblemAccess, "we may not take part in giving load balancers' addresses, give us the rights that the chart gives where there are pools: "+p.Text
	}
	return []api.Problem{p}
}

// sendJSON sends a request with a body in JSON, if it has one, and reads JSON, if into is not
// nil.
func sendJSON(ctx context.Context, r *rest.Request, into any) error {
	b, err := r.SetHeader("Accept", "application/json").MaxRetries(0).Do(ctx).Raw()
	if err != nil || into == nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read the API's answer: %w", err)
	}
	return nil
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of texts, numbers and times
	}
	return b
}
