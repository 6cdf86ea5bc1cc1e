package daemon

import (
	"testing"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
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
