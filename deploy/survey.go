package deploy

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// What the chart calls things.
const (
	daemonSet       = "weft"
	daemonContainer = "weftd"
	nameLabel       = "app.kubernetes.io/name"
	nameValue       = "weft"
	settingsKey     = "weft.dev/settings"
)

// view is what the API server says of Weft at one time.
type view struct {
	daemons *appsv1.DaemonSet // nil: there is none
	nodes   []corev1.Node     // those that run Linux, by name
	pods    []corev1.Pod      // of the DaemonSet
}

// look reads the view.
func (c *Cluster) look(ctx context.Context) (view, error) {
	var v view
	ds, err := get[appsv1.DaemonSet](ctx, c, "/apis/apps/v1/namespaces/"+c.Namespace+"/daemonsets/"+daemonSet, nil)
	switch {
	case err == nil:
		v.daemons = &ds
	case !apierrors.IsNotFound(err):
		return v, fmt.Errorf("read DaemonSet %s/%s: %w", c.Namespace, daemonSet, explain(err))
	}
	nodes, err := get[corev1.NodeList](ctx, c, "/api/v1/nodes", nil)
	if err != nil {
		return v, fmt.Errorf("list nodes: %w", explain(err))
	}
	v.nodes = slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return n.Labels[corev1.LabelOSStable] != "linux" })
	slices.SortFunc(v.nodes, func(a, b corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	if v.pods, err = c.podsOf(ctx, nameValue); err != nil {
		return v, err
	}
	return v, nil
}

// alone is an error if Weft is installed in another namespace. What belongs to no namespace, as
// its rights and admission policies, names the one in which it is; only one can be.
func (c *Cluster) alone(ctx context.Context) error {
	const path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/weft"
	binding, err := get[struct{ Subjects []struct{ Namespace string } }](ctx, c, path, nil)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for Weft in other namespaces: %w", explain(err))
	}
	for _, s := range binding.Subjects {
		if s.Namespace == c.Namespace || s.Namespace == "" {
			continue
		}
		switch _, err := get[appsv1.DaemonSet](ctx, c, "/apis/apps/v1/namespaces/"+s.Namespace+"/daemonsets/"+daemonSet, nil); {
		case err == nil:
			return fmt.Errorf("the cluster has Weft in the namespace %s, and can have only one: use --namespace %s", s.Namespace, s.Namespace)
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("look for Weft in the namespace %s: %w", s.Namespace, explain(err))
		}
	}
	return nil
}

// podsOf lists the pods of Weft's namespace that have a name's label.
func (c *Cluster) podsOf(ctx context.Context, name string) ([]corev1.Pod, error) {
	pods, err := get[corev1.PodList](ctx, c, "/api/v1/namespaces/"+c.Namespace+"/pods",
		url.Values{"labelSelector": {labels.Set{nameLabel: name}.String()}})
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", c.Namespace, explain(err))
	}
	return pods.Items, nil
}

// nodeState is how Weft is on one node.
type nodeState struct {
	node  string
	pod   *corev1.Pod // nil: none
	ready bool
	why   string // why it is not
}

// running says whether the daemon can be asked.
func (s nodeState) running() bool {
	return s.pod != nil && slices.ContainsFunc(s.pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.Name == daemonContainer && c.State.Running != nil
	})
}

// states says of each node how it is: ready if it has a ready pod of the DaemonSet's
// present form, and the kubelet calls the node ready.
func (v view) states() []nodeState {
	byNode := map[string]*corev1.Pod{}
	for i := range v.pods {
		p := &v.pods[i]
		node := nodeOf(p)
		if old := byNode[node]; old == nil || newer(p, old) {
			byNode[node] = p
		}
	}
	var out []nodeState
	for _, n := range v.nodes {
		s := nodeState{node: n.Name, pod: byNode[n.Name]}
		s.why = v.hindrance(s.pod, n)
		s.ready = s.why == ""
		out = append(out, s)
	}
	return out
}

