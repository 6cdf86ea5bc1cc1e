package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unique"

	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/internal/api"
)

// attachmentAnnotation, on Pods below status/, names the interface that has the
// addresses, as <containerID>/<ifname>.
const attachmentAnnotation = "weft.dev/attachment"

// objects are those of one file.
type objects struct {
	nodes      []*Node
	pods       []*Pod
	namespaces []*Namespace
	ignored    int
}

// The parts of the API objects that are read (k8s.io/api/core/v1). Everything else in
// a file, managedFields above all, is never kept.
type (
	header struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Items      json.RawMessage `json:"items"`
	}
	metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace,omitempty"`
		UID         string            `json:"uid,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	nodeObject struct {
		Metadata metadata `json:"metadata"`
		Spec     struct {
			PodCIDR  string   `json:"podCIDR"`
			PodCIDRs []string `json:"podCIDRs"`
		} `json:"spec"`
		Status struct {
			Addresses []struct {
				Type    string `json:"type"`
				Address string `json:"address"`
			} `json:"addresses"`
		} `json:"status"`
	}
	podObject struct {
		APIVersion string    `json:"apiVersion"`
		Kind       string    `json:"kind"`
		Metadata   metadata  `json:"metadata"`
		Spec       podSpec   `json:"spec"`
		Status     podStatus `json:"status"`
	}
	podSpec struct {
		NodeName    string `json:"nodeName,omitempty"`
		HostNetwork bool   `json:"hostNetwork,omitempty"`
	}
	podStatus struct {
		Phase  string  `json:"phase,omitempty"`
		PodIP  string  `json:"podIP,omitempty"`
		PodIPs []podIP `json:"podIPs,omitempty"`
	}
	podIP struct {
		IP string `json:"ip"`
	}
	namespaceObject struct {
		Metadata metadata `json:"metadata"`
	}
)

// decode reads a file. The error joins those of all documents, each with its number;
// the objects are those of the documents that are well.
func decode(data []byte) (objects, error) {
	var out objects
	var errs []error
	for i, doc := range documents(data) {
		if err := out.document(doc); err != nil {
			errs = append(errs, fmt.Errorf("document %d: %w", i+1, err))
		}
	}
	return out, errors.Join(errs...)
}

// documents splits a YAML stream (YAML 1.2, 9.2) at its markers, which stand at the
// beginning of a line and cannot be anything else there.
func documents(data []byte) [][]byte {
	var docs [][]byte
	begin := 0
	for at := 0; at < len(data); {
		end := len(data)
		if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		line := data[at:end]
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0]))) {
			if at > 0 {
				docs = append(docs, data[begin:at])
			}
			begin = at + 3
		}
		at = end
	}
	return append(docs, data[begin:])
}

func (o *objects) document(doc []byte) error {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil
	}
	js, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return errors.New(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n ", ""), "error converting YAML to JSON: "))
	}
	if string(js) == "null" { // only comments
		return nil
	}
	return o.object(js, false)
}

func (o *objects) object(js []byte, inList bool) error {
	var h header
	if err := unmarshal(js, &h); err != nil {
		return err
	}
	switch {
	case h.Kind == "":
		return errors.New("kind: missing; this is not a Kubernetes object")
	case h.APIVersion == "v1" && (h.Kind == "List" || h.Kind == "NodeList" || h.Kind == "PodList" || h.Kind == "NamespaceList"):
		if inList { // would cost the square of its depth
			return errors.New("kind: a List in a List")
		}
		return o.list(h)
	case h.APIVersion == "v1" && h.Kind == "Node":
		return add(&o.nodes, js, h.Kind, newNode)
	case h.APIVersion == "v1" && h.Kind == "Pod":
		return add(&o.pods, js, h.Kind, newPod)
	case h.APIVersion == "v1" && h.Kind == "Namespace":
		return add(&o.namespaces, js, h.Kind, newNamespace)
	}
	o.ignored++
	return nil
}

// list reads the items of a List. Those of a typed list may leave out their kind, as
// the API server does.
func (o *objects) list(h header) error {
	var items []json.RawMessage
	if len(h.Items) > 0 {
		if err := unmarshal(h.Items, &items); err != nil {
			return fmt.Errorf("items: %w", err)
		}
	}
	var errs []error
	for i, js := range items {
		var err error
		switch h.Kind {
		case "NodeList":
			err = add(&o.nodes, js, "Node", newNode)
		case "PodList":
			err = add(&o.pods, js, "Pod", newPod)
		case "NamespaceList":
			err = add(&o.namespaces, js, "Namespace", newNamespace)
		default:
			err = o.object(js, true)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

func add[O, T any](to *[]*T, js []byte, kind string, make func(O) (*T, error)) error {
	var in O
	if err := unmarshal(js, &in); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	out, err := make(in)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	*to = append(*to, out)
	return nil
}

// unmarshal is json.Unmarshal with errors that name the field as a user wrote it.
func unmarshal(js []byte, v any) error {
	err := json.Unmarshal(js, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field == "" {
		return fmt.Errorf("got %s, want an object", wrong.Value)
	} else if errors.As(err, &wrong) {
		return fmt.Errorf("%s: got %s, want %s", wrong.Field, wrong.Value, wrong.Type)
	}
	return err
}

func newNode(in nodeObject) (*Node, error) {
	name := in.Metadata.Name
	if err := checkName("metadata.name", name); err != nil {
		return nil, err
	}
	n := &Node{Name: intern(name), Labels: internLabels(in.Metadata.Labels)}
	cidrs, field := in.Spec.PodCIDRs, "spec.podCIDRs"
	if len(cidrs) == 0 && in.Spec.PodCIDR != "" {
		cidrs, field = []string{in.Spec.PodCIDR}, "spec.podCIDR"
	}
	for i, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%s: %s[%d]: %q is not a CIDR", name, field, i, s)
		}
		if i > 1 || (i == 1 && p.Addr().Is4() == n.PodCIDRs[0].Addr().Is4()) {
			return nil, fmt.Errorf("%s: %s: more than one of a family: %v", name, field, cidrs)
		}
		n.PodCIDRs = append(n.PodCIDRs, p.Masked())
	}
	for i, a := range in.Status.Addresses {
		if a.Type != "InternalIP" {
			continue
		}
		ip, err := parseIP(a.Address)
		if err != nil {
			return nil, fmt.Errorf("%s: status.addresses[%d]: %w", name, i, err)
		}
		n.InternalIPs = append(n.InternalIPs, ip)
	}
	switch {
	case len(n.PodCIDRs) == 0:
		n.Problem = "no spec.podCIDRs"
	case len(n.InternalIPs) == 0:
		n.Problem = "no InternalIP in status.addresses"
	}
	return n, nil
}

func newPod(in podObject) (*Pod, error) {
	if err := checkName("metadata.name", in.Metadata.Name); err != nil {
		return nil, err
	}
	p := &Pod{
		Namespace: intern(in.Metadata.Namespace), Name: in.Metadata.Name, UID: in.Metadata.UID,
		Labels: internLabels(in.Metadata.Labels), Node: intern(in.Spec.NodeName), HostNetwork: in.Spec.HostNetwork,
	}
	if p.Namespace == "" {
		p.Namespace = "default"
	} else if err := checkName("metadata.namespace", p.Namespace); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	if id, ifname, ok := strings.Cut(in.Metadata.Annotations[attachmentAnnotation], "/"); ok {
		p.Attachment = api.Ref{ContainerID: id, IfName: ifname}
	}
	if in.Status.Phase == "Succeeded" || in.Status.Phase == "Failed" {
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

func newNamespace(in namespaceObject) (*Namespace, error) {
	if err := checkName("metadata.name", in.Metadata.Name); err != nil {
		return nil, err
	}
	return &Namespace{Name: intern(in.Metadata.Name), Labels: internLabels(in.Metadata.Labels)}, nil
}

func parseIP(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return ip.Unmap(), nil
}

// checkName wants the characters of an RFC 1123 subdomain, which every name of a Node,
// Pod and Namespace has; a name becomes part of a path.
func checkName(field, name string) error {
	if name == "" {
		return fmt.Errorf("%s: missing", field)
	}
	if !validName(name) {
		return fmt.Errorf("%s: %q is not a name (a-z, 0-9, - and . only)", field, name)
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 253 && s[0] != '.' && s[0] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}

// A thousand nodes have the same few label names and values: they are kept once.
func intern(s string) string { return unique.Make(strings.Clone(s)).Value() }

func internLabels(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[intern(k)] = intern(v)
	}
	return out
}
