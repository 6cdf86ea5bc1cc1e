package daemon

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/daemon/source/kube"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// underKube gives machines the Kubernetes API for a source, with their Nodes in it. The
// API server is on the first one's address.
func (l *lab) underKube(c *testkube.Cluster, machines ...*machine) *testkube.Server {
	l.t.Helper()
	server := l.serveAPI(c, machines[0], fmt.Sprintf("192.0.2.%d:0", machines[0].number))
	for _, m := range machines {
		kubeconfig := filepath.Join(l.dir, m.name()+".kubeconfig")
		c.Kubeconfig(kubeconfig, server.Addr, "token")
		m.cfg.Source = "kube:" + kubeconfig
		c.Put(m.kubeNode())
	}
	return server
}

func (l *lab) serveAPI(c *testkube.Cluster, m *machine, at string) *testkube.Server {
	l.t.Helper()
	var listener net.Listener
	l.must(m.Do(func() (err error) {
		listener, err = net.Listen("tcp", at)
		return err
	}))
	return c.ServeBy(listener)
}

// kubeNode is what usual writes, as the API has it.
func (m *machine) kubeNode() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name()}}
	n.Spec.PodCIDRs = []string{fmt.Sprintf("10.87.%d.0/24", m.number), fmt.Sprintf("fd87:%d::/64", m.number)}
	for _, a := range []string{fmt.Sprintf("192.0.2.%d", m.number), fmt.Sprintf("2001:db8::%d", m.number)} {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// kubeService is a Service of one port and its slice.
func kubeService(name, clusterIP string, backends ...string) []testkube.Object {
	port, proto := int32(8080), corev1.ProtocolTCP
	v := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	v.Spec.Type, v.Spec.ClusterIP, v.Spec.ClusterIPs = corev1.ServiceTypeClusterIP, clusterIP, []string{clusterIP}
	v.Spec.Selector = map[string]string{"app": name}
	v.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: proto}}
	e := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port, Protocol: &proto}},
	}
	for _, ip := range backends {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return []testkube.Object{v, e}
}

// scheduled has the API know the Pod that will be attached under this name.
func (m *machine) scheduled(c *testkube.Cluster, name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	p.Spec.NodeName = m.name()
	c.Put(p)
	return p
}

func withPod(p *corev1.Pod) func(*api.Attach) {
	return func(a *api.Attach) { a.PodNamespace, a.PodName, a.PodUID = p.Namespace, p.Name, string(p.UID) }
}

// announced waits until the annotation of a Pod has its addresses.
func (l *lab) announced(c *testkube.Cluster, name string, p *pod) {
	l.t.Helper()
	var texts []string
	for _, a := range p.addrs {
		texts = append(texts, a.String())
	}
	testnet.Until(l.t, converge, func() error {
		for _, o := range c.Pods() {
			want := string(o.UID) + "/" + strings.Join(texts, ",")
			if got := o.Annotations["weft.dev/pod-ips"]; o.Name == name && got != want {
				return fmt.Errorf("pod %s: annotation %q, want %q", name, got, want)
			}
		}
		return nil
	})
}

// mtu is that of the pods.
func (m *machine) mtu() (mtu int) {
	m.lab.t.Helper()
	m.until("MTU", func(s api.Status) bool { mtu = s.MTU; return mtu != 0 })
	return mtu
}

func TestNodesJoinByTheKubernetesAPI(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	c := testkube.NewCluster(t)
	server := l.underKube(c, a, b)
	c.Put(kubeService("web", "10.96.0.10", "10.87.2.201")...)
	a.start()
	b.start()
	a.ready()
	b.ready()
	p, q := a.attach(withPod(a.scheduled(c, "p"))), b.attach(withPod(b.scheduled(c, "q")))
	l.announced(c, "p", p)
	l.announced(c, "q", q)
	l.reach(converge, p.NS, q)
	l.reach(converge, a.NS, q)
	a.served(converge, "backends", true, "10.87.2.201")
	c.Put(kubeService("web", "10.96.0.10", "10.87.2.202")...)
	a.served(soon, "backends", true, "10.87.2.202")
	a.served(soon, "backends", false, "10.87.2.201")

	outage := func(s api.Status) bool { return s.Ready && s.Synced && problem(s, kube.ProblemAPI) }
	t.Run("the API is away", func(t *testing.T) {
		server.Stop()
		a.until("the outage is shown", outage)
		during := a.attach(withPod(a.scheduled(c, "during")))
		l.reach(converge, during.NS, q)
		l.must(a.client().Del(context.Background(), during.request()))
		c.Delete(a.scheduled(c, "during"))
		if err := askOnce(p.NS, q.addrs...); err != nil {
			t.Errorf("pods of former times: %v", err)
		}
	})
	t.Run("and the daemon starts", func(t *testing.T) {
		mtu := a.mtu()
		a.stop(syscall.SIGKILL)
		c.Put(kubeService("web", "10.96.0.10", "10.87.2.203")...) // nobody hears of it
		a.start()
		a.until("it serves", func(s api.Status) bool {
			return s.Ready && !s.Synced && problem(s, problemNotSynced) && problem(s, kube.ProblemAPI)
		})
		if got := a.mtu(); got != mtu {
			t.Errorf("MTU %d, want %d", got, mtu)
		}
		late := a.attach(withPod(a.scheduled(c, "late")))
		l.reach(converge, late.NS, p)
		l.reach(converge, late.NS, q)
		l.reach(converge, q.NS, late)
		a.served(0, "backends", true, "10.87.2.202")
		l.must(a.IP("route", "flush", "proto", "87")) // it is looked after, too
		l.reach(converge, a.NS, q)
		l.must(a.client().Del(context.Background(), late.request()))
		again := a.attach(withPod(a.scheduled(c, "again")))

		l.serveAPI(c, a, server.Addr)
		a.until("all is well", func(s api.Status) bool { return s.Ready && s.Synced && len(s.Problems) == 0 })
		a.served(converge, "backends", true, "10.87.2.203")
		a.served(converge, "backends", false, "10.87.2.202")
		l.announced(c, "again", again)
		l.reach(converge, again.NS, q)
	})
}

