package source

import (
	"fmt"
	"strings"

	"github.com/weftnet/weft/internal/api"
)

// attachmentAnnotation, on Pods below status/, names the interface that has the
// addresses, as <containerID>/<ifname>.
const attachmentAnnotation = "weft.dev/attachment"

// declaredAnnotation, on Pods below status/, says that the folder held the Pod when it was
// attached. If it does not any more, the Pod is being deleted.
const declaredAnnotation = "weft.dev/declared"

// What is read of a Pod, and written of ours.
type (
	podObject struct {
		APIVersion string    `json:"apiVersion"`
		Kind       string    `json:"kind"`
		Metadata   metadata  `json:"metadata"`
		Spec       podSpec   `json:"spec"`
		Status     podStatus `json:"status"`
	}
	podSpec struct {
		NodeName       string      `json:"nodeName,omitempty"`
		HostNetwork    bool        `json:"hostNetwork,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		InitContainers []container `json:"initContainers,omitempty"`
	}
	container struct {
		RestartPolicy string          `json:"restartPolicy"`
		Ports         []containerPort `json:"ports"`
	}
	containerPort struct {
		Name          string `json:"name"`
		Protocol      string `json:"protocol"`
		ContainerPort int    `json:"containerPort"`
	}
	podStatus struct {
		Phase      string         `json:"phase,omitempty"`
		PodIP      string         `json:"podIP,omitempty"`
		PodIPs     []podIP        `json:"podIPs,omitempty"`
		Conditions []podCondition `json:"conditions,omitempty"`
	}
	podCondition struct {
		Type   string `json:"type"`
		Status string `json:"status"`
	}
	podIP struct {
		IP string `json:"ip"`
	}
)

func newPod(in podObject) (*Pod, error) {
	namespace, name, err := nameOf(in.Metadata)
	if err != nil {
		return nil, err
	}
	p := &Pod{
		Namespace: namespace, Name: name, UID: in.Metadata.UID,
		Labels: internLabels(in.Metadata.Labels), Node: intern(in.Spec.NodeName), HostNetwork: in.Spec.HostNetwork,
		Terminating: in.Metadata.Deletion != "",
		Finished:    in.Status.Phase == "Succeeded" || in.Status.Phase == "Failed",
		Ready:       true,
	}
	for _, c := range in.Status.Conditions {
		if c.Type == "Ready" {
			p.Ready = c.Status == "True"
		}
	}
	if p.Ports, err = namedPorts(in.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", key(p), err)
	}
	if id, ifname, ok := strings.Cut(in.Metadata.Annotations[attachmentAnnotation], "/"); ok {
		p.Attachment = api.Ref{ContainerID: id, IfName: ifname}
		p.Declared = in.Metadata.Annotations[declaredAnnotation] == "true"
	}
	if p.Finished {
		return p, nil // its addresses are somebody else's by now
	}
	ips := in.Status.PodIPs
	if len(ips) == 0 && in.Status.PodIP != "" {
		ips = []podIP{{in.Status.PodIP}}
	}
	for i, a := range ips {
		ip, err := parseIP(a.IP)
		if err != nil {
			return nil, fmt.Errorf("%s: status.podIPs[%d]: %w", key(p), i, err)
		}
		p.IPs = append(p.IPs, ip)
	}
	return p, nil
}

// namedPorts are the ports of the containers that run as long as the pod does.
func namedPorts(in podSpec) ([]SlicePort, error) {
	var out []SlicePort
	read := func(field string, c container) error {
		for i, from := range c.Ports {
			if from.Name == "" {
				continue
			}
			field := fmt.Sprintf("%s.ports[%d]", field, i)
			proto, err := parseProtocol(from.Protocol)
			if err != nil {
				return fmt.Errorf("%s.protocol: %w", field, err)
			}
			port, err := checkPort(field+".containerPort", from.ContainerPort)
			if err != nil {
				return err
			}
			out = append(out, SlicePort{intern(from.Name), proto, port})
		}
		return nil
	}
	for i, c := range in.Containers {
		if err := read(fmt.Sprintf("spec.containers[%d]", i), c); err != nil {
			return nil, err
		}
	}
	for i, c := range in.InitContainers {
		if c.RestartPolicy != "Always" { // it ends before the others begin
			continue
		}
		if err := read(fmt.Sprintf("spec.initContainers[%d]", i), c); err != nil {
			return nil, err
		}
	}
	return out, nil
}
