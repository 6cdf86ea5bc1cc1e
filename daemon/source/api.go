package source

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The functions below make of an object of the API what the folder makes of the same
// object as YAML, with the same errors. They keep nothing of the object but strings.

// FromNode reads a Node.
func FromNode(o *corev1.Node) (*Node, error) {
	in := nodeObject{Metadata: fromMeta(&o.ObjectMeta)}
	in.Spec.PodCIDR, in.Spec.PodCIDRs = o.Spec.PodCIDR, o.Spec.PodCIDRs
	for _, a := range o.Status.Addresses {
		in.Status.Addresses = append(in.Status.Addresses, nodeAddress{string(a.Type), a.Address})
	}
	return newNode(in)
}

// FromPod reads a Pod. What the folder's daemons write into annotations means nothing
// here.
func FromPod(o *corev1.Pod) (*Pod, error) {
	in := podObject{Metadata: fromMeta(&o.ObjectMeta)}
	in.Metadata.Annotations = nil
	in.Spec.NodeName, in.Spec.HostNetwork = o.Spec.NodeName, o.Spec.HostNetwork
	in.Spec.Containers = fromContainers(o.Spec.Containers)
	in.Spec.InitContainers = fromContainers(o.Spec.InitContainers)
	in.Status.Phase, in.Status.PodIP = string(o.Status.Phase), o.Status.PodIP
	for _, a := range o.Status.PodIPs {
		in.Status.PodIPs = append(in.Status.PodIPs, podIP{a.IP})
	}
	for _, c := range o.Status.Conditions {
		in.Status.Conditions = append(in.Status.Conditions, podCondition{string(c.Type), string(c.Status)})
	}
	return newPod(in)
}

// FromService reads a Service.
func FromService(o *corev1.Service) (*Service, error) {
	in := serviceObject{Metadata: fromMeta(&o.ObjectMeta)}
	spec := &in.Spec
	spec.Type, spec.ClusterIP, spec.ClusterIPs = string(o.Spec.Type), o.Spec.ClusterIP, o.Spec.ClusterIPs
	spec.ExternalIPs, spec.Selector = o.Spec.ExternalIPs, o.Spec.Selector
	for i := range o.Spec.Ports {
		p := &o.Spec.Ports[i]
		spec.Ports = append(spec.Ports, servicePortObject{
			Name: p.Name, Protocol: string(p.Protocol), Port: int(p.Port), NodePort: int(p.NodePort), TargetPort: fromIntOrString(p.TargetPort),
		})
	}
	spec.SessionAffinity = string(o.Spec.SessionAffinity)
	if c := o.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		secs := int64(*c.ClientIP.TimeoutSeconds)
		spec.SessionAffinityConfig.ClientIP.TimeoutSeconds = &secs
	}
	spec.ExternalTrafficPolicy = string(o.Spec.ExternalTrafficPolicy)
	spec.InternalTrafficPolicy = string(value(o.Spec.InternalTrafficPolicy))
	spec.HealthCheckNodePort = int(o.Spec.HealthCheckNodePort)
	spec.PublishNotReadyAddresses = o.Spec.PublishNotReadyAddresses
	spec.LoadBalancerSourceRanges = o.Spec.LoadBalancerSourceRanges
	spec.LoadBalancerClass = value(o.Spec.LoadBalancerClass)
	spec.TrafficDistribution = value(o.Spec.TrafficDistribution)
	spec.LoadBalancerIP = o.Spec.LoadBalancerIP
	for _, f := range o.Spec.IPFamilies {
		spec.IPFamilies = append(spec.IPFamilies, string(f))
	}
	spec.IPFamilyPolicy = string(value(o.Spec.IPFamilyPolicy))
	for _, i := range o.Status.LoadBalancer.Ingress {
		in.Status.LoadBalancer.Ingress = append(in.Status.LoadBalancer.Ingress, ingressObject{i.IP, string(value(i.IPMode))})
	}
	for _, c := range o.Status.Conditions {
		in.Status.Conditions = append(in.Status.Conditions, conditionObject{c.Type, string(c.Status), c.Reason, c.Message})
	}
	return newService(in)
}

