package daemon

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

func podNamed(id string) endpoint.Pod {
	return endpoint.Pod{Ref: api.Ref{ContainerID: id, IfName: "eth0"}}
}

// Pods are told in one order, whatever came and went.
func TestPodsAreToldInOrder(t *testing.T) {
	p := newPolicyPods()
	names := func() (out string) {
		for _, e := range p.all() {
			out += e.pod.Ref.ContainerID
		}
		return out
	}
	for _, id := range []string{"c", "a", "d"} {
		p.add(podNamed(id), endpoint.Isolation{}, true)
	}
	if got := names(); got != "acd" {
		t.Errorf("got %q, want acd", got)
	}
	p.renew(podNamed("b"))
	p.drop(podNamed("a").Ref)
	p.drop(podNamed("x").Ref)
	if got := names(); got != "bcd" {
		t.Errorf("after one came and one went: got %q, want bcd", got)
	}
	p.set(podNamed("c").Ref, endpoint.Closed)
	if e := p.all()[1]; e.isolation != endpoint.Closed {
		t.Errorf("what is told of c is %+v, want that it is closed", e.isolation)
	}
	for _, known := range []bool{false, true} {
		before := p.all()
		p.note(podNamed("c").Ref, known)
		if e := p.all()[1]; e.unknown == known || before[1].unknown != known {
			t.Errorf("known %v is told of c as unknown %v, and was before as %v", known, e.unknown, before[1].unknown)
		}
	}
}

// Flows of isolated pods are looked for as long as a pod is isolated, and once more.
func TestIsolatedPodsAreTold(t *testing.T) {
	p := newPolicyPods()
	ref := podNamed("a").Ref
	tells := func(when string, want bool) {
		t.Helper()
		if got := p.takeIsolated(); got != want {
			t.Errorf("%s: a pod is or was isolated: got %v, want %v", when, got, want)
		}
	}
	tells("without pods", false)
	p.add(podNamed("a"), endpoint.Isolation{}, true)
	tells("with an open pod", false)
	p.set(ref, endpoint.Isolation{Ingress: bpf.RuleSet(7)})
	tells("isolated", true)
	tells("still isolated", true)
	p.set(ref, endpoint.Isolation{})
	tells("open again", true)
	tells("open for longer", false)
	p.set(ref, endpoint.Isolation{Egress: bpf.RuleSet(7)})
	p.set(ref, endpoint.Isolation{})
	tells("isolated for a moment", true)
	p.set(ref, endpoint.Isolation{Egress: bpf.RuleSet(7)})
	p.drop(ref)
	tells("gone", true)
	p.add(podNamed("b"), endpoint.Closed, true)
	tells("closed by a former daemon", true)
}

// An ADD does not read the source's state where there are no policies: a folder makes it
// anew for each pod, so that the thousandth would cost more than the first.
func TestAddWithoutPoliciesReadsNoState(t *testing.T) {
	l := newPolicyLab(t)
	l.says(clusterOf([]string{"web"}))
	before := l.snapshots
	for i := range byte(20) {
		if got := l.add(l.pod("web", i+1)); got != (endpoint.Isolation{}) {
			t.Fatalf("pod %d: got %+v, want that it is open", i, got)
		}
	}
	if got := l.snapshots - before; got != 0 {
		t.Errorf("for 20 pods: got %d looks at the source's state, want none", got)
	}
	l.policyKernel.mu.Lock() // a policy that was not taken up yet
	l.state = clusterOf([]string{"web"}, lets("p", "order", "web", 80))
	l.policyKernel.mu.Unlock()
	pod := l.pod("web", 99)
	pod.Labels = map[string]string{"app": "web"}
	if got := l.add(pod); got.Ingress == 0 {
		t.Errorf("with a policy about the pod: got %+v, want that it is isolated", got)
	}
}

// A pod that is made anew by its name, of a StatefulSet say, is not open because its
// predecessor was, while the source still tells of that: ADD waits for the source.
func TestAddGoesByNoFormerPodOfTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		state := func(uid, app string) source.State {
			s := clusterOf([]string{"web"}, lets("p", "web", "order", 80))
			s.Pods[0].UID, s.Pods[0].Labels = uid, map[string]string{"app": app}
			return s
		}
		l.says(state("former", "web"))
		former, pod := l.pod("web", 1), l.pod("web", 2)
		former.PodUID, pod.PodUID = "former", "new"
		if got := l.add(former); got != (endpoint.Isolation{}) {
			t.Errorf("the former pod: got %+v, want that it is open", got)
		}
		looks, added := l.looks(), make(chan endpoint.Isolation, 1)
		go func() { added <- l.add(pod) }()
		synctest.Wait()
		if l.looks() == looks {
			t.Error("ADD did not ask the source")
		}
		if got := l.Isolation(pod.Ref); got != endpoint.Closed {
			t.Errorf("the new pod, while the source tells of the former: got %+v, want that it is closed", got)
		}
		l.says(state("new", "order"))
		if got := <-added; !l.isolated(got) {
			t.Errorf("the new pod: got %+v, want that a policy isolates it", got)
		}
		if got := l.Isolation(former.Ref); got != endpoint.Closed {
			t.Errorf("the former pod, of which the source has nothing any more: got %+v, want that it is closed", got)
		}
	})
}

// An address is that of the pod that had it last.
func TestPodsAreFoundByAddress(t *testing.T) {
	p := newPolicyPods()
	pod := func(id string, addrs ...string) endpoint.Pod {
		out := podNamed(id)
		out.PodNamespace, out.PodName = "shop", id
		for _, a := range addrs {
			out.Addrs = append(out.Addrs, netip.MustParseAddr(a))
		}
		return out
	}
	at := func(when string, want map[string]string) {
		t.Helper()
		for a, name := range want {
			if got := p.at(netip.MustParseAddr(a)); got != name {
				t.Errorf("%s: pod at %s: got %q, want %q", when, a, got, name)
			}
		}
	}
	p.add(pod("a", "10.0.0.1", "fd00::1"), endpoint.Isolation{}, true)
	at("one", map[string]string{"10.0.0.1": "shop/a", "fd00::1": "shop/a", "10.0.0.2": ""})
	p.renew(pod("a", "10.0.0.2"))
	at("another sandbox", map[string]string{"10.0.0.1": "", "fd00::1": "", "10.0.0.2": "shop/a"})
	p.renew(pod("b", "10.0.0.2"))
	p.drop(podNamed("a").Ref)
	at("the address is another's", map[string]string{"10.0.0.2": "shop/b"})
	p.drop(podNamed("b").Ref)
	at("gone", map[string]string{"10.0.0.2": ""})
}
