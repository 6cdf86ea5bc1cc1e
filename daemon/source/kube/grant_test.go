package kube

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/daemon/source"
)

// mkBalanced is a Service of type LoadBalancer with the condition of somebody else.
func mkBalanced(name string) *corev1.Service {
	s := mkService(name, "10.96.0.9")
	s.UID, s.Generation = "uid-1", 3
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	class := "weft.dev/l2"
	s.Spec.LoadBalancerClass = &class
	s.Status.Conditions = []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue, Reason: "R"}}
	return s
}

// leader is a source that is elected, and its context.
func (p *place) leader() (*candidate, context.Context) {
	p.t.Helper()
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	var now atomic.Int32
	c := p.elect("node-a", &now)
	return c, receive(p.t, "it leads", c.leads)
}

func (c *candidate) service(what string, is func(*source.Service) bool) *source.Service {
	c.t.Helper()
	var found *source.Service
	c.until(what, func(s source.State) bool {
		i := slices.IndexFunc(s.Services, is)
		if i >= 0 {
			found = s.Services[i]
		}
		return i >= 0
	})
	return found
}

func isThere(*source.Service) bool { return true }

var someIPs = []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}

func TestGrantWritesStatusConditionAndEvent(t *testing.T) {
	p := newPlace(t)
	c, ctx := p.leader()
	p.Put(mkBalanced("web"))
	svc := c.service("the Service", isThere)
	grant := func(g source.Grant) *corev1.Service {
		t.Helper()
		written, err := c.Grant(ctx, []source.Grant{g})
		if err != nil || len(written) != 1 {
			t.Fatalf("got %d written, %v", len(written), err)
		}
		return p.Service("shop", "web")
	}
	got := grant(source.Grant{Service: svc, IPs: someIPs, Condition: source.Condition{True: true, Reason: source.ReasonAllocated}})
	vip := corev1.LoadBalancerIPModeVIP
	want := corev1.ServiceStatus{
		LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.7", IPMode: &vip}, {IP: "2001:db8::7", IPMode: &vip}}},
		Conditions: []metav1.Condition{
			{Type: "Other", Status: metav1.ConditionTrue, Reason: "R"},
			{Type: source.BalancerCondition, Status: metav1.ConditionTrue, Reason: "Allocated", Message: "it has 192.0.2.7, 2001:db8::7", ObservedGeneration: 3},
		},
	}
	ignoreTime := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".LastTransitionTime" }, cmp.Ignore())
	if diff := cmp.Diff(want, got.Status, ignoreTime); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	since := got.Status.Conditions[1].LastTransitionTime
	if got.Spec.ClusterIP != "10.96.0.9" || since.IsZero() {
		t.Errorf("Service: %+v", got)
	}

	svc = c.service("its addresses", func(s *source.Service) bool { return len(s.LoadBalancerIPs) == 2 })
	if want := (source.Condition{True: true, Reason: source.ReasonAllocated}); svc.Balancer.Condition != want {
		t.Errorf("condition: got %+v, want %+v", svc.Balancer.Condition, want)
	}
	refused := source.Condition{Reason: "Exhausted", Message: "none is free"}
	got = grant(source.Grant{Service: svc, Condition: refused})
	if c := got.Status.Conditions[1]; len(got.Status.LoadBalancer.Ingress) != 0 || c.Status != metav1.ConditionFalse || c.Message != "none is free" {
		t.Errorf("refused: %+v", got.Status)
	}
	svc = c.service("the condition", func(s *source.Service) bool { return s.Balancer.Condition == refused })
	got = grant(source.Grant{Service: svc})
	if want := []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue, Reason: "R"}}; !cmp.Equal(got.Status.Conditions, want) {
		t.Errorf("taken back: %+v", got.Status)
	}
	wantEvents := []string{
		"Normal shop/web LoadBalancerAddress: load balancer's address: it has 192.0.2.7, 2001:db8::7",
		"Warning shop/web LoadBalancerExhausted: load balancer's address: none is free",
		"Normal shop/web LoadBalancerAddress: load balancer's address taken back: the Service is not Weft's any more",
	}
	if diff := cmp.Diff(wantEvents, p.Events()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// What was decided by something that is no more is not written, whoever changed it.
func TestGrantOfAServiceThatHasChangedIsNotWritten(t *testing.T) {
	p := newPlace(t)
	c, ctx := p.leader()
	p.Put(mkBalanced("web"))
	svc := c.service("the Service", isThere)
	ours := source.Condition{True: true, Reason: source.ReasonAllocated}
	for name, change := range map[string]func(*corev1.Service){
		"another leader's address": func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.99"}}
		},
		"another type":    func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"another request": func(s *corev1.Service) { s.Annotations = map[string]string{"weft.dev/load-balancer-ips": "192.0.2.1"} },
	} {
		now := mkBalanced("web")
		change(now)
		p.Put(now)
		written, err := c.Grant(ctx, []source.Grant{{Service: svc, IPs: someIPs, Condition: ours}})
		if got := p.Service("shop", "web").Status; !errors.Is(err, source.ErrStale) || len(written) != 0 || !cmp.Equal(got, now.Status) {
			t.Errorf("%s: %d written, %v, status %+v", name, len(written), err, got)
		}
	}
	p.Delete(mkBalanced("web"))
	p.Put(mkBalanced("other"))
	other := c.service("the other", func(s *source.Service) bool { return s.Name == "other" })
	written, err := c.Grant(ctx, []source.Grant{{Service: svc, IPs: someIPs, Condition: ours}, {Service: other, IPs: someIPs, Condition: ours}})
	if !errors.Is(err, source.ErrStale) || len(written) != 1 || written[0].Service != other {
		t.Errorf("one is gone: %d written, %v", len(written), err)
	}
	if got := p.Events(); len(got) != 1 {
		t.Errorf("events: %q", got)
	}
}

