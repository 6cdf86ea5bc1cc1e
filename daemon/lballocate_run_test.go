package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

const onePool = "[{name: outside, addresses: [198.51.100.7]}]"

// outside waits until a Service is served at one load balancer's address, and returns it.
func (m *machine) outside(name string) (at string) {
	m.lab.t.Helper()
	testnet.Until(m.lab.t, converge, func() error {
		list, err := m.client().Services(context.Background(), name)
		if err != nil || len(list) != 1 {
			return fmt.Errorf("%d Services, %v", len(list), err)
		}
		for _, f := range list[0].Fronts {
			if f.Kind == "LB" {
				at = f.Addr
				return nil
			}
		}
		return fmt.Errorf("it is served at %v, %q", list[0].Fronts, list[0].Problems)
	})
	return at
}

// lacks waits until a Service is shown to have no address, for this reason.
func (m *machine) lacks(name, why string) {
	m.lab.t.Helper()
	testnet.Until(m.lab.t, converge, func() error {
		list, err := m.client().Services(context.Background(), name)
		if err != nil || len(list) != 1 || !slices.Contains(list[0].Problems, why) {
			return fmt.Errorf("got %+v, %v", list, err)
		}
		return nil
	})
}

func balancedObjects(name, clusterIP string) []testkube.Object {
	objects := kubeService(name, clusterIP, "192.0.2.9")
	v, class := objects[0].(*corev1.Service), "weft.dev/l2"
	v.Spec.Type, v.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
	return objects
}

const exhausted = "load balancer's address: no IPv4 address is free in outside"

func TestServicesGetLoadBalancerAddressesByTheAPI(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	c := testkube.NewCluster(t)
	l.underKube(c, a, b)
	for _, m := range []*machine{a, b} {
		m.cfg.LoadBalancerPools = onePool
		m.start()
	}
	a.ready()
	b.ready()
	c.Put(balancedObjects("web", "10.96.0.10")...)
	for _, m := range []*machine{a, b} {
		if at := m.outside("web"); at != "198.51.100.7" {
			t.Errorf("%s: web is at %s", m.name(), at)
		}
		m.served(soon, "frontends", true, "198.51.100.7")
	}
	c.Put(balancedObjects("late", "10.96.0.11")...)
	for _, m := range []*machine{a, b} {
		m.lacks("late", exhausted)
		m.until("it is a problem", func(s api.Status) bool { return problem(s, problemLoadBalancer) })
	}
	events := ""
	for _, want := range []string{"Normal default/web LoadBalancerAddress: load balancer's address: it has 198.51.100.7", "Warning default/late LoadBalancerExhausted: "} {
		testnet.Until(t, converge, func() error { // an event is made after the status that it is of
			if events += strings.Join(c.Events(), "\n"); !strings.Contains(events, want) {
				return fmt.Errorf("events: got\n%s\nwant %s", events, want)
			}
			return nil
		})
	}

	// Whoever is elected comes back, and gives what is free by now.
	for _, m := range []*machine{a, b} {
		m.stop(syscall.SIGKILL)
	}
	c.Delete(balancedObjects("web", "10.96.0.10")[0])
	for _, m := range []*machine{a, b} {
		m.start()
	}
	if at := b.outside("late"); at != "198.51.100.7" {
		t.Errorf("late is at %s", at)
	}
	b.until("it is no problem", func(s api.Status) bool { return s.Ready && !problem(s, problemLoadBalancer) })

	plain := balancedObjects("late", "10.96.0.11")[0].(*corev1.Service)
	plain.Spec.Type, plain.Spec.LoadBalancerClass, plain.Status = corev1.ServiceTypeClusterIP, nil, c.Service("default", "late").Status
	c.Put(plain)
	testnet.Until(t, converge, func() error {
		if st := c.Service("default", "late").Status; len(st.LoadBalancer.Ingress)+len(st.Conditions) > 0 {
			return fmt.Errorf("status of what is no LoadBalancer any more: %+v", st)
		}
		return nil
	})
}

func TestServicesGetLoadBalancerAddressesInTheFolder(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	for _, m := range []*machine{a, b} {
		m.usual()
		m.cfg.LoadBalancerPools, m.cfg.LoadBalancerDefault = onePool, true
		m.start()
		m.ready()
	}
	object := func(name, ip string) string {
		return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {type: LoadBalancer, clusterIP: " + ip + ", ports: [{port: 80}]}\n"
	}
	l.file("services.yaml", object("web", "10.96.0.10"))
	for _, m := range []*machine{a, b} {
		if at := m.outside("web"); at != "198.51.100.7" {
			t.Errorf("%s: web is at %s", m.name(), at)
		}
	}
	l.file("services.yaml", object("web", "10.96.0.10")+object("a-first", "10.96.0.11"))
	b.lacks("a-first", exhausted)
	// One of both has the lock. Each of them alone does.
	a.stop(syscall.SIGKILL)
	l.file("services.yaml", object("a-first", "10.96.0.11"))
	if at := b.outside("a-first"); at != "198.51.100.7" {
		t.Errorf("a-first is at %s", at)
	}
	b.stop(syscall.SIGKILL)
	a.start()
	if at := a.outside("a-first"); at != "198.51.100.7" {
		t.Errorf("after all were down, a-first is at %s", at)
	}
	testnet.Until(t, converge, func() error {
		if list, err := a.client().Services(context.Background(), "web"); err == nil {
			return fmt.Errorf("web is there: %v", list)
		}
		return nil
	})
	l.file("services.yaml", object("a-first", "10.96.0.11")+object("web", "10.96.0.10"))
	a.lacks("web", exhausted)
	if a.outside("a-first") != "198.51.100.7" {
		t.Error("who had the address lost it")
	}
}
