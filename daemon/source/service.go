package source

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	headlessLabel          = "service.kubernetes.io/headless" // whatever its value
	proxyNameLabel         = "service.kubernetes.io/service-proxy-name"
	sourceRangesAnnotation = "service.beta.kubernetes.io/load-balancer-source-ranges"
	weftPrefix             = "weft.dev/" // of annotations that are kept

	// What a ClientIP affinity without a timeout lasts, and the longest there is
	// (k8s.io/api/core/v1, ClientIPConfig).
	defaultAffinity = 10800 * time.Second
	maxAffinity     = 86400 * time.Second
)

// Service is what is kept of a Service object (v1).
type Service struct {
	Namespace, Name string
	Type            string       // ClusterIP, NodePort, LoadBalancer or ExternalName
	ClusterIPs      []netip.Addr // at most one of each family; none if Headless or ExternalName
	Headless        bool         // it has no ClusterIP, or nobody shall serve it (its label)
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []LoadBalancerIP // only of Type LoadBalancer
	Ports           []ServicePort
	Affinity        time.Duration // of a client's address to its endpoint; 0: none
	// Traffic from outside, or from pods, goes only to endpoints of the same node.
	ExternalLocal, InternalLocal bool
	HealthCheckNodePort          uint16 // 0: none
	PublishNotReady              bool   // endpoints that are not ready count as ready
	// SourceRanges are who may use the load balancer's addresses, masked; empty: all.
	SourceRanges []netip.Prefix
	Distribution string // "", PreferClose, PreferSameZone or PreferSameNode
	// ProxyName is that of the proxy that shall serve it, or "nobody"; if not empty, it is
	// not ours.
	ProxyName         string
	LoadBalancerClass string
	Selector          []Label           // of its pods, by key; none: its slices are made by somebody else
	Annotations       map[string]string // those that begin with weft.dev/
	// Balancer is nil unless it is of Type LoadBalancer, or was and has Weft's condition.
	Balancer *Balancer
	// Problem says what is missing or left out; "" if nothing.
	Problem string
}

// LoadBalancerIP is an address that a load balancer gave to a Service.
type LoadBalancerIP struct {
	IP netip.Addr
	// Proxy: the balancer sends to the nodes' own addresses (ipMode Proxy), so that
	// nobody but it may serve IP.
	Proxy bool
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name           string
	Protocol       Protocol
	Port, NodePort uint16 // NodePort 0: none
	TargetPort     string // number or name, as written; "": as Port
}

// Label is a name and a value that a selector wants.
type Label struct{ Key, Value string }

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that a port can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

type serviceObject struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Type                  string              `json:"type"`
		ClusterIP             string              `json:"clusterIP"`
		ClusterIPs            []string            `json:"clusterIPs"`
		ExternalIPs           []string            `json:"externalIPs"`
		Ports                 []servicePortObject `json:"ports"`
		Selector              map[string]string   `json:"selector"`
		SessionAffinity       string              `json:"sessionAffinity"`
		SessionAffinityConfig struct {
			ClientIP struct {
				TimeoutSeconds *int64 `json:"timeoutSeconds"`
			} `json:"clientIP"`
		} `json:"sessionAffinityConfig"`
		ExternalTrafficPolicy    string   `json:"externalTrafficPolicy"`
		InternalTrafficPolicy    string   `json:"internalTrafficPolicy"`
		HealthCheckNodePort      int      `json:"healthCheckNodePort"`
		PublishNotReadyAddresses bool     `json:"publishNotReadyAddresses"`
		LoadBalancerSourceRanges []string `json:"loadBalancerSourceRanges"`
		LoadBalancerClass        string   `json:"loadBalancerClass"`
		LoadBalancerIP           string   `json:"loadBalancerIP"`
		IPFamilies               []string `json:"ipFamilies"`
		IPFamilyPolicy           string   `json:"ipFamilyPolicy"`
		TrafficDistribution      string   `json:"trafficDistribution"`
	} `json:"spec"`
	Status serviceStatus `json:"status"`
}

type serviceStatus struct {
	LoadBalancer struct {
		Ingress []ingressObject `json:"ingress"`
	} `json:"loadBalancer"`
	Conditions []conditionObject `json:"conditions,omitempty"`
}

type ingressObject struct {
	IP     string `json:"ip"`
	IPMode string `json:"ipMode,omitempty"`
}

type servicePortObject struct {
	Name       string      `json:"name"`
	Protocol   string      `json:"protocol"`
	Port       int         `json:"port"`
	NodePort   int         `json:"nodePort"`
	TargetPort intOrString `json:"targetPort"`
}

