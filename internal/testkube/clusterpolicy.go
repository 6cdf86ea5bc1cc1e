package testkube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clusterPolicies is the resource of ClusterPolicy.
const clusterPolicies = "clusternetworkpolicies"

var clusterPolicyVersion = schema.GroupVersion{Group: "policy.networking.k8s.io", Version: "v1alpha2"}

// ClusterPolicy is a ClusterNetworkPolicy, of which nothing is checked.
type ClusterPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage     `json:"spec"`
	Status            ClusterPolicyStatus `json:"status"`
}

// ClusterPolicyStatus is its status.
type ClusterPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions"`
}

type clusterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []ClusterPolicy `json:"items"`
}

// DeepCopyObject is of [runtime.Object].
func (p *ClusterPolicy) DeepCopyObject() runtime.Object {
	out := *p
	p.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec, out.Status.Conditions = slices.Clone(p.Spec), slices.Clone(p.Status.Conditions)
	return &out
}

// DeepCopyObject is of [runtime.Object].
func (l *clusterPolicyList) DeepCopyObject() runtime.Object {
	out := *l
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = slices.Clone(l.Items)
	return &out
}

// applyStatus does what a server-side apply of conditions to the status does.
func (c *Cluster) applyStatus(a *answer, r *http.Request, name string) {
	var in ClusterPolicy
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || r.Header.Get("Content-Type") != "application/apply-patch+yaml" ||
		r.URL.Query().Get("fieldManager") == "" || in.Name != name || in.Kind != "ClusterNetworkPolicy" {
		a.refuse(apierrors.NewBadRequest(fmt.Sprint("not an apply of conditions: ", err)))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := schema.GroupResource{Group: clusterPolicyVersion.Group, Resource: clusterPolicies}
	was, ok := c.kinds[clusterPolicies].objects["/"+name].(*ClusterPolicy)
	switch {
	case !ok:
		a.refuse(apierrors.NewNotFound(of, name))
		return
	case was.UID != in.UID:
		a.refuse(apierrors.NewConflict(of, name, fmt.Errorf("UID in precondition: %s, UID in object meta: %s", in.UID, was.UID)))
		return
	}
	now := was.DeepCopyObject().(*ClusterPolicy)
	var texts []string
	for _, one := range in.Status.Conditions {
		now.Status.Conditions = slices.DeleteFunc(now.Status.Conditions, func(c metav1.Condition) bool { return c.Type == one.Type })
		now.Status.Conditions = append(now.Status.Conditions, one)
		texts = append(texts, fmt.Sprintf("%s=%s %s: %s", one.Type, one.Status, one.Reason, one.Message))
	}
	c.patches = append(c.patches, Patch{Name: name, UID: string(in.UID), Annotations: strings.Join(texts, " ")})
	c.put(now)
	c.tell()
	a.object(now)
}