// FromSlice reads an EndpointSlice. It returns nil for one of no Service, for one of host
// names, and for one that is not for the cluster's service proxy. share returns a string that
// is equal to its argument: names that many endpoints have should be one in memory.
func FromSlice(o *discoveryv1.EndpointSlice, share func(string) string) (*EndpointSlice, error) {
	in := sliceObject{
		Metadata: fromMeta(&o.ObjectMeta), AddressType: string(o.AddressType),
		Endpoints: make([]endpointObject, len(o.Endpoints)),
	}
	for _, p := range o.Ports {
		port := slicePortObject{Name: value(p.Name), Protocol: string(value(p.Protocol))}
		if p.Port != nil {
			n := int(*p.Port)
			port.Port = &n
		}
		in.Ports = append(in.Ports, port)
	}
	for i := range o.Endpoints {
		from, to := &o.Endpoints[i], &in.Endpoints[i]
		to.Addresses = from.Addresses
		to.Conditions.Ready = from.Conditions.Ready
		to.Conditions.Serving = from.Conditions.Serving
		to.Conditions.Terminating = from.Conditions.Terminating
		to.NodeName, to.Zone = value(from.NodeName), value(from.Zone)
		if from.Hints != nil {
			for _, z := range from.Hints.ForZones {
				to.Hints.ForZones = append(to.Hints.ForZones, hintObject{z.Name})
			}
			for _, n := range from.Hints.ForNodes {
				to.Hints.ForNodes = append(to.Hints.ForNodes, hintObject{n.Name})
			}
		}
		if t := from.TargetRef; t != nil {
			to.TargetRef = &targetObject{t.Kind, t.Namespace, t.Name, string(t.UID)}
		}
	}
	return newSlice(in, share)
}

// FromNetworkPolicy reads a NetworkPolicy. What of it cannot be read allows nothing, and
// is its Problem.
func FromNetworkPolicy(o *networkingv1.NetworkPolicy) (*NetworkPolicy, error) {
	p, err := namedPolicy(fromMeta(&o.ObjectMeta))
	if err != nil {
		return nil, err
	}
	p.read(&o.Spec)
	return p, nil
}

// FromClusterPolicy reads a ClusterNetworkPolicy: its metadata, and its spec as JSON. What of
// it cannot be read, or not be done, is its Problem.
func FromClusterPolicy(o *metav1.ObjectMeta, spec []byte) (*ClusterPolicy, error) {
	p, _, err := readClusterPolicy(policyObject{fromMeta(o), spec})
	return p, err
}

// FromNamespace reads a Namespace.
func FromNamespace(o *corev1.Namespace) (*Namespace, error) {
	return newNamespace(namespaceObject{fromMeta(&o.ObjectMeta)})
}

func fromMeta(o *metav1.ObjectMeta) metadata {
	m := metadata{Name: o.Name, Namespace: o.Namespace, UID: string(o.UID), Labels: o.Labels, Annotations: o.Annotations}
	if o.DeletionTimestamp != nil {
		m.Deletion = o.DeletionTimestamp.String()
	}
	return m
}

func fromContainers(in []corev1.Container) []container {
	var out []container
	for i := range in {
		c := container{RestartPolicy: string(value(in[i].RestartPolicy))}
		for _, p := range in[i].Ports {
			c.Ports = append(c.Ports, containerPort{p.Name, string(p.Protocol), int(p.ContainerPort)})
		}
		out = append(out, c)
	}
	return out
}

// fromIntOrString has "" for 0, which stands for a field that is not set.
func fromIntOrString(v intstr.IntOrString) intOrString {
	switch {
	case v.Type == intstr.String:
		return intOrString(v.StrVal)
	case v.IntVal == 0:
		return ""
	}
	return intOrString(strconv.Itoa(int(v.IntVal)))
}

// value is what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
