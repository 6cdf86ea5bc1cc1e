package daemon

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// app has the API know a Pod with that label, which is then attached.
func (m *machine) app(c *testkube.Cluster, name, app string) *pod {
	m.lab.t.Helper()
	p := m.scheduled(c, name)
	p.Labels = map[string]string{"app": app}
	c.Put(p)
	out := m.attach(withPod(p))
	return out
}

// kubePolicy lets only pods of one app into those of another.
func kubePolicy(name, from, to string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": to}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
		PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": from}},
	}}}}
	return p
}

// answers waits until pods get answers from another, or none.
func (l *lab) answers(to *pod, want bool, from ...*pod) {
	l.t.Helper()
	for i, p := range from {
		testnet.Until(l.t, converge, func() error {
			if err := ask(p.NS, to.addrs...); (err == nil) != want {
				return fmt.Errorf("pod %d asks: %v, want an answer: %v", i, err, want)
			}
			return nil
		})
	}
}

func TestPoliciesOfTheKubernetesAPI(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	c := testkube.NewCluster(t)
	server := l.underKube(c, a, b)
	c.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	a.start()
	b.start()
	a.ready()
	b.ready()
	web, near, far, stranger := a.app(c, "web", "web"), a.app(c, "near", "friend"), b.app(c, "far", "friend"), b.app(c, "stranger", "none")
	l.answers(web, true, near, far, stranger)

	c.Put(kubePolicy("friends", "friend", "web"))
	l.answers(web, false, stranger)
	l.answers(web, true, near, far)
	late := b.app(c, "late", "friend")
	l.answers(web, true, late)

	server.Stop()
	a.until("the outage is shown", func(s api.Status) bool { return len(s.Problems) > 0 })
	a.stop(syscall.SIGKILL)
	a.start()
	a.until("it serves", func(s api.Status) bool { return s.Ready && !s.Synced })
	l.answers(web, false, stranger)
	l.answers(web, true, near, far, late)
	// Nobody can say which policies are about it.
	closed := a.app(c, "second", "web")
	if err := ask(near.NS, closed.addrs...); err == nil {
		t.Error("a pod that nobody knows can be reached")
	}
	if err := ask(closed.NS, near.addrs...); err == nil {
		t.Error("a pod that nobody knows can reach others")
	}
	if err := askOnce(a.NS, closed.addrs...); err != nil {
		t.Errorf("its node does not reach it: %v", err)
	}
	a.until("it is said", func(s api.Status) bool { return problem(s, problemPolicyUnknown) })

	l.serveAPI(c, a, server.Addr)
	a.until("all is well", func(s api.Status) bool { return s.Ready && s.Synced && len(s.Problems) == 0 })
	l.answers(closed, true, near, far)
	l.answers(closed, false, stranger)

	c.Delete(kubePolicy("friends", "friend", "web"))
	l.answers(web, true, stranger)
	if s, err := a.client().Status(context.Background()); err != nil || rowsOf(s, "rules")+rowsOf(s, "classes") > 0 {
		t.Errorf("left of policies are %d rules and %d classes, %v", rowsOf(s, "rules"), rowsOf(s, "classes"), err)
	}
}
