package main

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/e2e/cluster"
)

// The objects below are as large as in a real cluster: with what Weft does not read.

// scaleNode is the i-th node as its kubelet shows it: 30 images, conditions, and who manages
// what.
func scaleNode(i int) *corev1.Node {
	name := fmt.Sprintf("far-%04d", i)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)),
		Labels: map[string]string{
			"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"node.kubernetes.io/instance-type": "m5.large", "topology.kubernetes.io/zone": fmt.Sprintf("zone-%d", i%3), "topology.kubernetes.io/region": "region",
		},
		ManagedFields: managed("kubelet", 60),
	}}
	n.Spec.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", 32+i/256, i%256), fmt.Sprintf("fd00:32:%x::/64", i)}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.19.%d.%d", i/250, i%250+1)}, {Type: corev1.NodeHostName, Address: name},
	}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficient", Message: "kubelet has what it needs"})
	}
	for j := range 30 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{SizeBytes: 12345678, Names: []string{
			fmt.Sprintf("registry.example.com/team/image-%d@sha256:%064d", j, i), fmt.Sprintf("registry.example.com/team/image-%d:v1.%d", j, i),
		}})
	}
	return n
}

// managed is an entry of managedFields that names so many fields.
func managed(by string, fields int) []metav1.ManagedFieldsEntry {
	var b strings.Builder
	for i := range fields {
		fmt.Fprintf(&b, `"f:field-of-some-length-%02d":{},`, i)
	}
	return []metav1.ManagedFieldsEntry{{
		Manager: by, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1("{" + strings.TrimSuffix(b.String(), ",") + "}"),
	}}
}

// scaleService is the i-th of n Services in a cluster of so many nodes, and its slice: with
// so many endpoints in all, spread evenly. 2,500 Services, or every tenth if there are fewer,
// have a node port.
func scaleService(i, n, endpoints, nodes int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	name, port, tcp := fmt.Sprintf("service-%05d", i), int32(8080), corev1.ProtocolTCP
	app := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop"}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "default", UID: types.UID(fmt.Sprintf("22222222-0000-4000-8000-%012d", i)),
		Labels: app, ManagedFields: managed("kubectl-client-side-apply", 15),
	}}
	s.Spec.Type, s.Spec.Selector = corev1.ServiceTypeClusterIP, app
	s.Spec.ClusterIP = clusterIP(i).String()
	s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{s.Spec.ClusterIP}, []corev1.IPFamily{corev1.IPv4Protocol}
	s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: tcp}}
	if every := max(10, n/2500); i%every == 0 {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, int32(30000+i/every)
	}
	empty := ""
	e := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-abcde", Namespace: "default", UID: types.UID(fmt.Sprintf("33333333-0000-4000-8000-%012d", i)),
			Labels: map[string]string{
				discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io",
				"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop",
			},
			Annotations:     map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-26T05:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: name, UID: s.UID}},
			ManagedFields:   managed("kube-controller-manager", 15),
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &empty, Port: &port, Protocol: &tcp}},
	}
	first := i * endpoints / n
	for j := first; j < (i+1)*endpoints/n; j++ {
		e.Endpoints = append(e.Endpoints, scaleEndpoint(name, j, nodes))
	}
	return s, e
}

// scaleEndpoint is the j-th of all endpoints.
func scaleEndpoint(service string, j, nodes int) discoveryv1.Endpoint {
	node, zone, yes, no := fmt.Sprintf("far-%04d", j%nodes), fmt.Sprintf("zone-%d", j%nodes%3), true, false
	at := netip.AddrFrom4([4]byte{10, byte(32 + j%nodes/256), byte(j % nodes % 256), byte(2 + j/nodes)})
	return discoveryv1.Endpoint{
		Addresses: []string{at.String()}, NodeName: &node, Zone: &zone,
		Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-7d4b9c6f8-%05d", service, j),
			UID: types.UID(fmt.Sprintf("11111111-0000-4000-8000-%012d", j)),
		},
	}
}

// selfNode is the Node object of a node of the cluster.
func selfNode(n *cluster.Node) *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{"topology.kubernetes.io/zone": "zone-0"}}}
	for _, p := range n.PodCIDRs {
		o.Spec.PodCIDRs = append(o.Spec.PodCIDRs, p.String())
	}
	for _, a := range n.Addrs {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return o
}
