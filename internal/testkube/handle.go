package testkube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// ServeHTTP answers as an API server.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(path) > 2 && path[0] == "api" {
		path = path[2:]
	} else if len(path) > 3 {
		path = path[3:]
	}
	var namespace, resource, object string
	if path[0] == "namespaces" && len(path) > 2 {
		namespace, path = path[1], path[2:]
	}
	if resource = path[0]; len(path) > 1 {
		object = path[1]
	}
	c.mu.Lock()
	options, fail := c.options, c.fail
	allowed := c.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] || len(r.TLS.PeerCertificates) > 0
	_, known := c.kinds[resource]
	known = known && (resource != clusterPolicies || options.ClusterPolicies)
	c.mu.Unlock()
	a := c.codecs.negotiate(w, r, options.JSON || resource == clusterPolicies)
	q := r.URL.Query()
	c.note(r, resource)
	switch {
	case !allowed:
		a.refuse(apierrors.NewUnauthorized("who are you?"))
		return
	case !known:
		http.NotFound(w, r) // as an API server does; it is no Status
		return
	case fail != nil:
		if status := fail(r); status != 0 {
			a.refuse(apierrors.NewGenericServerResponse(status, r.Method, corev1.Resource(resource), object, "by the test", 0, true))
			return
		}
	}
	s, err := selectionOf(namespace, q.Get("labelSelector"), q.Get("fieldSelector"))
	if err != nil {
		a.refuse(apierrors.NewBadRequest(err.Error()))
		return
	}
	switch {
	case r.Method == http.MethodPatch && resource == "pods":
		c.patch(a, r, namespace, object)
	case r.Method == http.MethodPatch && resource == clusterPolicies && len(path) == 3 && path[2] == "status":
		c.applyStatus(a, r, object)
	case r.Method == http.MethodPatch && resource == "services" && len(path) == 3 && path[2] == "status":
		c.merge(a, r, resource, namespace, object, "status")
	case r.Method == http.MethodPatch && resource == "leases":
		c.merge(a, r, resource, namespace, object, "spec")
	case r.Method == http.MethodPost && (resource == "leases" || resource == "events"):
		c.create(a, r, resource, namespace)
	case r.Method != http.MethodGet:
		a.refuse(apierrors.NewMethodNotSupported(corev1.Resource(resource), r.Method))
	case r.Method == http.MethodGet && object != "":
		c.get(a, resource, namespace, object)
	case q.Get("watch") == "true":
		c.watch(a, r, resource, s, options)
	default:
		objects, version := c.list(resource, s)
		a.list(resource, objects, version)
	}
}

func (c *Cluster) note(r *http.Request, resource string) {
	q := r.URL.Query()
	text := strings.ToLower(r.Method) + " " + resource
	switch {
	case q.Get("sendInitialEvents") == "true":
		text = "stream " + resource
	case q.Get("watch") == "true":
		text = "watch " + resource + " " + q.Get("resourceVersion")
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+resource):
		text = "list " + resource
	}
	c.mu.Lock()
	c.asked = append(c.asked, text)
	before := c.before[text]
	delete(c.before, text)
	c.mu.Unlock()
	if before != nil {
		before()
	}
}

func selectionOf(namespace, label, field string) (selection, error) {
	s := selection{namespace: namespace}
	var err error
	if s.labels, err = labels.Parse(label); err != nil {
		return s, err
	}
	s.fields, err = fields.ParseSelector(field)
	return s, err
}

func (c *Cluster) get(a *answer, resource, namespace, name string) {
	c.mu.Lock()
	o := c.kinds[resource].objects[namespace+"/"+name]
	c.mu.Unlock()
	if o == nil {
		a.refuse(apierrors.NewNotFound(corev1.Resource(resource), name))
		return
	}
	a.object(o)
}

// patch does what a merge patch of annotations does, and refuses any other.
func (c *Cluster) patch(a *answer, r *http.Request, namespace, name string) {
	var in struct {
		Metadata struct {
			UID         string            `json:"uid"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		a.refuse(apierrors.NewBadRequest(fmt.Sprint("not a merge patch of annotations: ", err)))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was, ok := c.kinds["pods"].objects[namespace+"/"+name].(*corev1.Pod)
	if !ok {
		a.refuse(apierrors.NewNotFound(corev1.Resource("pods"), name))
		return
	}
	if string(was.UID) != in.Metadata.UID {
		a.refuse(apierrors.NewConflict(corev1.Resource("pods"), name, fmt.Errorf("precondition failed: UID in precondition: %s, UID in object meta: %s", in.Metadata.UID, was.UID)))
		return
	}
	now := was.DeepCopy()
	if now.Annotations == nil {
		now.Annotations = map[string]string{}
	}
	var texts []string
	for k, v := range in.Metadata.Annotations {
		now.Annotations[k] = v
		texts = append(texts, k+"="+v)
	}
	c.patches = append(c.patches, Patch{namespace, name, in.Metadata.UID, strings.Join(texts, " ")})
	c.put(now)
	c.tell()
	a.object(now)
}

// watch streams events until the client goes, or the time that it gave is over.
func (c *Cluster) watch(a *answer, r *http.Request, resource string, s selection, options Options) {
	q := r.URL.Query()
	initial := q.Get("sendInitialEvents") == "true"
	if initial && options.NoStream {
		a.refuse(apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil))
		return
	}
	version, _ := strconv.Atoi(q.Get("resourceVersion"))
	a.startWatch()
	switch {
	case options.NoWatch:
		return
	case options.Forgets:
		a.eventError(apierrors.NewResourceExpired("too old resource version"))
		return
	}
	if initial {
		var objects []Object
		objects, version = c.list(resource, s)
		for _, o := range objects {
			if !a.event(watch.Added, o) {
				return
			}
		}
		a.bookmark(resource, version, true)
	}
	seconds, err := strconv.Atoi(q.Get("timeoutSeconds"))
	if err != nil {
		seconds = 3600
	}
	end := time.After(time.Duration(seconds) * time.Second)
	for {
		events, upTo, more, ok := c.since(resource, version, s)
		if !ok {
			a.eventError(apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", version)))
			return
		}
		for _, e := range events {
			if !a.event(e.kind, e.object) {
				return
			}
		}
		version = upTo
		a.flush()
		select {
		case <-r.Context().Done():
			return
		case <-end:
			return
		case <-more:
		}
	}
}

// refuse answers with an error, as JSON.
func (a *answer) refuse(err *apierrors.StatusError) {
	status := err.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	b, _ := json.Marshal(status)
	a.w.Header().Set("Content-Type", "application/json")
	a.w.WriteHeader(int(status.Code))
	_, _ = a.w.Write(b) // the client may have gone
	_, _ = io.WriteString(a.w, "\n")
}
