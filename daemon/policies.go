package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/policy"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/reconcile"
)

// flipsAtOnce is how many pods get other sets at a time.
const flipsAtOnce = 4

// policyDeps is what [policies] works with.
type policyDeps struct {
	node     string
	stateDir string
	log      *slog.Logger
	problems *problems
	source   func() source.State
	// unpoliced is what the source's state says of itself (source.State.Unpoliced).
	unpoliced func() bool
	rules     *reconcile.Flat[bpf.RuleKey, bpf.RuleRow]
	classes   *reconcile.Flat[netip.Prefix, bpf.Class]
	// noLabels: an attachment of which the source has no Pod has the labels that the
	// runtime named, be they none. Else it is not known.
	noLabels bool
	// held is what the kernel's row of an address says; false: there is no row.
	held func(netip.Addr) (endpoint.Isolation, bool)
	// isolate makes the rows of an attachment say what [policies.Isolation] does.
	isolate func(api.Ref) error
	// adopt makes the open connections of a pod known to the programs, so that they are
	// judged as what they are; it may be repeated.
	adopt func(endpoint.Pod) error
	// rejudge lets all flows be judged again.
	rejudge func() error
}

// policies is the network policies on this node: what is known, and what is made of it in
// the kernel. A policy that changes is another set: its rules are written first, then the
// classes of addresses, then the pods' rows have the set, then all flows are judged again,
// and what nobody wants goes.
//
// Until the source has told all of the policies nothing changes: pods keep what the kernel
// has, and a new one is closed, unless it is known that its namespace had no policies.
type policies struct {
	policyDeps
	since time.Time
	pods  *policyPods
	took  prometheus.Histogram
	due   chan struct{} // of size 1: something is to be done that the source does not tell

	mu       sync.Mutex // held while anything is compiled or written; taken before that of pods
	compiler *policy.Compiler
	complete bool                    // the source has once told all
	idle     bool                    // there are no policies, and nothing of them is in the kernel
	last     *policySummary          // what the source told last, or a former daemon knew; nil: nothing
	kept     *policySummary          // what is in the file
	stale    bool                    // flows are to be judged again
	news     chan struct{}           // closed when the source has told something
	late     time.Time               // since when the source has not told all
	failed   error                   // what could not be done, and is to be tried again
	refused  map[bpf.RuleSet]error   // sets that cannot be in force
	short    map[bpf.RuleSet]error   // sets in force that lack some of what they allow
	repairs  uint64                  // of the tables
	network  []*source.NetworkPolicy // as they were taken up last
	cluster  []*source.ClusterPolicy // likewise
	troubles []string                // of these
}

func newPolicies(d policyDeps) *policies {
	p := &policies{
		policyDeps: d, since: time.Now(), pods: newPolicyPods(), due: make(chan struct{}, 1),
		compiler: policy.New(d.node), news: make(chan struct{}), late: time.Now(),
	}
	p.last = rememberedPolicies(d.stateDir)
	p.kept = p.last
	p.took = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "weft_policy_change_seconds", Help: "Time from a change of what policies mean on this node in the source to its being in the kernel.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // 0.5 ms to 4 s
	})
	return p
}

// follow takes up what the source says, and makes the kernel as it should be. It says
// whether something of policies changed.
func (p *policies) follow() (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		close(p.news)
		p.news = make(chan struct{})
	}()
	if p.idle && p.unpoliced() {
		p.failed = errors.Join(p.flip(p.flips()), p.rules.Prune(), p.classes.Prune()) // what others made
		p.report()
		return false, p.failed
	}
	return p.take(p.source())
}

// take is follow's part under mu.
func (p *policies) take(state source.State) (changed bool, err error) {
	defer p.report()
	if !state.PoliciesComplete {
		if p.late.IsZero() {
			p.late = time.Now()
		}
		return false, nil
	}
	p.late = time.Time{}
	if !p.complete {
		p.complete = true
		p.last = nil // what a former daemon knew
		p.rules.AllowPrune()
		p.classes.AllowPrune()
	}
	others := !slices.Equal(state.Policies, p.network) || !slices.Equal(state.ClusterPolicies, p.cluster)
	if others || p.last == nil {
		p.network, p.cluster, p.last = state.Policies, state.ClusterPolicies, summarise(state)
		p.problems.err(problemPolicyRecall, p.remember())
	}
	change := p.compiler.Update(state, p.pods.locals(p.noLabels), policySink{p.rules, p.classes})
	p.stale = p.stale || change.Rejudge
	err = p.settle()
	if others || len(change.Pods) > 0 {
		p.troubles = p.compiler.Problems()
	}
	p.idle = unpoliced(state) && err == nil && p.rules.Stats().Rows == 0 && p.classes.Stats().Rows == 0
	return len(change.Pods) > 0 || change.Rejudge, err
}

// unpoliced says that there are no policies.
func unpoliced(state source.State) bool {
	return len(state.Policies) == 0 && len(state.ClusterPolicies) == 0
}

