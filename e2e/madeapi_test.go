package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// madeAPI is a made Kubernetes API for a cluster, with an API server on each node.
type madeAPI struct {
	*testkube.Cluster
	c       *cluster.Cluster
	servers []*testkube.Server
}

// startWithAPI makes a cluster whose daemons have a Kubernetes API for a source, with their
// Nodes in it, and serve.
func startWithAPI(t *testing.T, spec cluster.Spec) (*cluster.Cluster, *madeAPI) {
	t.Helper()
	c := prepare(t, spec)
	a := &madeAPI{Cluster: testkube.NewCluster(t), c: c}
	for _, n := range c.Nodes {
		o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		for _, p := range n.PodCIDRs {
			o.Spec.PodCIDRs = append(o.Spec.PodCIDRs, p.String())
		}
		for _, addr := range n.Addrs {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
		}
		a.Put(o)
		s := a.serveOn(t, n, "127.0.0.1:0")
		a.servers = append(a.servers, s)
		path := n.Path("api.kubeconfig")
		a.Kubeconfig(path, s.Addr, "token")
		n.Flags = append(n.Flags[:len(n.Flags):len(n.Flags)], "--source", "kube:"+path)
	}
	for _, n := range c.Nodes {
		restart(t, n)
	}
	return c, a
}

func (a *madeAPI) serveOn(t *testing.T, n *cluster.Node, at string) *testkube.Server {
	t.Helper()
	var l net.Listener
	err := n.NS.Do(func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return a.ServeBy(l)
}

// stall has all API servers take connections and requests, and never answer; revive ends
// that.
func (a *madeAPI) stall() {
	for _, s := range a.servers {
		s.Freeze()
	}
}

func (a *madeAPI) revive() {
	for _, s := range a.servers {
		s.Thaw()
	}
}

// stop ends all API servers; restore starts them again, at the same addresses.
func (a *madeAPI) stop() {
	for _, s := range a.servers {
		s.Stop()
	}
}

func (a *madeAPI) restore(t *testing.T) {
	t.Helper()
	for i, s := range a.servers {
		a.servers[i] = a.serveOn(t, a.c.Nodes[i], s.Addr)
	}
}

// write puts Namespaces and NetworkPolicies of YAML.
func (a *madeAPI) write(t *testing.T, text string) {
	t.Helper()
	for one := range strings.SplitSeq(text, "---\n") {
		b, err := yaml.ToJSON([]byte(one))
		if err != nil {
			t.Fatal(err)
		}
		var kind metav1.TypeMeta
		if err := json.Unmarshal(b, &kind); err != nil {
			t.Fatal(err)
		}
		var o testkube.Object
		switch kind.Kind {
		case "Namespace":
			o = &corev1.Namespace{}
		case "NetworkPolicy":
			o = &networkingv1.NetworkPolicy{}
		default:
			t.Fatalf("the made API takes no %q of YAML", kind.Kind)
		}
		if err := json.Unmarshal(b, o); err != nil {
			t.Fatal(err)
		}
		a.Put(o)
	}
}

// uidOf is the UID of a scheduled Pod.
func uidOf(name string) string { return "uid-" + name }

// schedule makes the Pod of a pod that is to be attached, with the label app, if it is not
// "".
func (a *madeAPI) schedule(n *cluster.Node, namespace, name, app string) {
	o := podOf(n, namespace, name)
	if app != "" {
		o.Labels = map[string]string{"app": app}
	}
	a.Put(o)
}

// unschedule removes it.
func (a *madeAPI) unschedule(n *cluster.Node, namespace, name string) {
	a.Delete(podOf(n, namespace, name))
}

func podOf(n *cluster.Node, namespace, name string) *corev1.Pod {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uidOf(name))}}
	o.Spec.NodeName = n.Name
	return o
}

// troubled waits until the node's daemon tells of a problem of that kind.
func troubled(t *testing.T, n *cluster.Node, what string) {
	t.Helper()
	testnet.Until(t, 60*time.Second, func() error {
		s, err := n.Client().Status(t.Context())
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if p.What == what {
				return nil
			}
		}
		return fmt.Errorf("%s has no problem %s, but %v", n.Name, what, s.Problems)
	})
}

// well waits until the node's daemon has no problem and has read all.
func well(t *testing.T, n *cluster.Node) {
	t.Helper()
	testnet.Until(t, 60*time.Second, func() error {
		s, err := n.Client().Status(t.Context())
		if err == nil && (!s.Ready || !s.Synced || len(s.Problems) > 0) {
			err = fmt.Errorf("%s: ready %t, synced %t, problems %v", n.Name, s.Ready, s.Synced, s.Problems)
		}
		return err
	})
}
