package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/daemon/source"
)

const (
	// enforcedCondition, in the status of a ClusterNetworkPolicy, says whether Weft does all
	// that the policy wants. One of which that always was so does not have it.
	enforcedCondition = "weft.dev/Enforced"
	reasonNotWholly   = "NotWholly"
	reasonWholly      = "Wholly"
	// rankWait is how much longer each node waits than the one before it by name.
	rankWait = 10 * time.Second
)

// reporter writes that condition. Who of all daemons does is nobody's choice: each waits for
// those of the nodes before its own by name, and what it would say has then been said. So
// the first does, or after rankWait the second, if the first is down. It is safe for
// concurrent use.
type reporter struct {
	client rest.Interface
	log    *slog.Logger
	rank   func() int    // how many nodes are before ours; may lock what see's caller has locked
	more   chan struct{} // of size 1: there may be something to do

	mu  sync.Mutex
	due map[string]report // by name
}

// report is a condition that is to be written.
type report struct {
	uid   types.UID
	want  metav1.Condition
	since time.Time
}

func newReporter(client rest.Interface, log *slog.Logger, rank func() int) *reporter {
	return &reporter{client: client, log: log, rank: rank, more: make(chan struct{}, 1), due: map[string]report{}}
}

// see takes up a policy, and what was made of it; nil: nothing.
func (r *reporter) see(o *clusterPolicy, p *source.ClusterPolicy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(o.Status.Conditions, func(c metav1.Condition) bool { return c.Type == enforcedCondition })
	if p == nil || (i < 0 && p.Problem == "") {
		delete(r.due, o.Name)
		return
	}
	want := metav1.Condition{
		Type: enforcedCondition, Status: metav1.ConditionFalse, Reason: reasonNotWholly,
		Message: p.Problem, ObservedGeneration: o.Generation, LastTransitionTime: metav1.Now(),
	}
	if p.Problem == "" {
		want.Status, want.Reason = metav1.ConditionTrue, reasonWholly
	}
	if i >= 0 {
		have := o.Status.Conditions[i]
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		if have == want {
			delete(r.due, o.Name)
			return
		}
	}
	since := time.Now()
	if was, ok := r.due[o.Name]; ok && was.uid == o.UID && was.want.ObservedGeneration == o.Generation {
		since = was.since
	}
	r.due[o.Name] = report{o.UID, want, since}
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// unsee takes up that a policy is gone.
func (r *reporter) unsee(n name) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.due, n.name)
}

// next is a report whose time has come, and how long to wait if there is none: negative,
// until something happens.
func (r *reporter) next(now time.Time) (n string, one report, wait time.Duration) {
	after := time.Duration(r.rank()) * rankWait
	r.mu.Lock()
	defer r.mu.Unlock()
	wait = -1
	for n, one := range r.due {
		left := one.since.Add(after).Sub(now)
		if left <= 0 {
			return n, one, 0
		}
		if wait < 0 || left < wait {
			wait = left
		}
	}
	return "", report{}, wait
}

// run writes until ctx is done.
func (r *reporter) run(ctx context.Context) {
	for ctx.Err() == nil {
		n, one, wait := r.next(time.Now())
		if n != "" {
			r.write(ctx, n, one)
			continue
		}
		var later <-chan time.Time
		if wait >= 0 {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-r.more:
		case <-later:
		}
	}
}

// write writes one condition. If it cannot, it does so again in a while: the policies are in
// force all the same.
func (r *reporter) write(ctx context.Context, n string, one report) {
	err := r.apply(ctx, n, one)
	r.mu.Lock()
	defer r.mu.Unlock()
	now, ok := r.due[n]
	if !ok || now != one { // something newer is to be said
		return
	}
	// A policy that is gone, or another of its name: what is to be said of that we are told.
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		delete(r.due, n)
		return
	}
	r.log.Debug("write status of a cluster network policy, will retry", "policy", n, "err", err)
	one.since = time.Now().Add(3 * rankWait)
	r.due[n] = one
}

// apply has the API server put the condition beside those of others (server-side apply).
func (r *reporter) apply(ctx context.Context, n string, one report) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": clusterPolicyVersion.String(), "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": n, "uid": one.uid},
		"status":   map[string]any{"conditions": []metav1.Condition{one.want}},
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	err = r.client.Patch(types.ApplyPatchType).Resource("clusternetworkpolicies").Name(n).SubResource("status").
		Param("fieldManager", userAgent).Param("force", "true").Body(body).MaxRetries(0).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("apply status: %w", brief(err))
	}
	return nil
}
