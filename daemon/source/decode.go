package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"unique"

	netutils "k8s.io/utils/net"
	"sigs.k8s.io/yaml"
)

// objects are those of one file.
type objects struct {
	nodes      []*Node
	pods       []*Pod
	namespaces []*Namespace
	services   []*Service
	slices     []*EndpointSlice
	policies   []*NetworkPolicy
	cluster    []*ClusterPolicy
	ignored    int
	// unsure says that something was left out which policies may need: one of them, or
	// what they are about.
	unsure bool
}

// The parts of the API objects that are read (k8s.io/api/core/v1; those of Services and
// EndpointSlices are beside what is made of them). Everything else in
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
		Deletion    string            `json:"deletionTimestamp,omitempty"`
	}
	nodeObject struct {
		Metadata metadata `json:"metadata"`
		Spec     struct {
			PodCIDR  string   `json:"podCIDR"`
			PodCIDRs []string `json:"podCIDRs"`
		} `json:"spec"`
		Status struct {
			Addresses []nodeAddress `json:"addresses"`
		} `json:"status"`
	}
	nodeAddress struct {
		Type    string `json:"type"`
		Address string `json:"address"`
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
		o.unsure = true
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
		o.unsure = true
		return err
	}
	if h.Kind == "" {
		o.unsure = true
		return errors.New("kind: missing; this is not a Kubernetes object")
	}
	kind, isList := strings.CutSuffix(h.APIVersion+" "+h.Kind, "List")
	read := o.readerOf(kind)
	switch {
	case isList && (read != nil || kind == "v1 "):
		if inList { // would cost the square of its depth
			o.unsure = true
			return errors.New("kind: a List in a List")
		}
		return o.list(h, read)
	case read != nil && !isList:
		return read(js)
	}
	o.ignored++
	return nil
}

// readerOf is what reads objects of a kind, nil if it is not one of ours.
func (o *objects) readerOf(kind string) func(js []byte) error {
	switch kind {
	case "v1 Node":
		return func(js []byte) error { return add(o, &o.nodes, js, "Node", newNode) }
	case "v1 Pod":
		return func(js []byte) error { return add(o, &o.pods, js, "Pod", newPod) }
	case "v1 Namespace":
		return func(js []byte) error { return add(o, &o.namespaces, js, "Namespace", newNamespace) }
	case "v1 Service":
		return func(js []byte) error { return add(o, &o.services, js, "Service", newService) }
	case "discovery.k8s.io/v1 EndpointSlice":
		return func(js []byte) error { return add(o, &o.slices, js, "EndpointSlice", internedSlice) }
	case "networking.k8s.io/v1 NetworkPolicy":
		return func(js []byte) error { return add(o, &o.policies, js, "NetworkPolicy", newNetworkPolicy) }
	case "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy":
		return func(js []byte) error { return add(o, &o.cluster, js, "ClusterNetworkPolicy", newClusterPolicy) }
	}
	return nil
}

// list reads the items of a List. Those of a typed list may leave out their kind, as
// the API server does; for one of any kinds, read is nil.
func (o *objects) list(h header, read func(js []byte) error) error {
	var items []json.RawMessage
	if len(h.Items) > 0 {
		if err := unmarshal(h.Items, &items); err != nil {
			o.unsure = true
			return fmt.Errorf("items: %w", err)
		}
	}
	if read == nil {
		read = func(js []byte) error { return o.object(js, true) }
	}
	var errs []error
	for i, js := range items {
		if err := read(js); err != nil {
			errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// add reads one object with make, which returns nil for one that is not for us, and both
// what counts of an object and what is wrong with it.
func add[O, T any](o *objects, to *[]*T, js []byte, kind string, make func(O) (*T, error)) error {
	var in O
	var out *T
	err := unmarshal(js, &in)
	if err == nil {
		out, err = make(in)
	}
	switch {
	case out != nil:
		*to = append(*to, out)
	case err == nil:
		o.ignored++
	case kind != "Service" && kind != "EndpointSlice":
		o.unsure = true
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

// unmarshal is json.Unmarshal with errors that name the field as a user wrote it.
func unmarshal(js []byte, v any) error { return fieldError(json.Unmarshal(js, v)) }

func fieldError(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field == "" {
		return fmt.Errorf("got %s, want an object", wrong.Value)
	} else if errors.As(err, &wrong) && wrong.Type == reflect.TypeFor[intOrString]() {
		return fmt.Errorf("%s: got %s, want a number or a string", wrong.Field, wrong.Value)
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
	n := &Node{Name: intern(name), UID: in.Metadata.UID, Labels: internLabels(in.Metadata.Labels)}
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

// namespaceLabel has the name of its Namespace; the API server sees to it.
const namespaceLabel = "kubernetes.io/metadata.name"

func newNamespace(in namespaceObject) (*Namespace, error) {
	if err := checkName("metadata.name", in.Metadata.Name); err != nil {
		return nil, err
	}
	n := &Namespace{Name: intern(in.Metadata.Name), Labels: internLabels(in.Metadata.Labels)}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[namespaceLabel] = n.Name
	return n, nil
}

// parseIP reads what the API lets through, with zeros before the numbers of IPv4, too: objects
// have that from before the API server warned of it (KEP-4858).
func parseIP(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		ip, _ = netip.AddrFromSlice(netutils.ParseIPSloppy(s))
	}
	if !ip.IsValid() || ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return ip.Unmap(), nil
}

// checkName wants the characters of an RFC 1123 subdomain, which the name of every object
// here has; a name becomes part of a path.
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
func intern(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value() // which copies what it does not have
}

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

func internedSlice(in sliceObject) (*EndpointSlice, error) { return newSlice(in, intern) }
