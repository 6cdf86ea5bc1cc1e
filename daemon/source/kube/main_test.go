package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
)

// place is a cluster and the source of node-a on it.
type place struct {
	t *testing.T
	*testkube.Cluster
	dir  string // service account, kubelet.conf, servers.json
	opts Options
	*Source
	cancel context.CancelFunc
	done   chan struct{}
}

// newPlace makes a cluster without API servers, and the service account of a daemon.
func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, Cluster: testkube.NewCluster(t), dir: t.TempDir()}
	p.ServiceAccount(p.dir, "token-1")
	p.opts = Options{
		Node: "node-a", Kubelet: filepath.Join(p.dir, "kubelet.conf"), StateFile: filepath.Join(p.dir, "servers.json"),
		Services: true, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)), serviceAccount: p.dir, absentEvery: 10 * time.Millisecond,
	}
	return p
}

// testLog is a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// servers sets the configured list.
func (p *place) servers(list ...string) {
	p.t.Helper()
	servers, err := ParseServers(strings.Join(list, ","))
	if err != nil {
		p.t.Fatal(err)
	}
	p.opts.Servers = servers
}

// start runs a source, until stop or the test's end.
func (p *place) start() {
	p.t.Helper()
	s, err := Open(p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.startWith(s)
}

func (p *place) startWith(s *Source) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	p.Source, p.cancel, p.done = s, cancel, make(chan struct{})
	done := p.done
	go func() {
		defer close(done)
		_ = s.Run(ctx) // ends with ctx only
	}()
	p.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (p *place) stop() {
	p.cancel()
	<-p.done
}

// until waits for a state.
func (p *place) until(what string, is func(source.State) bool) source.State {
	p.t.Helper()
	return p.within(20*time.Second, what, is)
}

func (p *place) within(d time.Duration, what string, is func(source.State) bool) source.State {
	p.t.Helper()
	deadline := time.After(d)
	for {
		s := p.Snapshot()
		if is(s) {
			return s
		}
		select {
		case <-p.Changed():
		case <-time.After(10 * time.Millisecond): // problems are not told
		case <-deadline:
			p.t.Fatalf("%s: not so:\n%s", what, text(s))
		}
	}
}

// shows waits until the state's text is want.
func (p *place) shows(want string) source.State {
	p.t.Helper()
	want = strings.TrimSpace(want)
	var s source.State
	deadline := time.After(20 * time.Second)
	for {
		if s = p.Snapshot(); text(s) == want {
			return s
		}
		select {
		case <-p.Changed():
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			p.t.Fatalf("state, got:\n%s\nwant:\n%s", text(s), want)
		}
	}
}

// text is a state as a person reads it.
func text(s source.State) string {
	var b strings.Builder
	for _, n := range s.Nodes {
		fmt.Fprintln(&b, "node", n.Name, n.PodCIDRs, n.InternalIPs)
	}
	for _, p := range s.Pods {
		fmt.Fprint(&b, "pod ", p.Namespace, "/", p.Name, " ", p.UID, " ", p.IPs)
		if len(p.Announced) > 0 {
			fmt.Fprint(&b, " announced ", p.Announced)
		}
		fmt.Fprintln(&b)
	}
	for _, n := range s.Namespaces {
		fmt.Fprintln(&b, "namespace", n.Name, n.Labels["team"])
	}
	for _, p := range s.Policies {
		fmt.Fprintf(&b, "policy %s/%s of {%s}\n", p.Namespace, p.Name, p.Pods)
	}
	for _, p := range s.ClusterPolicies {
		fmt.Fprintln(&b, "cluster policy", p.Name, p.Priority)
	}
	for _, v := range s.Services {
		fmt.Fprintln(&b, "service", v.Namespace+"/"+v.Name, v.ClusterIPs)
	}
	for e := range s.Slices.All() {
		fmt.Fprint(&b, "slice ", e.Namespace, "/", e.Name, " of ", e.Service)
		for _, end := range e.Endpoints {
			fmt.Fprint(&b, " ", end.IP)
		}
		fmt.Fprintln(&b)
	}
	for _, p := range s.Problems {
		fmt.Fprintln(&b, "problem", p.What+":", p.Text)
	}
	if !s.Complete {
		fmt.Fprintln(&b, "incomplete")
	} else if !s.PoliciesComplete {
		fmt.Fprintln(&b, "policies incomplete")
	}
	return strings.TrimSpace(b.String())
}

func hasProblem(s source.State, what string, texts ...string) bool {
	return slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
		for _, t := range texts {
			if !strings.Contains(p.Text, t) {
				return false
			}
		}
		return p.What == what && !p.Since.IsZero()
	})
}

func mkNode(name string, n int) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.0.%d.0/24", n)}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: name},
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.0.%d", n)},
		}},
	}
}

func mkPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func mkNamespace(name, team string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
}

func mkPolicy(name, app string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
	}
}

func mkClusterPolicy(name, spec string) *testkube.ClusterPolicy {
	return &testkube.ClusterPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Spec: json.RawMessage(spec)}
}

func mkService(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func mkSlice(namespace, service string, ips ...string) *discoveryv1.EndpointSlice {
	port, proto, portName := int32(6443), corev1.ProtocolTCP, "https"
	e := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: service + "-1", Labels: map[string]string{"kubernetes.io/service-name": service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port, Protocol: &proto, Name: &portName}},
	}
	for _, ip := range ips {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return e
}

// mkServers is the slice of the API servers themselves; all have one port.
func mkServers(t *testing.T, servers ...*testkube.Server) *discoveryv1.EndpointSlice {
	t.Helper()
	e := mkSlice("default", "kubernetes")
	for _, s := range servers {
		at, err := netip.ParseAddrPort(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		port := int32(at.Port())
		e.Ports[0].Port = &port
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{at.Addr().String()}})
	}
	return e
}
