package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/e2e/cluster"
)

// microservice is one of the two of the example, as examples/NAME.yaml has it.
type microservice struct {
	name       string
	deployment appsv1.Deployment
	service    corev1.Service
}

// exampleServices are the ClusterIPs that an API server would have chosen.
var exampleServices = map[string][]string{
	"user-service": {"10.96.3.1", "fd00:96::3:1"}, "order-service": {"10.96.3.2", "fd00:96::3:2"},
}

func readExample(t *testing.T, name string) *microservice {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../examples", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	first, second, ok := strings.Cut(string(text), "\n---\n")
	m := &microservice{name: name}
	err = errors.Join(yaml.UnmarshalStrict([]byte(first), &m.deployment), yaml.UnmarshalStrict([]byte(second), &m.service))
	if err != nil || !ok {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// serviceObject is the Service as it is in the example, with what an API server adds, and
// what a user would add to choose how it is reached from outside.
func (m *microservice) serviceObject(t *testing.T, outer outerWay) string {
	t.Helper()
	s := m.service
	s.Namespace = "default"
	s.Spec.ClusterIPs = exampleServices[m.name]
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Spec.ExternalTrafficPolicy = outer.policy
	if outer.forwarding != "" {
		s.Annotations = map[string]string{"weft.dev/forwarding": outer.forwarding}
	}
	return object(t, s)
}

func object(t *testing.T, o any) string {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return "---\n" + string(text)
}

// outerWay is how a Service is reached from outside.
type outerWay struct {
	policy     corev1.ServiceExternalTrafficPolicy
	forwarding string // annotation; empty: none
}

// shown is what the daemon says of it.
func (o outerWay) shown() string {
	if o.forwarding == "dsr" {
		return string(o.policy) + ", dsr"
	}
	return string(o.policy)
}

// backends is how many of the three a node counts: with the policy Local its own alone.
func (o outerWay) backends() int {
	if o.policy == corev1.ServiceExternalTrafficPolicyLocal {
		return 1
	}
	return 3
}

// run starts the replicas, one on each of the nodes in turn: pods with what the Deployment
// asks of them, in them the program of the example. It returns the pods' objects.
func (m *microservice) run(t *testing.T, program string, nodes []*cluster.Node) (objects string) {
	t.Helper()
	template := m.deployment.Spec.Template
	for i := range int(*m.deployment.Spec.Replicas) {
		n := nodes[i%len(nodes)]
		p := newPod(t, n, fmt.Sprintf("%s-%d", m.name, i+1))
		p.Capabilities = map[string]any{"bandwidth": bandwidthOf(t, template.Annotations)}
		if err := p.Add(t.Context()); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, template.Spec.Containers[0].Args...)
		if m.name == "order-service" { // there is no DNS here
			cmd.Args = append(cmd.Args, "-user=http://"+exampleServices["user-service"][0])
		}
		cmd.Env = append(os.Environ(), "POD_NAME="+p.Name, "NODE_NAME="+n.Name)
		cmd.Stderr = os.Stderr
		if err := p.NS.Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := cmd.Process.Kill()
			cmd.Wait() // killed
			if err != nil {
				t.Errorf("%s has ended: %v", p.Name, err)
			}
		})
		objects += object(t, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{"nodeName": n.Name},
			"metadata": map[string]any{"name": p.Name, "namespace": "default", "labels": template.Labels},
		})
	}
	return objects
}

// bandwidthOf is what a kubelet makes of a pod's annotations.
func bandwidthOf(t *testing.T, annotations map[string]string) map[string]any {
	t.Helper()
	limits := map[string]any{}
	for _, way := range []string{"ingress", "egress"} {
		q, err := resource.ParseQuantity(annotations["kubernetes.io/"+way+"-bandwidth"])
		if err != nil {
			t.Fatal(err)
		}
		limits[way+"Rate"], limits[way+"Burst"] = q.Value(), 4_000_000
	}
	return limits
}

// exampleAnswer is what the example answers.
type exampleAnswer struct {
	Service, Pod, Node, Client string
	User                       *exampleAnswer
	Error                      string
}

func (a *exampleAnswer) read(text string) error {
	if err := json.Unmarshal([]byte(text), a); err != nil {
		return fmt.Errorf("answer %q: %w", text, err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}