func compareServices(a, b *Service) int {
	if by := strings.Compare(a.Namespace, b.Namespace); by != 0 {
		return by
	}
	return strings.Compare(a.Name, b.Name)
}

func newService(in serviceObject) (*Service, error) {
	namespace, name, err := nameOf(in.Metadata)
	if err != nil {
		return nil, err
	}
	s := &Service{
		Namespace: namespace, Name: name,
		Type:              intern(cmp.Or(in.Spec.Type, "ClusterIP")),
		PublishNotReady:   in.Spec.PublishNotReadyAddresses,
		LoadBalancerClass: intern(in.Spec.LoadBalancerClass),
	}
	if proxy, others := in.Metadata.Labels[proxyNameLabel]; others { // whatever its value
		s.ProxyName = intern(cmp.Or(proxy, "nobody"))
	}
	for k, v := range in.Spec.Selector {
		s.Selector = append(s.Selector, Label{intern(k), intern(v)})
	}
	slices.SortFunc(s.Selector, func(a, b Label) int { return cmp.Compare(a.Key, b.Key) })
	for k, v := range in.Metadata.Annotations {
		if strings.HasPrefix(k, weftPrefix) {
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[intern(k)] = v
		}
	}
	for _, read := range []func(*serviceObject) error{s.readAddresses, s.readPorts, s.readPolicies, s.readRanges, s.readBalancer} {
		if err := read(&in); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", namespace, name, err)
		}
	}
	switch {
	case s.lacks() != "":
		s.Problem = s.lacks()
	case s.Problem == "" && s.Type == "NodePort" && slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.NodePort == 0 }):
		s.Problem = "a port without nodePort; without Kubernetes nobody chooses one"
	}
	return s, nil
}

// lacks says what it needs to be of any use and has not.
func (s *Service) lacks() string {
	switch {
	case s.Headless || s.Type == "ExternalName":
	case len(s.ClusterIPs) == 0:
		return "no spec.clusterIP"
	case len(s.Ports) == 0:
		return "no spec.ports"
	}
	return ""
}

// nameOf reads the name of an object that is in a namespace.
func nameOf(m metadata) (namespace, name string, err error) {
	if err := checkName("metadata.name", m.Name); err != nil {
		return "", "", err
	}
	if m.Namespace == "" {
		m.Namespace = "default"
	} else if err := checkName("metadata.namespace", m.Namespace); err != nil {
		return "", "", fmt.Errorf("%s: %w", m.Name, err)
	}
	return intern(m.Namespace), m.Name, nil
}

func (s *Service) readAddresses(in *serviceObject) error {
	switch s.Type {
	case "ClusterIP", "NodePort", "LoadBalancer":
	case "ExternalName":
		return nil
	default:
		return fmt.Errorf("spec.type: %q is none of ClusterIP, NodePort, LoadBalancer, ExternalName", s.Type)
	}
	ips, field := in.Spec.ClusterIPs, "spec.clusterIPs"
	if len(ips) == 0 && in.Spec.ClusterIP != "" {
		ips, field = []string{in.Spec.ClusterIP}, "spec.clusterIP"
	}
	_, labelled := in.Metadata.Labels[headlessLabel]
	s.Headless = labelled || len(ips) == 1 && ips[0] == "None"
	for i, text := range ips {
		if s.Headless {
			break
		}
		ip, err := ordinaryIP(text)
		if err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		if i > 1 || (i == 1 && ip.Is4() == s.ClusterIPs[0].Is4()) {
			return fmt.Errorf("%s: more than one of a family: %v", field, ips)
		}
		s.ClusterIPs = append(s.ClusterIPs, ip)
	}
	for i, text := range in.Spec.ExternalIPs {
		ip, err := ordinaryIP(text)
		if err != nil {
			return fmt.Errorf("spec.externalIPs[%d]: %w", i, err)
		}
		s.ExternalIPs = append(s.ExternalIPs, ip)
	}
	if s.Type != "LoadBalancer" {
		return nil
	}
	for i, from := range in.Status.LoadBalancer.Ingress {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d]", i)
		if from.IP == "" { // only a host name
			continue
		}
		ip, err := parseIP(from.IP)
		if err != nil {
			return fmt.Errorf("%s.ip: %w", field, err)
		}
		if from.IPMode != "" && from.IPMode != "VIP" && from.IPMode != "Proxy" {
			return fmt.Errorf("%s.ipMode: %q is none of VIP, Proxy", field, from.IPMode)
		}
		if is := special(ip); is != "" {
			s.Problem = fmt.Sprintf("%s.ip: %s is %s; it is left out", field, ip, is)
			continue
		}
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, LoadBalancerIP{IP: ip, Proxy: from.IPMode == "Proxy"})
	}
	return nil
}

