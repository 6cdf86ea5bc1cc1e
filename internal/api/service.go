package api

import (
	"context"
	"strings"
)

// Service is a Service, or a pod with host ports, as `weft services` shows it.
type Service struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Type      string         `json:"type"` // ClusterIP, NodePort, LoadBalancer, ExternalName, or HostPort of a pod
	Served    bool           `json:"served"`
	Fronts    []ServiceFront `json:"fronts"`
	Problems  []string       `json:"problems"`
	// Begun is how many flows began on this node and got a backend. It may begin again at
	// 0; who wants flows per second asks twice. It is there if one Service was asked for,
	// or some.
	Begun uint64 `json:"begun,omitempty"`
	// Backends is there if one Service was asked for.
	Backends []ServiceBackend `json:"backends,omitempty"`
}

// ServiceFront is a place where a Service is served, and by how many.
type ServiceFront struct {
	Addr     string `json:"addr"` // *: all addresses of the node that serve node ports
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	Kind     string `json:"kind"`             // ClusterIP, NodePort, External, LB, HostPort
	Target   string `json:"target,omitempty"` // port of the backends, if it is known
	// Policy is where backends may be, Cluster or Local (this node); empty for a host
	// port. It counts for what comes from outside, for a ClusterIP for what is inside.
	Policy string `json:"policy,omitempty"`
	Ready  int    `json:"ready"` // backends that are, as far as the policy allows them
	Total  int    `json:"total"`
	// Announcer is the node that announces a load balancer's address on the link, if it is
	// Weft's to announce; with a ? if this node does not know but expects it.
	Announcer string `json:"announcer,omitempty"`
}

// ServiceBackend is an endpoint of a Service's port.
type ServiceBackend struct {
	Port     string `json:"port"` // name of the Service's port
	Addr     string `json:"addr"` // address:port
	Protocol string `json:"protocol"`
	Flows    int    `json:"flows"` // through this node: live ones, and connected sockets
	State    string `json:"state"` // ready, terminating (gets what is new if none is ready), not ready, lost (its node does not answer: gets what is new if all others are)
	Node     string `json:"node,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Pod      string `json:"pod,omitempty"` // namespace/name
}

// Services returns what is served on the node; with name, which is NAME or
// NAMESPACE/NAME, only that one, with its backends.
func (c *Client) Services(ctx context.Context, name string) ([]Service, error) {
	var s []Service
	path := PathServices
	if name != "" {
		if !IsServiceName(name) {
			return nil, &Error{Code: CodeUnknown, Msg: "not the name of a Service: " + name}
		}
		path += "/" + name
	}
	return s, c.call(ctx, path, nil, &s)
}

// IsServiceName says whether a text can be NAME or NAMESPACE/NAME: whether it needs no
// escaping in a path.
func IsServiceName(s string) bool {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsFunc(p, func(r rune) bool {
			return r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
		}) {
			return false
		}
	}
	return len(parts) <= 2
}
