package testkube

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
)

// codecs writes objects as JSON or as protocol buffers.
type codecs struct {
	scheme  *runtime.Scheme
	factory serializer.CodecFactory
}

func newCodecs() codecs {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{}, &corev1.PodList{}, &corev1.Service{}, &corev1.ServiceList{},
		&corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Event{})
	s.AddKnownTypes(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	s.AddKnownTypeWithName(clusterPolicyVersion.WithKind("ClusterNetworkPolicy"), &ClusterPolicy{})
	s.AddKnownTypeWithName(clusterPolicyVersion.WithKind("ClusterNetworkPolicyList"), &clusterPolicyList{})
	for _, v := range []schema.GroupVersion{corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, clusterPolicyVersion} {
		metav1.AddToGroupVersion(s, v)
	}
	return codecs{s, serializer.NewCodecFactory(s)}
}

// answer is one response.
type answer struct {
	codecs
	w    http.ResponseWriter
	info runtime.SerializerInfo
	out  io.Writer // of a watch
}

func (c codecs) negotiate(w http.ResponseWriter, r *http.Request, onlyJSON bool) *answer {
	want := runtime.ContentTypeJSON
	if strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) && !onlyJSON {
		want = runtime.ContentTypeProtobuf
	}
	info, _ := runtime.SerializerInfoForMediaType(c.factory.SupportedMediaTypes(), want)
	return &answer{codecs: c, w: w, info: info}
}

// empty is an empty list, and an empty object, of a resource.
func empty(resource string) (list runtime.Object, one Object) {
	switch resource {
	case "nodes":
		return &corev1.NodeList{}, &corev1.Node{}
	case "pods":
		return &corev1.PodList{}, &corev1.Pod{}
	case "services":
		return &corev1.ServiceList{}, &corev1.Service{}
	case "namespaces":
		return &corev1.NamespaceList{}, &corev1.Namespace{}
	case "networkpolicies":
		return &networkingv1.NetworkPolicyList{}, &networkingv1.NetworkPolicy{}
	case clusterPolicies:
		return &clusterPolicyList{}, &ClusterPolicy{}
	case "leases": // nobody lists them
		return nil, &coordinationv1.Lease{}
	case "events":
		return nil, &corev1.Event{}
	}
	return &discoveryv1.EndpointSliceList{}, &discoveryv1.EndpointSlice{}
}

// name gives an object its kind, which the codecs want it to have. What is shared has it
// from the beginning.
func (c codecs) name(o runtime.Object) {
	if kinds, _, err := c.scheme.ObjectKinds(o); err == nil && len(kinds) > 0 {
		o.GetObjectKind().SetGroupVersionKind(kinds[0])
	}
}

func (a *answer) encode(o runtime.Object) []byte {
	b, err := runtime.Encode(a.info.Serializer, o)
	if err != nil {
		panic(fmt.Sprintf("testkube: encode %T: %v", o, err))
	}
	return b
}

func (a *answer) object(o runtime.Object) {
	a.w.Header().Set("Content-Type", a.info.MediaType)
	_, _ = a.w.Write(a.encode(o)) // the client may have gone
}

func (a *answer) list(resource string, objects []Object, version int) {
	list, _ := empty(resource)
	items := make([]runtime.Object, len(objects))
	for i, o := range objects {
		items[i] = o
	}
	if err := meta.SetList(list, items); err != nil {
		panic(fmt.Sprintf("testkube: make list of %s: %v", resource, err))
	}
	list.(metav1.ListInterface).SetResourceVersion(strconv.Itoa(version))
	a.name(list)
	a.object(list)
}

func (a *answer) startWatch() {
	contentType := a.info.MediaType
	if contentType == runtime.ContentTypeProtobuf {
		contentType += ";stream=watch"
	}
	a.w.Header().Set("Content-Type", contentType)
	a.w.WriteHeader(http.StatusOK)
	a.out = a.info.StreamSerializer.Framer.NewFrameWriter(a.w)
	a.flush()
}

func (a *answer) flush() { a.w.(http.Flusher).Flush() }

// event writes one event; false: the client has gone.
func (a *answer) event(kind watch.EventType, o runtime.Object) bool {
	e := &metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: a.encode(o)}}
	return a.info.StreamSerializer.Encode(e, a.out) == nil
}

func (a *answer) bookmark(resource string, version int, initialEnd bool) {
	_, o := empty(resource)
	o.SetResourceVersion(strconv.Itoa(version))
	if initialEnd {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	a.name(o)
	a.event(watch.Bookmark, o)
}

func (a *answer) eventError(err *apierrors.StatusError) {
	status := err.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	a.event(watch.Error, &status)
	a.flush()
}