// Who gives the addresses of a Service that is not Weft's any more may have been quicker.
func TestWhatAnotherGaveStaysWhenOursIsTakenBack(t *testing.T) {
	p := newPlace(t)
	c, ctx := p.leader()
	proxy := corev1.LoadBalancerIPModeProxy
	theirs := []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}, {IP: "198.51.100.1", IPMode: &proxy, Ports: []corev1.PortStatus{{Port: 80, Protocol: "TCP"}}}}
	web := mkBalanced("web")
	web.Spec.LoadBalancerClass = nil
	web.Status.LoadBalancer.Ingress = append(slices.Clone(theirs), corev1.LoadBalancerIngress{IP: "192.0.2.7"})
	web.Status.Conditions = append(web.Status.Conditions, metav1.Condition{Type: source.BalancerCondition, Status: metav1.ConditionTrue, Reason: "Allocated"})
	p.Put(web)
	svc := c.service("the Service", isThere)
	if _, err := c.Grant(ctx, []source.Grant{{Service: svc, IPs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}}); err != nil {
		t.Fatal(err)
	}
	got := p.Service("shop", "web").Status
	if diff := cmp.Diff(theirs, got.LoadBalancer.Ingress); diff != "" || len(got.Conditions) != 1 {
		t.Errorf("addresses (-want +got):\n%s\nconditions: %+v", diff, got.Conditions)
	}
}

// Between reading the Service and writing its status another may write: the version tells.
func TestGrantMeetsAnotherWriter(t *testing.T) {
	p := newPlace(t)
	c, ctx := p.leader()
	p.Put(mkBalanced("web"))
	svc := c.service("the Service", isThere)
	p.Before("patch services", func() {
		now := mkBalanced("web")
		now.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.99"}}
		p.Put(now)
	})
	_, err := c.Grant(ctx, []source.Grant{{Service: svc, IPs: someIPs}})
	if got := p.Service("shop", "web").Status.LoadBalancer.Ingress; !errors.Is(err, source.ErrStale) || len(got) != 1 || got[0].IP != "192.0.2.99" {
		t.Errorf("got %v, status %+v", err, got)
	}
}

func TestWhoIsNotElectedWritesNothing(t *testing.T) {
	p := newPlace(t)
	c, ctx := p.leader()
	p.Put(mkBalanced("web"))
	svc := c.service("the Service", isThere)
	c.cancel()
	<-c.done
	if _, err := c.Grant(ctx, []source.Grant{{Service: svc, IPs: someIPs}}); !errors.Is(err, errNotElected) {
		t.Errorf("with its context: got %v", err)
	}
	if _, err := c.Grant(t.Context(), []source.Grant{{Service: svc, IPs: someIPs}}); !errors.Is(err, errNotElected) {
		t.Errorf("with another: got %v", err)
	}
	if got := p.Service("shop", "web").Status.LoadBalancer.Ingress; len(got) != 0 {
		t.Errorf("status: %+v", got)
	}
}
