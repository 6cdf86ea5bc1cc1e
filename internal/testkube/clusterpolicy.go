package testkube

import (
	"encoding/json"
	"slices"

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