// Who is there once remembers nothing.
func TestFirstStartWaitsForTheAPI(t *testing.T) {
	l := newLab(t)
	a := l.add()
	c := testkube.NewCluster(t)
	server := l.underKube(c, a)
	server.Stop()
	a.start()
	a.until("the outage is shown", func(s api.Status) bool { return !s.Ready && !s.Synced && problem(s, kube.ProblemAPI) })
	a.until("it would have given up waiting", func(s api.Status) bool {
		if s.Ready {
			t.Fatal("ready without knowing the nodes")
		}
		return time.Since(s.Since) > recallAfter+time.Second
	})
	l.serveAPI(c, a, server.Addr)
	a.ready()
}

// Services are compiled while other objects are still unread, but none of their rows is written
// before all are: neither by a daemon that finds nothing, nor by one that finds what a former
// one wrote, and goes by what that knew.
func TestServicesAreNotWrittenBeforeAllIsKnown(t *testing.T) {
	l := newLab(t)
	a := l.add()
	c := testkube.NewCluster(t)
	l.underKube(c, a)
	unread := func() (read func()) {
		until, read := context.WithCancel(t.Context())
		c.Before("stream pods", func() { <-until.Done() })
		return read
	}
	web := kubeService("web", "10.96.0.2", "10.87.2.9")
	c.Put(web...)
	c.Put(kubeService("bare", "10.96.0.3")[0])
	read := unread()
	defer func() { read() }()
	a.start()
	a.until("what has slices is compiled", func(s api.Status) bool { return rowsOf(s, "sets") == 1 })
	a.served(0, "frontends", false, "10.96.0.2", "10.96.0.3")
	read()
	a.ready()
	a.served(0, "frontends", true, "10.96.0.2", "10.96.0.3")

	a.stop(syscall.SIGKILL)
	read = unread()
	c.Put(kubeService("web", "10.96.0.2", "10.87.2.10")[1])
	a.start()
	a.until("it goes by what was known", func(s api.Status) bool { return s.Ready && !s.Synced })
	a.served(0, "backends", true, "10.87.2.9")
	a.served(0, "backends", false, "10.87.2.10")
	read()
	a.served(converge, "backends", true, "10.87.2.10")
	a.served(converge, "backends", false, "10.87.2.9")
}

// The Service of the API itself, told to be empty, is the way to the API server still.
func TestWayToTheAPIStays(t *testing.T) {
	l := newLab(t)
	a := l.add()
	c := testkube.NewCluster(t)
	l.underKube(c, a)
	c.Put(kubeService("kubernetes", "10.96.0.1", "192.0.2.1")...)
	a.start()
	a.ready()
	a.served(converge, "backends", true, "192.0.2.1")
	c.Put(kubeService("kubernetes", "10.96.0.1")...)
	a.until("it is shown", func(s api.Status) bool { return problem(s, problemService) })
	a.served(0, "backends", true, "192.0.2.1")
	c.Delete(kubeService("kubernetes", "10.96.0.1")[1])
	c.Put(kubeService("web", "10.96.0.2", "192.0.2.9")...)
	a.served(converge, "backends", true, "192.0.2.1", "192.0.2.9")
}

func TestAPIThatCannotBeAskedIsNoStart(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.cfg.Source = "kube:" + filepath.Join(l.dir, "none")
	cmd := a.command("run")
	var out lockedBuffer
	cmd.Stderr = &out
	l.must(a.Start(cmd))
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "none: no such file") {
		t.Errorf("start: %v, %s", err, out.String())
	}
}
