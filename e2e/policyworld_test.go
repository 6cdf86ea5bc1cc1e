package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/daemon/policy/oracle"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// The pods of the truth table and the number of their nodes: each namespace has some on
// both.
var policyPods = map[string]int{
	"x/a": 1, "x/b": 1, "x/c": 2,
	"u/a": 1, "u/b": 2, "u/c": 2,
	"z/a": 2, "z/b": 1, "z/c": 1,
}

// policyNames are these pods, sorted; a pod's place is the number of its Service.
var policyNames = slices.Sorted(maps.Keys(policyPods))

// policyPorts are the ports that all pods, nodes and the host outside serve.
var policyPorts = []uint16{80, 81}

// policyWorld is a cluster with these pods, all of which serve and ask.
type policyWorld struct {
	t       *testing.T
	c       *cluster.Cluster
	pods    map[string]*cluster.Pod
	askers  map[string]*cluster.Asker // of pods, nodes and "outside"
	source  *source.Dir               // what the oracle reads
	records *policyRecords
	errors  *policyErrors
	turn    int
}

func newPolicyWorld(t *testing.T) *policyWorld {
	t.Helper()
	w := &policyWorld{
		t: t, c: start(t, cluster.Spec{Nodes: 2}),
		pods: map[string]*cluster.Pod{}, askers: map[string]*cluster.Asker{},
	}
	w.write(policyCase{})
	for _, n := range w.c.Nodes {
		w.pods["canary/"+n.Name] = w.attach(n, "canary", n.Name)
		w.serve(n.NS, n.Addrs)
		w.ask(n.Name, n, n.NS)
	}
	for _, name := range policyNames {
		n := w.c.Nodes[policyPods[name]-1]
		namespace, pod, _ := strings.Cut(name, "/")
		p := w.attach(n, namespace, pod)
		w.pods[name] = p
		w.serve(p.NS, p.Addrs())
		w.ask(name, n, p.NS)
		for _, a := range p.Addrs() {
			s, err := traffic.ServeSCTP(p.NS, netip.AddrPortFrom(a, 80))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
		}
	}
	w.serve(w.c.Outside, []netip.Addr{cluster.Outside4, cluster.Outside6})
	w.ask("outside", w.c.Nodes[0], w.c.Outside)
	w.follow()
	w.errors = newPolicyErrors(t, w)
	w.records = watchPolicyRecords(t, w.c)
	return w
}

