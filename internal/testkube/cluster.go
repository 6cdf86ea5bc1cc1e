// Package testkube is a Kubernetes API for tests: lists, watches and patches of a few
// kinds, over TLS, by as many API servers as a test wants.
package testkube

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is one of *corev1.Node, Pod, Namespace, Service, *discoveryv1.EndpointSlice,
// *networkingv1.NetworkPolicy, *[ClusterPolicy], *coordinationv1.Lease and *corev1.Event.
type Object interface {
	runtime.Object
	metav1.Object
}

// Cluster is what all API servers of a cluster have in common: objects, their history and
// who may ask. It is safe for concurrent use.
type Cluster struct {
	t      testing.TB
	codecs codecs
	pki    *pki

	mu      sync.Mutex
	version int
	kept    int // the history begins after this version
	kinds   map[string]*kind
	more    chan struct{} // closed when something happens
	tokens  map[string]bool
	asked   []string
	patches []Patch
	fail    func(*http.Request) int
	before  map[string]func()
	options Options
}

// Options of a cluster. They may be changed while it serves.
type Options struct {
	JSON     bool // only JSON is spoken
	NoStream bool // lists are not streamed by watches (KEP-3157)
	HTTP1    bool // servers that are started from now on do not speak HTTP/2
	// NoWatch ends each watch at once, Forgets because its version is too old.
	NoWatch, Forgets bool
	// ClusterPolicies says that there is a CustomResourceDefinition of ClusterNetworkPolicy.
	ClusterPolicies bool
}

// Patch is one that was made, of annotations or of conditions.
type Patch struct{ Namespace, Name, UID, Annotations string }

// kind is the objects of one resource.
type kind struct {
	objects map[string]Object
	history []event
}

type event struct {
	version int
	kind    watch.EventType
	object  Object
}

// NewCluster makes a cluster without objects and without servers.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{
		t: t, codecs: newCodecs(), pki: newPKI(t), version: 100, kept: 100,
		kinds: map[string]*kind{}, more: make(chan struct{}), tokens: map[string]bool{},
	}
	for _, resource := range []string{"nodes", "pods", "services", "endpointslices", "namespaces", "networkpolicies", clusterPolicies, "leases", "events"} {
		c.kinds[resource] = &kind{objects: map[string]Object{}}
	}
	return c
}

// Set changes the options.
func (c *Cluster) Set(o Options) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options = o
}

// Fail has each request answered with the status that f returns, unless that is 0.
func (c *Cluster) Fail(f func(*http.Request) int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = f
}

// Before has f called before the next request is answered that Asked names so.
func (c *Cluster) Before(request string, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before == nil {
		c.before = map[string]func(){}
	}
	c.before[request] = f
}

// Allow lets requests with this token in, or no more.
func (c *Cluster) Allow(token string, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[token] = yes
}

// Asked is the requests that came since the last call, as "list nodes", "watch nodes 7",
// "stream nodes" (a watch that begins with a list), "patch pods", "get pods".
func (c *Cluster) Asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// Patches is those that were made since the last call.
func (c *Cluster) Patches() []Patch {
	c.mu.Lock()
	defer c.mu.Unlock()
	patches := c.patches
	c.patches = nil
	return patches
}

// Pods is those that there are.
func (c *Cluster) Pods() []*corev1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*corev1.Pod
	for _, o := range c.kinds["pods"].objects {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

// Put creates or changes objects.
func (c *Cluster) Put(objects ...Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range objects {
		c.put(o.DeepCopyObject().(Object))
	}
	c.tell()
}

func (c *Cluster) put(o Object) {
	k := c.kinds[resourceOf(o)]
	c.version++
	o.SetResourceVersion(strconv.Itoa(c.version))
	c.codecs.name(o)
	e := event{c.version, watch.Added, o}
	if _, there := k.objects[keyOf(o)]; there {
		e.kind = watch.Modified
	}
	k.objects[keyOf(o)] = o
	k.history = append(k.history, e)
}

// Delete removes objects.
func (c *Cluster) Delete(objects ...Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range objects {
		k := c.kinds[resourceOf(o)]
		was, there := k.objects[keyOf(o)]
		if !there {
			continue
		}
		delete(k.objects, keyOf(o))
		c.version++
		last := was.DeepCopyObject().(Object)
		last.SetResourceVersion(strconv.Itoa(c.version))
		k.history = append(k.history, event{c.version, watch.Deleted, last})
	}
	c.tell()
}

// Compact forgets the history: who watches from before must list again.
func (c *Cluster) Compact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++ // so that the version of the last event is too old
	c.kept = c.version
	for _, k := range c.kinds {
		k.history = nil
	}
}

func (c *Cluster) tell() {
	close(c.more)
	c.more = make(chan struct{})
}

// list is the objects of a resource that are selected, by key, and the version.
func (c *Cluster) list(resource string, s selection) ([]Object, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Object
	for _, o := range c.kinds[resource].objects {
		if s.selects(o) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Object) int { return strings.Compare(keyOf(a), keyOf(b)) })
	return out, c.version
}

// since is the events after a version, the version up to which they are, and what is
// closed when there are more. It is false if the history does not reach back so far.
func (c *Cluster) since(resource string, version int, s selection) ([]event, int, <-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.kept {
		return nil, 0, nil, false
	}
	k := c.kinds[resource]
	i, _ := slices.BinarySearchFunc(k.history, version+1, func(e event, v int) int { return e.version - v })
	var out []event
	for _, e := range k.history[i:] {
		if s.selects(e.object) {
			out = append(out, e)
		}
	}
	return out, c.version, c.more, true
}

// selection is what a request asks for.
type selection struct {
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (s selection) selects(o Object) bool {
	if s.namespace != "" && o.GetNamespace() != s.namespace {
		return false
	}
	has := fields.Set{"metadata.name": o.GetName()}
	if p, ok := o.(*corev1.Pod); ok {
		has["spec.nodeName"] = p.Spec.NodeName
	}
	return s.labels.Matches(labels.Set(o.GetLabels())) && s.fields.Matches(has)
}

func keyOf(o Object) string { return o.GetNamespace() + "/" + o.GetName() }

func resourceOf(o Object) string {
	switch o.(type) {
	case *corev1.Node:
		return "nodes"
	case *corev1.Pod:
		return "pods"
	case *corev1.Service:
		return "services"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *corev1.Namespace:
		return "namespaces"
	case *networkingv1.NetworkPolicy:
		return "networkpolicies"
	case *ClusterPolicy:
		return clusterPolicies
	case *coordinationv1.Lease:
		return "leases"
	case *corev1.Event:
		return "events"
	}
	panic(fmt.Sprintf("testkube: no resource for %T", o))
}
