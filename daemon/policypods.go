package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/policy"
	"github.com/weftnet/weft/internal/api"
)

// policyPods is the attachments of this node and what their rows say of policies. Its lock
// is held for moments only, so that a pod's rows can be written while others compile.
type policyPods struct {
	mu    sync.Mutex
	pods  map[api.Ref]policyPod
	addrs map[netip.Addr]api.Ref // whose an address is
	order []api.Ref              // of pods, sorted; nil: not made since one came or went
	list  []policyPod            // of pods, in that order; nil: not made since one changed
	// isolated: a pod has been, since takeIsolated was asked last.
	isolated bool
}

// policyPod is one of them. The zero isolation is open.
type policyPod struct {
	pod       endpoint.Pod
	isolation endpoint.Isolation // what its rows are to say
	unknown   bool               // that it is so only because no more is known
	// unjudged: it lives, but the programs know none of its connections: no row of it was
	// there when the daemon started.
	unjudged bool
}

// open says whether the pod may have connections that nobody has judged.
func (p policyPod) open() bool { return p.unjudged || p.isolation == endpoint.Isolation{} }

func newPolicyPods() *policyPods {
	return &policyPods{pods: map[api.Ref]policyPod{}, addrs: map[netip.Addr]api.Ref{}}
}

// add makes a pod known whose row in the kernel says so, or is not there. One that is known
// keeps its isolation.
func (p *policyPods) add(pod endpoint.Pod, i endpoint.Isolation, there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.pods[pod.Ref]
	if !ok {
		e.isolation, e.unjudged = i, !there
	}
	e.pod = pod
	p.isolated = p.isolated || e.isolation != endpoint.Isolation{}
	p.replace(pod.Ref, e)
}

// replace puts a pod in the place of a former one of its name. p.mu is held.
func (p *policyPods) replace(ref api.Ref, e policyPod) {
	p.remove(ref)
	p.pods[ref] = e
	for _, a := range e.pod.Addrs {
		p.addrs[a] = ref
	}
}

// remove takes a pod out. p.mu is held.
func (p *policyPods) remove(ref api.Ref) {
	for _, a := range p.pods[ref].pod.Addrs {
		if p.addrs[a] == ref {
			delete(p.addrs, a)
		}
	}
	delete(p.pods, ref)
	p.order, p.list = nil, nil
}

// renew makes a pod known that is being added, whatever was known of its name: closed.
func (p *policyPods) renew(pod endpoint.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(pod.Ref, policyPod{pod: pod, isolation: endpoint.Closed})
}

// drop says whether there was one.
func (p *policyPods) drop(ref api.Ref) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, had := p.pods[ref]
	p.remove(ref)
	return had
}

// at is the name of the pod that has an address; empty: none of this node.
func (p *policyPods) at(a netip.Addr) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref, ok := p.addrs[a]
	if !ok {
		return ""
	}
	return podText(p.pods[ref].pod)
}

// byAddr is the pods' names by their addresses.
func (p *policyPods) byAddr() map[netip.Addr]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[netip.Addr]string, 2*len(p.pods))
	for _, e := range p.pods {
		for _, a := range e.pod.Addrs {
			out[a] = podText(e.pod)
		}
	}
	return out
}

func (p *policyPods) get(ref api.Ref) (policyPod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.pods[ref]
	return e, ok
}

// set says what a pod's rows are to say, if it is still there.
func (p *policyPods) set(ref api.Ref, i endpoint.Isolation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.pods[ref]; ok {
		e.isolation, e.unjudged = i, false
		p.isolated = p.isolated || i != endpoint.Isolation{}
		p.pods[ref], p.list = e, nil
	}
}

// takeIsolated says whether a pod is isolated or has been since it was asked last.
func (p *policyPods) takeIsolated() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.isolated
	p.isolated = false
	for _, e := range p.pods {
		p.isolated = p.isolated || e.isolation != endpoint.Isolation{}
	}
	return was || p.isolated
}

// note says whether a pod's policies are known.
func (p *policyPods) note(ref api.Ref, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.pods[ref]; ok && e.unknown == known {
		e.unknown = !known
		p.pods[ref], p.list = e, nil
	}
}

// all is the pods in a stable order, as they are now. It is not to be changed.
func (p *policyPods) all() []policyPod {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order == nil {
		p.order = slices.SortedFunc(maps.Keys(p.pods), compareRefs)
	}
	if p.list == nil {
		p.list = make([]policyPod, len(p.order))
		for i, ref := range p.order {
			p.list[i] = p.pods[ref]
		}
	}
	return p.list
}

// locals is the pods as package policy takes them. With bare, a pod without labels from the
// runtime is one that has none; else only the source can tell of them.
func (p *policyPods) locals(bare bool) []policy.Local {
	all := p.all()
	out := make([]policy.Local, len(all))
	for i, e := range all {
		out[i] = policy.Local{Ref: e.pod.Ref, Namespace: namespaceOf(e.pod), Name: cmp.Or(e.pod.PodName, e.pod.ContainerID), UID: e.pod.PodUID, Addrs: e.pod.Addrs}
		if bare {
			out[i].Labels = map[string]string{}
			if e.pod.Labels != nil {
				out[i].Labels = e.pod.Labels
			}
		}
	}
	return out
}

// namespaceOf is the namespace in which the source has a pod.
func namespaceOf(p endpoint.Pod) string { return cmp.Or(p.PodNamespace, "default") }

// podText is a pod's name for people.
func podText(p endpoint.Pod) string {
	if p.PodName == "" {
		return p.Ref.String()
	}
	return namespaceOf(p) + "/" + p.PodName
}
