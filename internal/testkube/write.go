package testkube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Service is one that there is; nil: there is none.
func (c *Cluster) Service(namespace, name string) *corev1.Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, _ := c.kinds["services"].objects[namespace+"/"+name].(*corev1.Service)
	return s
}

// Lease is one that there is; nil: there is none.
func (c *Cluster) Lease(namespace, name string) *coordinationv1.Lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, _ := c.kinds["leases"].objects[namespace+"/"+name].(*coordinationv1.Lease)
	return l
}

// Events is those that were made since the last call, as "Warning shop/web Reason: text".
func (c *Cluster) Events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, e := range c.kinds["events"].history {
		v := e.object.(*corev1.Event)
		out = append(out, fmt.Sprintf("%s %s/%s %s: %s", v.Type, v.InvolvedObject.Namespace, v.InvolvedObject.Name, v.Reason, v.Message))
	}
	c.kinds["events"] = &kind{objects: map[string]Object{}}
	return out
}

// create makes a Lease or an Event of JSON.
func (c *Cluster) create(a *answer, r *http.Request, resource, namespace string) {
	_, o := empty(resource)
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || o.GetName() == "" {
		a.refuse(apierrors.NewBadRequest(fmt.Sprint("not an object as JSON: ", r.Header.Get("Content-Type"), err)))
		return
	}
	if e, ok := o.(*corev1.Event); ok && e.InvolvedObject.Namespace != namespace {
		a.refuse(apierrors.NewBadRequest("involvedObject.namespace: does not match event.namespace"))
		return
	}
	o.SetNamespace(namespace)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds[resource].objects[keyOf(o)] != nil {
		a.refuse(apierrors.NewAlreadyExists(schema.GroupResource{Resource: resource}, o.GetName()))
		return
	}
	c.put(o)
	c.tell()
	a.object(o)
}

// merge does what a merge patch (RFC 7386) does of a Lease, or of a Service's status. If it
// names a UID or version, the object must have it.
func (c *Cluster) merge(a *answer, r *http.Request, resource, namespace, name string, parts ...string) {
	body, err := io.ReadAll(r.Body)
	var patch map[string]any
	if err == nil {
		err = json.Unmarshal(body, &patch)
	}
	for part := range patch {
		if part != "metadata" && !slices.Contains(parts, part) {
			err = fmt.Errorf("%s must not be changed by it", part)
		}
	}
	if err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		a.refuse(apierrors.NewBadRequest(fmt.Sprint("not a merge patch: ", err)))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := schema.GroupResource{Resource: resource}
	was := c.kinds[resource].objects[namespace+"/"+name]
	if was == nil {
		a.refuse(apierrors.NewNotFound(of, name))
		return
	}
	meta, _ := patch["metadata"].(map[string]any)
	for field, has := range map[string]string{"uid": string(was.GetUID()), "resourceVersion": was.GetResourceVersion()} {
		if want, is := meta[field]; is && want != has {
			a.refuse(apierrors.NewConflict(of, name, fmt.Errorf("%s in precondition: %v, in object meta: %s", field, want, has)))
			return
		}
	}
	var whole map[string]any
	text, err := json.Marshal(was)
	if err == nil {
		err = json.Unmarshal(text, &whole)
	}
	_, now := empty(resource)
	if err == nil {
		text, err = json.Marshal(merged(whole, patch))
	}
	if err == nil {
		err = json.Unmarshal(text, now)
	}
	if err != nil {
		a.refuse(apierrors.NewBadRequest(err.Error()))
		return
	}
	c.put(now)
	c.tell()
	a.object(now)
}

// merged is target after a merge patch.
func merged(target, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(target, k)
		case map[string]any:
			inner, _ := target[k].(map[string]any)
			target[k] = merged(inner, v)
		default:
			target[k] = v
		}
	}
	return target
}