func (s *Service) readPorts(in *serviceObject) error {
	for i, from := range in.Spec.Ports {
		field := fmt.Sprintf("spec.ports[%d]", i)
		port, err := newServicePort(field, from)
		if err != nil {
			return err
		}
		switch {
		case len(in.Spec.Ports) > 1 && port.Name == "":
			return fmt.Errorf("%s.name: missing; with more than one port each needs a name", field)
		case port.NodePort != 0 && s.Type != "NodePort" && s.Type != "LoadBalancer":
			return fmt.Errorf("%s.nodePort: a Service of type %s has none", field, s.Type)
		}
		for j, other := range s.Ports {
			switch {
			case other.Name == port.Name:
				return fmt.Errorf("%s.name: %q is the name of spec.ports[%d], too", field, port.Name, j)
			case other.Protocol == port.Protocol && other.Port == port.Port:
				return fmt.Errorf("%s: %s %d is spec.ports[%d], too", field, port.Protocol, port.Port, j)
			case other.Protocol == port.Protocol && other.NodePort == port.NodePort && port.NodePort != 0:
				return fmt.Errorf("%s: nodePort %s %d is that of spec.ports[%d], too", field, port.Protocol, port.NodePort, j)
			}
		}
		s.Ports = append(s.Ports, port)
	}
	if in.Spec.HealthCheckNodePort != 0 {
		var err error
		s.HealthCheckNodePort, err = checkPort("spec.healthCheckNodePort", in.Spec.HealthCheckNodePort)
		return err
	}
	return nil
}

func newServicePort(field string, in servicePortObject) (p ServicePort, err error) {
	p.Name, p.TargetPort = intern(in.Name), intern(string(in.TargetPort))
	if p.Protocol, err = parseProtocol(in.Protocol); err != nil {
		return p, fmt.Errorf("%s.protocol: %w", field, err)
	}
	if p.Port, err = checkPort(field+".port", in.Port); err != nil {
		return p, err
	}
	if in.NodePort != 0 {
		if p.NodePort, err = checkPort(field+".nodePort", in.NodePort); err != nil {
			return p, err
		}
	}
	if _, err := targetPort(p); err != nil {
		return p, fmt.Errorf("%s.targetPort: %w", field, err)
	}
	return p, nil
}

func (s *Service) readPolicies(in *serviceObject) (err error) {
	if s.ExternalLocal, err = isLocal(in.Spec.ExternalTrafficPolicy); err != nil {
		return fmt.Errorf("spec.externalTrafficPolicy: %w", err)
	}
	if s.InternalLocal, err = isLocal(in.Spec.InternalTrafficPolicy); err != nil {
		return fmt.Errorf("spec.internalTrafficPolicy: %w", err)
	}
	switch a := in.Spec.SessionAffinity; a {
	case "", "None":
	case "ClientIP":
		s.Affinity = defaultAffinity
		if secs := in.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds; secs != nil {
			if *secs < 1 || *secs > int64(maxAffinity/time.Second) {
				return fmt.Errorf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not 1 to %d", *secs, maxAffinity/time.Second)
			}
			s.Affinity = time.Duration(*secs) * time.Second
		}
	default:
		return fmt.Errorf("spec.sessionAffinity: %q is none of None, ClientIP", a)
	}
	switch d := in.Spec.TrafficDistribution; d {
	case "", "PreferClose", "PreferSameZone", "PreferSameNode":
		s.Distribution = intern(d)
	default: // newer than we are; it is only a wish
		s.Problem = fmt.Sprintf("spec.trafficDistribution: %q is not known; it is left out", d)
	}
	return nil
}

func isLocal(policy string) (bool, error) {
	switch policy {
	case "", "Cluster":
		return false, nil
	case "Local":
		return true, nil
	}
	return false, fmt.Errorf("%q is none of Cluster, Local", policy)
}

func (s *Service) readRanges(in *serviceObject) error {
	ranges, field := in.Spec.LoadBalancerSourceRanges, "spec.loadBalancerSourceRanges"
	if text := strings.TrimSpace(in.Metadata.Annotations[sourceRangesAnnotation]); len(ranges) == 0 && text != "" {
		ranges, field = strings.Split(text, ","), "metadata.annotations: "+sourceRangesAnnotation
	}
	for i, text := range ranges {
		p, err := parseBlock(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		s.SourceRanges = append(s.SourceRanges, p)
	}
	return nil
}
