package source

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
)

const serviceLabel = "kubernetes.io/service-name"

// EndpointSlice is what is kept of an EndpointSlice object (discovery.k8s.io/v1), or
// what was derived from pods because there is none.
type EndpointSlice struct {
	Namespace, Name string
	Service         string // the name of its Service
	IPv6            bool
	Ports           []SlicePort // without those that have no number
	Endpoints       []SliceEndpoint
	// Problem says what is left out; "" if nothing.
	Problem string
}

// SlicePort is where the endpoints of a slice receive what the Service port of that
// name gets.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// SliceEndpoint is a receiver.
type SliceEndpoint struct {
	IP                          netip.Addr // the first; all addresses of an endpoint are equally good
	Ready, Serving, Terminating bool
	Node, Zone                  string // "": not known
	Hints                       *Hints // nil: none; slices' endpoints share equal ones
	// TargetUID tells this receiver from a later one with the same address: its UID,
	// or namespace/name if it has none; "" without a targetRef.
	TargetUID string
	TargetPod string // namespace/name, if it is a Pod
}

// Hints are for whom an endpoint is, if everybody follows them.
type Hints struct{ ForZones, ForNodes []string }

// ForZones is the zones that an endpoint is for, by its hints.
func (e *SliceEndpoint) ForZones() []string {
	if e.Hints == nil {
		return nil
	}
	return e.Hints.ForZones
}

// ForNodes is the nodes that an endpoint is for, by its hints.
func (e *SliceEndpoint) ForNodes() []string {
	if e.Hints == nil {
		return nil
	}
	return e.Hints.ForNodes
}

type sliceObject struct {
	Metadata    metadata          `json:"metadata"`
	AddressType string            `json:"addressType"`
	Ports       []slicePortObject `json:"ports"`
	Endpoints   []endpointObject  `json:"endpoints"`
}

type slicePortObject struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     *int   `json:"port"`
}

type endpointObject struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	NodeName string `json:"nodeName"`
	Zone     string `json:"zone"`
	Hints    struct {
		ForZones []hintObject `json:"forZones"`
		ForNodes []hintObject `json:"forNodes"`
	} `json:"hints"`
	TargetRef *targetObject `json:"targetRef"`
}

type targetObject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

type hintObject struct {
	Name string `json:"name"`
}

func compareSlices(a, b *EndpointSlice) int {
	if by := strings.Compare(a.Namespace, b.Namespace); by != 0 {
		return by
	}
	return strings.Compare(a.Name, b.Name)
}

// newSlice returns nil for a slice of no Service, for one of host names, and for one that a
// label, whatever its value, keeps from the cluster's service proxy: kube-proxy watches no
// objects with one of these (cmd/kube-proxy/app/server.go).
// share returns a string that is equal to its argument; those of many endpoints should be
// one in memory.
func newSlice(in sliceObject, share func(string) string) (*EndpointSlice, error) {
	namespace, name, err := nameOf(in.Metadata)
	if err != nil {
		return nil, err
	}
	service := in.Metadata.Labels[serviceLabel]
	_, headless := in.Metadata.Labels[headlessLabel]
	_, others := in.Metadata.Labels[proxyNameLabel]
	if service == "" || in.AddressType == "FQDN" || headless || others {
		return nil, nil
	}
	s := &EndpointSlice{Namespace: namespace, Name: name, Service: service, IPv6: in.AddressType == "IPv6"}
	wrong := func(format string, args ...any) (*EndpointSlice, error) {
		return nil, fmt.Errorf("%s/%s: %w", namespace, name, fmt.Errorf(format, args...))
	}
	if !s.IPv6 && in.AddressType != "IPv4" {
		return wrong("addressType: %q is none of IPv4, IPv6, FQDN", in.AddressType)
	}
	if !validName(service) {
		return wrong("metadata.labels: %s: %q is not a name (a-z, 0-9, - and . only)", serviceLabel, service)
	}
	for i, from := range in.Ports {
		proto, err := parseProtocol(from.Protocol)
		if err != nil {
			return wrong("ports[%d].protocol: %w", i, err)
		}
		if from.Port == nil { // of a headless Service without ports: nothing to translate to
			continue
		}
		port, err := checkPort(fmt.Sprintf("ports[%d].port", i), *from.Port)
		if err != nil {
			return wrong("%w", err)
		}
		s.Ports = append(s.Ports, SlicePort{share(from.Name), proto, port})
	}
	s.Endpoints = make([]SliceEndpoint, 0, len(in.Endpoints))
	for i := range in.Endpoints {
		e, err := newEndpoint(s, &in.Endpoints[i], share)
		if n := len(s.Endpoints); n > 0 && e.Hints != nil && reflect.DeepEqual(e.Hints, s.Endpoints[n-1].Hints) {
			e.Hints = s.Endpoints[n-1].Hints
		}
		if err != nil {
			return wrong("endpoints[%d].%w", i, err)
		}
		if is := special(e.IP); is != "" {
			s.Problem = cmp.Or(s.Problem, fmt.Sprintf("endpoints[%d].addresses[0]: %s is %s; it is left out", i, e.IP, is))
			continue
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s, nil
}

func newEndpoint(s *EndpointSlice, in *endpointObject, share func(string) string) (SliceEndpoint, error) {
	var e SliceEndpoint
	if len(in.Addresses) == 0 {
		return e, fmt.Errorf("addresses: missing")
	}
	ip, err := parseIP(in.Addresses[0])
	if err != nil {
		return e, fmt.Errorf("addresses[0]: %w", err)
	}
	if ip.Is6() != s.IPv6 {
		return e, fmt.Errorf("addresses[0]: %s is not of the slice's addressType", ip)
	}
	yes, no := true, false
	e = SliceEndpoint{
		IP:          ip,
		Ready:       *cmp.Or(in.Conditions.Ready, &yes),
		Terminating: *cmp.Or(in.Conditions.Terminating, &no),
		Node:        share(in.NodeName), Zone: share(in.Zone),
		Hints: newHints(hints(in.Hints.ForZones, share), hints(in.Hints.ForNodes, share)),
	}
	e.Serving = *cmp.Or(in.Conditions.Serving, &e.Ready)
	if to := in.TargetRef; to != nil {
		e.TargetUID = to.UID
		path := cmp.Or(to.Namespace, s.Namespace) + "/" + to.Name
		if to.Kind == "Pod" {
			e.TargetPod = path
		}
		if e.TargetUID == "" {
			e.TargetUID = path
		}
	}
	return e, nil
}

func newHints(zones, nodes []string) *Hints {
	if len(zones)+len(nodes) == 0 {
		return nil
	}
	return &Hints{zones, nodes}
}

func hints(in []hintObject, share func(string) string) []string {
	if len(in) == 0 {
		return nil
	}
	out := make([]string, len(in))
	for i, h := range in {
		out[i] = share(h.Name)
	}
	return out
}