// nodeOf is the node that a pod of a DaemonSet is on, or is to be placed on: its
// controller says so by an affinity to the node's name.
func nodeOf(p *corev1.Pod) string {
	a := p.Spec.Affinity
	if p.Spec.NodeName != "" || a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return p.Spec.NodeName
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// newer says whether a counts and b does not: what is being deleted counts least.
func newer(a, b *corev1.Pod) bool {
	if (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
		return a.DeletionTimestamp == nil
	}
	return b.CreationTimestamp.Before(&a.CreationTimestamp)
}

// hindrance is why a node is not ready; empty if it is.
func (v view) hindrance(p *corev1.Pod, n corev1.Node) string {
	heart := condition(n, corev1.NodeReady)
	switch {
	case heart.Status == corev1.ConditionUnknown:
		return "its kubelet is silent: " + heart.Message
	case p == nil:
		return "it has no pod of Weft"
	case p.DeletionTimestamp != nil:
		return "its former pod is ending"
	}
	if why := podHindrance(p); why != "" {
		return why
	}
	switch {
	case v.daemons != nil && !sameForm(p, v.daemons):
		return "its pod is of the former version"
	case heart.Status != corev1.ConditionTrue:
		return "Weft is ready, the node is not: " + cmp.Or(heart.Message, "its kubelet has not said why")
	}
	return ""
}

func condition(n corev1.Node, what corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == what {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// sameForm says whether a pod was made from the DaemonSet's present template, as far as
// settings and image go.
func sameForm(p *corev1.Pod, ds *appsv1.DaemonSet) bool {
	t := ds.Spec.Template
	if p.Annotations[settingsKey] != t.Annotations[settingsKey] {
		return false
	}
	image := func(containers []corev1.Container) string {
		for _, c := range containers {
			if c.Name == daemonContainer {
				return c.Image
			}
		}
		return ""
	}
	return image(p.Spec.Containers) == image(t.Spec.Containers)
}

// podHindrance is why a pod is not ready; empty if it is.
func podHindrance(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "its pod cannot be placed: " + c.Message
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if why := containerHindrance(c); why != "" {
			return c.Name + ": " + why
		}
	}
	return cmp.Or(strings.TrimSpace(p.Status.Reason+" "+p.Status.Message), "its pod is "+strings.ToLower(string(cmp.Or(p.Status.Phase, corev1.PodPending))))
}

// containerHindrance is what keeps a container from its work; empty if nothing, or if
// it only waits for others.
func containerHindrance(c corev1.ContainerStatus) string {
	last := ""
	if t := c.LastTerminationState.Terminated; t != nil {
		last = ended(t)
	}
	switch s := c.State; {
	case s.Waiting != nil && s.Waiting.Reason != "PodInitializing" && s.Waiting.Reason != "ContainerCreating":
		return join(": ", s.Waiting.Reason, cmp.Or(last, s.Waiting.Message))
	case s.Terminated != nil && s.Terminated.ExitCode != 0:
		return ended(s.Terminated)
	case s.Running != nil && !c.Ready && last != "":
		return "not ready; before, it " + last
	case s.Running != nil && !c.Ready:
		return "not ready yet"
	}
	return ""
}

// ended says how a container ended.
func ended(t *corev1.ContainerStateTerminated) string {
	how := fmt.Sprintf("ended with code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		how += " (" + t.Reason + ")"
	}
	return join(": ", how, lastLines(t.Message, 3))
}

// join is the texts that are not empty.
func join(sep string, texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(s string) bool { return s == "" }), sep)
}

// lastLines is the end of a text, in one line: of a log that is where it says why.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

// warnings are what the API server has on record against an object, the latest last, at
// most three.
func (c *Cluster) warnings(ctx context.Context, kind, name string) []string {
	events, err := get[corev1.EventList](ctx, c, "/api/v1/namespaces/"+c.Namespace+"/events", url.Values{
		"fieldSelector": {fields.Set{"involvedObject.kind": kind, "involvedObject.name": name, "type": "Warning"}.String()},
	})
	if err != nil {
		return nil // events are a help; without the right to read them there is none
	}
	slices.SortFunc(events.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	var out []string
	for _, e := range events.Items {
		text := join(": ", e.Reason, lastLines(e.Message, 1))
		out = append(slices.DeleteFunc(out, func(s string) bool { return s == text }), text)
	}
	return out[max(0, len(out)-3):]
}