func (w *policyWorld) attach(n *cluster.Node, namespace, name string) *cluster.Pod {
	w.t.Helper()
	p, err := n.NewPod(name)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Namespace = namespace
	if err := p.Add(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *policyWorld) serve(ns *testnet.NS, at []netip.Addr) {
	w.t.Helper()
	for _, a := range at {
		for _, port := range policyPorts {
			s, err := traffic.Serve(ns, netip.AddrPortFrom(a, port))
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(s.Close)
		}
	}
}

func (w *policyWorld) ask(name string, n *cluster.Node, ns *testnet.NS) {
	w.t.Helper()
	k, err := n.Asker(ns, false)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(k.Close)
	w.askers[name] = k
}

// follow reads the folder for the oracle.
func (w *policyWorld) follow() {
	w.t.Helper()
	var err error
	if w.source, err = source.Open("dir:"+w.c.Source, source.Options{Node: "oracle"}); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.source.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// policyObjects are the namespaces, pods and Services; labels override those of what they
// name (ns/x, x/a). Pod c calls its port 81 web, the others 80. Each pod has a Service with
// its own name and the number of its place.
func policyObjects(labels map[string]string) string {
	var b strings.Builder
	for _, ns := range []string{"x", "u", "z", "canary"} {
		text := fmt.Sprintf("{ns: %s, team: %s}", ns, map[string]string{"x": "red", "u": "blue", "z": "blue"}[ns])
		if l, ok := labels["ns/"+ns]; ok {
			text = l
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: %s}\n", ns, text)
	}
	for i, name := range policyNames {
		namespace, pod, _ := strings.Cut(name, "/")
		text := fmt.Sprintf("{pod: %s, service: %s-%s}", pod, namespace, pod)
		if l, ok := labels[name]; ok {
			text = l
		}
		web := 80
		if pod == "c" {
			web = 81
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: %s}
spec:
  nodeName: node-%d
  containers:
  - ports:
    - {name: web, protocol: TCP, containerPort: %[5]d}
    - {name: webu, protocol: UDP, containerPort: %[5]d}
    - {name: webs, protocol: SCTP, containerPort: 80}
---
apiVersion: v1
kind: Service
metadata: {name: %[2]s-%[1]s, namespace: %[2]s}
spec:
  type: NodePort
  selector: {service: %[2]s-%[1]s}
  clusterIP: 10.96.1.%[6]d
  clusterIPs: [10.96.1.%[6]d, "fd00:96::1:%[6]d"]
  ports:
  - {name: t, protocol: TCP, port: 90, targetPort: 80, nodePort: %[7]d}
  - {name: u, protocol: UDP, port: 90, targetPort: 80, nodePort: %[7]d}
`, pod, namespace, text, policyPods[name], web, 1+i, 30200+i)
	}
	for i := range 2 {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: node-%[1]d, namespace: canary, labels: {pod: canary}}\nspec: {nodeName: node-%[1]d}\n", i+1)
	}
	return b.String()
}

// write writes all objects at once, and with them one by which it can be seen that a
// node has taken them up.
func (w *policyWorld) write(k policyCase) {
	w.t.Helper()
	w.turn++
	text := policyObjects(k.labels) + fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: canary}
spec: {podSelector: {}}
`, w.turnName())
	for _, p := range k.policies {
		text += "---\n" + w.expand(p)
	}
	if err := w.c.WriteObject("policies", text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *policyWorld) turnName() string { return fmt.Sprintf("turn-%d-end", w.turn) }

// apply writes a case and waits until each node has it in its kernel, and the oracle
// knows the same. A daemon answers about a pod when what it took up last is in force.
func (w *policyWorld) apply(k policyCase) oracle.World {
	w.t.Helper()
	w.write(k)
	for _, n := range w.c.Nodes {
		testnet.Until(w.t, 20*time.Second, func() error {
			all, err := n.Client().PodPolicy(w.t.Context(), "canary/"+n.Name)
			if err != nil {
				return err
			}
			if words := fmt.Sprint(all[0].Words); !strings.Contains(words, w.turnName()) {
				return fmt.Errorf("%s has not taken up %s: %s", n.Name, w.turnName(), words)
			}
			return nil
		})
	}
	var state source.State
	testnet.Until(w.t, 20*time.Second, func() error {
		state = w.source.Snapshot()
		if !slices.ContainsFunc(state.Policies, func(p *source.NetworkPolicy) bool { return p.Name == w.turnName() }) {
			return errors.New("the oracle does not know the case")
		}
		return nil
	})
	world := oracle.World{State: state}
	for _, p := range w.pods {
		world.Attached = append(world.Attached, oracle.Attachment{Namespace: p.Namespace, Name: p.Name, Addrs: p.Addrs()})
	}
	return world
}

// addr is the address that packets of a name come from, or go to; a node's own are its
// gateway's at other nodes.
func (w *policyWorld) addr(name string, v4 bool) netip.Addr {
	if p := w.pods[name]; p != nil {
		a, _ := family(p.Addrs(), v4)
		return a
	}
	if n := w.node(name); n != nil {
		a, _ := family(n.Addrs, v4)
		return a
	}
	a, _ := family([]netip.Addr{cluster.Outside4, cluster.Outside6}, v4)
	return a
}

func (w *policyWorld) node(name string) *cluster.Node {
	for _, n := range w.c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// nodeOf is the node that a pod is on.
func (w *policyWorld) nodeOf(pod string) *cluster.Node { return w.c.Nodes[policyPods[pod]-1] }

func gatewayOf(n *cluster.Node, v4 bool) netip.Addr {
	a, _ := family(overlay.GatewayAddrs(n.PodCIDRs), v4)
	return a
}
