package kube

import (
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftnet/weft/daemon/source"
)

// clusterPolicyVersion is that of ClusterNetworkPolicy which is read, of
// sigs.k8s.io/network-policy-api v0.2.0.
var clusterPolicyVersion = schema.GroupVersion{Group: "policy.networking.k8s.io", Version: "v1alpha2"}

// clusterPolicy is a ClusterNetworkPolicy. Its spec is package source's to read.
type clusterPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
	Status            struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

type clusterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []clusterPolicy `json:"items"`
}

func (p *clusterPolicy) DeepCopyObject() runtime.Object {
	out := *p
	p.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec, out.Status.Conditions = slices.Clone(p.Spec), slices.Clone(p.Status.Conditions)
	return &out
}

func (l *clusterPolicyList) DeepCopyObject() runtime.Object {
	out := *l
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]clusterPolicy, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*clusterPolicy)
	}
	return &out
}

func readClusterPolicy(p *clusterPolicy) (*source.ClusterPolicy, error) {
	return source.FromClusterPolicy(&p.ObjectMeta, p.Spec)
}
