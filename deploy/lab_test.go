package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/deploy/fake"
)

const (
	podsPath   = "/api/v1/namespaces/kube-system/pods"
	daemonPath = "/apis/apps/v1/namespaces/kube-system/daemonsets/weft"
)

// lab is a cluster of which the controllers and kubelets are played.
type lab struct {
	*fake.Server
	t   *testing.T
	out safeBuffer
	// run is what becomes of Weft's pod on a node; nil: all is well.
	run func(node string, p *corev1.Pod)
	// clean is what becomes of the clean-up's pod; nil: it succeeds.
	clean func(node string, p *corev1.Pod)
	// slow keeps pods of a removed DaemonSet.
	slow bool
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newLab(t *testing.T, nodes ...string) *lab {
	t.Helper()
	l := &lab{Server: fake.New(t), t: t}
	for _, n := range nodes {
		l.node(n, corev1.ConditionTrue, "")
	}
	l.Changed = l.control
	return l
}

// node puts a node, or changes its readiness.
func (l *lab) node(name string, ready corev1.ConditionStatus, message string) {
	l.Do(func() {
		l.Put("/api/v1/nodes/"+name, corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
			Status: corev1.NodeStatus{
				NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Message: message}},
			},
		})
	})
}

// as decodes an object of the server; with its lock held.
func as[T any](l *lab, path string) T {
	var out T
	b, err := json.Marshal(l.Get(path))
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		l.t.Errorf("read %s: %v", path, err)
	}
	return out
}

// control plays the controllers and kubelets; with the server's lock held.
func (l *lab) control(path string, now fake.Object) {
	switch {
	case path == daemonPath && now == nil && !l.slow:
		for _, p := range l.Under(podsPath) {
			if fake.Text(l.Get(p), "metadata", "labels", nameLabel) == nameValue {
				l.Put(p, nil)
			}
		}
	case path == daemonPath && now != nil:
		l.rollOut()
	case strings.HasPrefix(path, podsPath+"/weft-uninstall-") && now != nil:
		p := as[corev1.Pod](l, path)
		p.Status.Phase = corev1.PodSucceeded
		if l.clean != nil {
			l.clean(p.Spec.NodeName, &p)
		}
		l.Put(path, p)
	}
}

// rollOut makes the DaemonSet's pods; with the server's lock held.
func (l *lab) rollOut() {
	ds := as[appsv1.DaemonSet](l, daemonPath)
	ds.Generation++
	ds.Status = appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation}
	for _, n := range l.Under("/api/v1/nodes") {
		name := strings.TrimPrefix(n, "/api/v1/nodes/")
		p := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "weft-" + name, Namespace: "kube-system", Labels: ds.Spec.Template.Labels, Annotations: ds.Spec.Template.Annotations},
			Spec:       *ds.Spec.Template.Spec.DeepCopy(),
		}
		p.Spec.NodeName = name
		p.Status = corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: daemonContainer, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		}
		ds.Status.DesiredNumberScheduled++
		ds.Status.UpdatedNumberScheduled++
		if l.run != nil {
			l.run(name, &p)
		}
		if podHindrance(&p) == "" {
			ds.Status.NumberAvailable++
		}
		l.Put(podsPath+"/"+p.Name, p)
	}
	l.Put(daemonPath, ds)
}

// notReady makes a pod that is not ready, with the state of one of its containers.
func notReady(p *corev1.Pod, c corev1.ContainerStatus) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	if c.Name == daemonContainer {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{c}
		return
	}
	p.Status.Phase = corev1.PodPending
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{c}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: daemonContainer,
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}}
}

func (l *lab) connect() *Cluster {
	l.t.Helper()
	c, err := Connect(l.Kubeconfig(), "", "")
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) install(within time.Duration) Install {
	return Install{Cluster: l.connect(), Out: &l.out, Values: Defaults(), Timeout: within, Every: time.Millisecond}
}

func (l *lab) uninstall(within time.Duration) Uninstall {
	return Uninstall{Cluster: l.connect(), Out: &l.out, Values: Defaults(), Timeout: within, Every: time.Millisecond}
}

// says asserts parts of the output.
func (l *lab) says(parts ...string) {
	l.t.Helper()
	for _, part := range parts {
		if !strings.Contains(l.out.String(), part) {
			l.t.Errorf("the output does not say %q:\n%s", part, l.out.String())
		}
	}
}

// event puts a warning.
func (l *lab) event(kind, name, reason, message string) {
	l.Do(func() {
		path := fmt.Sprintf("/api/v1/namespaces/kube-system/events/e%d", len(l.Under("/api/v1/namespaces/kube-system/events")))
		l.Put(path, corev1.Event{
			Type: corev1.EventTypeWarning, Reason: reason, Message: message,
			InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name},
		})
	})
}

// left is which of our objects are there.
func (l *lab) left() []string {
	l.t.Helper()
	objects, err := Render(Defaults(), DefaultNamespace)
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	l.Do(func() {
		for _, o := range objects {
			path, err := o.path()
			if err != nil {
				l.t.Error(err)
			}
			if l.Get(path) != nil {
				out = append(out, o.String())
			}
		}
		for _, p := range l.Under(podsPath) {
			out = append(out, "Pod "+strings.TrimPrefix(p, podsPath+"/"))
		}
	})
	return out
}

// refuseWhen answers calls of a method on paths with a part.
func refuseWhen(method, part string, status int, message string) func(*http.Request) (int, string) {
	return func(r *http.Request) (int, string) {
		if r.Method == method && strings.Contains(r.URL.Path, part) {
			return status, message
		}
		return 0, ""
	}
}

// index is where a call was made; -1 if it was not.
func (l *lab) index(call string) int {
	return slices.IndexFunc(l.Calls(), func(c string) bool { return strings.HasPrefix(c, call) })
}