// settle makes the kernel hold what was compiled. Until pods' rows name their new sets the
// former ones are judged by as before; only then they are given up.
func (p *policies) settle() error {
	errs := []error{p.rules.Write(), p.classes.Write()}
	flips := p.flips()
	errs = append(errs, p.flip(flips))
	used := p.used()
	p.compiler.Sweep(func(s bpf.RuleSet) bool { return used[s] }, policySink{p.rules, p.classes})
	errs = append(errs, p.rules.Write(), p.classes.Write())
	again := p.flips()
	maps.Copy(flips, again)
	errs = append(errs, p.flip(again), p.classes.Prune())
	repairs := p.rules.Stats().Repairs + p.classes.Stats().Repairs
	if p.stale = p.stale || len(flips) > 0 || repairs != p.repairs; p.stale {
		err := p.rejudge()
		p.stale = err != nil
		errs = append(errs, err)
	}
	p.repairs = repairs
	p.failed = errors.Join(append(errs, p.prune())...)
	return p.failed
}

// unfinished says that something is to be tried again.
func (p *policies) unfinished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed != nil
}

// flips is the pods whose sets are others than those in force, and what they are to be.
func (p *policies) flips() map[api.Ref]endpoint.Isolation {
	out := map[api.Ref]endpoint.Isolation{}
	p.refuse()
	for _, e := range p.pods.all() {
		ref := e.pod.Ref
		now, known := p.wanted(e.pod)
		now.Ingress = p.orFormer(now.Ingress, e.isolation.Ingress)
		now.Egress = p.orFormer(now.Egress, e.isolation.Egress)
		p.pods.note(ref, known)
		if now != e.isolation {
			out[ref] = now
		}
	}
	return out
}

// wanted is what a pod's rows are to say, by what is compiled; known is false if that is
// only for want of anything better.
func (p *policies) wanted(pod endpoint.Pod) (i endpoint.Isolation, known bool) {
	if c, ok := p.compiler.Isolation(pod.Ref); ok {
		return endpoint.Isolation{Ingress: c.Ingress, Egress: c.Egress}, true
	}
	if p.last.spares(namespaceOf(pod)) {
		return endpoint.Isolation{}, true
	}
	return endpoint.Closed, false
}

// orFormer is a set that can be in force: the former one, if there was one, where rules of
// want are refused. A pod that was open is closed.
func (p *policies) orFormer(want, former bpf.RuleSet) bpf.RuleSet {
	switch {
	case p.refused[want] == nil:
		return want
	case former != 0 && p.refused[former] == nil:
		return former
	}
	return bpf.RuleSetClosed
}

// flip gives pods other sets. The connections of one that has not been isolated so far are
// made known before, and again after, for those that were opened meanwhile.
func (p *policies) flip(flips map[api.Ref]endpoint.Isolation) error {
	var group errgroup.Group
	group.SetLimit(flipsAtOnce)
	refs := slices.Collect(maps.Keys(flips))
	errs := make([]error, len(refs))
	for i, ref := range refs {
		group.Go(func() error {
			e, ok := p.pods.get(ref)
			if !ok {
				return nil
			}
			open := e.open() && flips[ref] != endpoint.Isolation{}
			if open {
				errs[i] = p.adopt(e.pod)
			}
			p.pods.set(ref, flips[ref])
			errs[i] = errors.Join(errs[i], p.isolate(ref))
			if open {
				errs[i] = errors.Join(errs[i], p.adopt(e.pod))
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// review makes problems known, although nothing new was told.
func (p *policies) review() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report()
}

// report makes problems known.
func (p *policies) report() {
	var texts []string
	for _, e := range p.pods.all() {
		if !e.unknown {
			continue
		}
		texts = append(texts, fmt.Sprintf("pod %s: nothing passes, as the source does not know it: which policies apply cannot be said", podText(e.pod)))
	}
	p.problems.sum(problemPolicyUnknown, strings.Join(few(8, texts), "\n"))
	p.problems.set(problemPolicy, few(8, slices.Concat(p.troubles, p.refusals()))...)
	if !p.late.IsZero() && time.Since(p.late) >= recallAfter {
		p.problems.set(problemPolicyLate, "policies, namespaces and pods were not read completely yet: pods keep what they have, new ones are closed where there were policies")
	} else if p.late.IsZero() {
		p.problems.set(problemPolicyLate)
	}
}

// policySink gives what is compiled to the tables.
type policySink struct {
	rules   *reconcile.Flat[bpf.RuleKey, bpf.RuleRow]
	classes *reconcile.Flat[netip.Prefix, bpf.Class]
}

func (s policySink) WantRule(k bpf.RuleKey, row bpf.RuleRow)    { s.rules.Want(k, row) }
func (s policySink) UnwantRule(k bpf.RuleKey)                   { s.rules.Unwant(k) }
func (s policySink) WantClass(prefix netip.Prefix, c bpf.Class) { s.classes.Want(prefix, c) }
func (s policySink) UnwantClass(prefix netip.Prefix)            { s.classes.Unwant(prefix) }
