package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/reconcile"
)

// policyKernel is what [policies] writes to: tables that are maps, and a list of what was
// done, in order.
type policyKernel struct {
	classless error // of writes of classes
	mu        sync.Mutex
	state     source.State
	done      []string
	rows      map[api.Ref]endpoint.Isolation // the pods' endpoint rows
	rules     map[bpf.RuleKey]bpf.RuleRow
	classed   map[netip.Prefix]bpf.Class
	// full is why no rule can be written; nil: it can.
	full error
	bad  error // why flows cannot be judged again
	// snapshots is how often the source's state was asked for.
	snapshots int
}

// note appends what was done, once if it is done many times in a row.
func (k *policyKernel) note(what string) {
	if len(k.done) == 0 || k.done[len(k.done)-1] != what {
		k.done = append(k.done, what)
	}
}

// tookDone is what was done since it was asked last.
func (k *policyKernel) tookDone() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	done := k.done
	k.done = nil
	return done
}

type fakeRules struct{ k *policyKernel }

func (f fakeRules) Dump() (map[bpf.RuleKey]bpf.RuleRow, error) {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	return maps.Clone(f.k.rules), nil
}

func (f fakeRules) Set(key bpf.RuleKey, row bpf.RuleRow) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if f.k.full != nil {
		return f.k.full
	}
	f.k.note("write rules")
	f.k.rules[key] = row
	return nil
}

func (f fakeRules) Delete(key bpf.RuleKey) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	f.k.note("delete rules")
	delete(f.k.rules, key)
	return nil
}

type fakeClasses struct{ k *policyKernel }

func (f fakeClasses) Dump() (map[netip.Prefix]bpf.Class, error) {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	return maps.Clone(f.k.classed), nil
}

func (f fakeClasses) Set(p netip.Prefix, c bpf.Class) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if f.k.classless != nil {
		return f.k.classless
	}
	f.k.note("write classes")
	f.k.classed[p] = c
	return nil
}

func (f fakeClasses) Delete(p netip.Prefix) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	f.k.note("delete classes")
	delete(f.k.classed, p)
	return nil
}

// policyLab is policies over such a kernel.
type policyLab struct {
	*policies
	*policyKernel
	t   *testing.T
	dir string
}

func newPolicyLab(t *testing.T) *policyLab {
	t.Helper()
	l := &policyLab{t: t, dir: t.TempDir(), policyKernel: &policyKernel{rows: map[api.Ref]endpoint.Isolation{}, rules: map[bpf.RuleKey]bpf.RuleRow{}, classed: map[netip.Prefix]bpf.Class{}}}
	l.start()
	return l
}

// start makes it anew: a restart of the daemon.
func (l *policyLab) start() {
	k := l.policyKernel
	l.policies = newPolicies(policyDeps{
		node: "n1", stateDir: l.dir, log: slog.New(slog.DiscardHandler), problems: newProblems(slog.New(slog.DiscardHandler)),
		source:    func() source.State { k.mu.Lock(); defer k.mu.Unlock(); k.snapshots++; return k.state },
		unpoliced: func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.state.Unpoliced() },
		rules:     reconcile.NewFlat("rules", fakeRules{k}), classes: reconcile.NewFlat("classes", fakeClasses{k}),
		held: func(a netip.Addr) (endpoint.Isolation, bool) {
			k.mu.Lock()
			defer k.mu.Unlock()
			i, ok := k.rows[refAt(a)]
			return i, ok
		},
		isolate: func(r api.Ref) error {
			i := l.policies.Isolation(r)
			k.mu.Lock()
			defer k.mu.Unlock()
			if _, ok := k.rows[r]; ok {
				k.note("isolate " + r.ContainerID)
				k.rows[r] = i
			}
			return nil
		},
		adopt: func(p endpoint.Pod) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.note("adopt " + p.ContainerID)
			return nil
		},
		rejudge: func() error {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.note("rejudge")
			return k.bad
		},
	})
	if err := errors.Join(l.policies.rules.Refresh(), l.classes.Refresh()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *policyLab) looks() int {
	l.policyKernel.mu.Lock()
	defer l.policyKernel.mu.Unlock()
	return l.snapshots
}

// pod is the attachment of the pod of that name with the last byte of its address.
func (l *policyLab) pod(name string, n byte) endpoint.Pod {
	a := netip.AddrFrom4([4]byte{10, 244, 1, n})
	return endpoint.Pod{Ref: refAt(a), PodNamespace: "shop", PodName: name, Addrs: []netip.Addr{a}}
}

func refAt(a netip.Addr) api.Ref {
	return api.Ref{ContainerID: fmt.Sprintf("c%d", a.As4()[3]), IfName: "eth0"}
}

// add admits a pod and makes its rows, as ADD does.
func (l *policyLab) add(p endpoint.Pod) endpoint.Isolation {
	l.Admit(context.Background(), p)
	i := l.Isolation(p.Ref)
	l.policyKernel.mu.Lock()
	defer l.policyKernel.mu.Unlock()
	l.rows[p.Ref] = i
	return i
}

func (l *policyLab) row(p endpoint.Pod) endpoint.Isolation {
	l.policyKernel.mu.Lock()
	defer l.policyKernel.mu.Unlock()
	return l.rows[p.Ref]
}

// says makes the source say so, and takes it up.
func (l *policyLab) says(s source.State) {
	l.t.Helper()
	l.policyKernel.mu.Lock()
	l.state = s
	l.policyKernel.mu.Unlock()
	_, _ = l.follow() // what fails is what the test is about
}

// cluster is a state with pods of these names, all of them with the label app: name, and
// with policies.
func clusterOf(pods []string, policies ...*source.NetworkPolicy) source.State {
	s := source.State{Complete: true, PoliciesComplete: true, Namespaces: []*source.Namespace{{Name: "shop"}}, Policies: policies}
	for i, name := range slices.Sorted(slices.Values(pods)) {
		s.Pods = append(s.Pods, &source.Pod{
			Namespace: "shop", Name: name, Node: "n1", Labels: map[string]string{"app": name},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(100 + i)})},
		})
	}
	return s
}

// lets is a policy by which only pods of one app reach those of another, on one TCP port.
func lets(name, from, to string, port uint16) *source.NetworkPolicy {
	return &source.NetworkPolicy{
		Namespace: "shop", Name: name, Pods: labels.SelectorFromSet(labels.Set{"app": to}),
		Ingress: &source.PolicyRules{Rules: []source.PolicyRule{{
			Peers: []source.PolicyPeer{{Pods: labels.SelectorFromSet(labels.Set{"app": from})}},
			Ports: []source.PolicyPort{{Protocol: source.TCP, First: port, Last: port}},
		}}},
	}
}

func (l *policyLab) isolated(i endpoint.Isolation) bool {
	return i.Ingress > bpf.RuleSetClosed && i.Egress == 0
}
