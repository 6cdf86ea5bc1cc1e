package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What is read of a ClusterNetworkPolicy (apis/v1alpha2 of sigs.k8s.io/network-policy-api
// v0.2.0). These are not that module's types: what a peer or a protocol says that we do not
// know must be seen to be there.
type (
	clusterPolicySpec struct {
		Tier     string              `json:"tier"`
		Priority *int32              `json:"priority"`
		Subject  clusterPods         `json:"subject"`
		Ingress  []clusterRuleObject `json:"ingress"`
		Egress   []clusterRuleObject `json:"egress"`
	}
	clusterPods struct {
		Namespaces *metav1.LabelSelector `json:"namespaces"`
		Pods       *struct {
			NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
			PodSelector       metav1.LabelSelector `json:"podSelector"`
		} `json:"pods"`
	}
	clusterRuleObject struct {
		Name      string                  `json:"name"`
		Action    string                  `json:"action"`
		From      []clusterPeerObject     `json:"from"`
		To        []clusterPeerObject     `json:"to"`
		Protocols []clusterProtocolObject `json:"protocols"`
	}
	clusterPeerObject struct {
		clusterPods
		Nodes       *metav1.LabelSelector `json:"nodes"`
		Networks    []string              `json:"networks"`
		DomainNames []string              `json:"domainNames"`
	}
	clusterProtocolObject struct {
		TCP   *clusterPortObject `json:"tcp"`
		UDP   *clusterPortObject `json:"udp"`
		SCTP  *clusterPortObject `json:"sctp"`
		Named string             `json:"destinationNamedPort"`
	}
	clusterPortObject struct {
		DestinationPort struct {
			Number int `json:"number"`
			Range  *struct {
				Start int `json:"start"`
				End   int `json:"end"`
			} `json:"range"`
		} `json:"destinationPort"`
	}
)

// everywhere is all addresses.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// denyAll stands for what cannot be read and could deny (the API's "fail closed").
func denyAll(name string) ClusterRule {
	return ClusterRule{Name: name, Action: ClusterDeny, Peers: []ClusterPeer{{Networks: everywhere()}}}
}

func compareClusterPolicies(a, b *ClusterPolicy) int { return strings.Compare(a.Name, b.Name) }

// newClusterPolicy reads a ClusterNetworkPolicy. If something of it cannot be read, the
// error comes with the policy, whose Problem it is, unless that has no name. A rule of which
// something cannot be read matches nothing if it accepts, and else denies everything.
func newClusterPolicy(in policyObject) (*ClusterPolicy, error) {
	p, valid, err := readClusterPolicy(in)
	if err == nil && !valid {
		err = errors.New(p.Name + ": " + p.Problem)
	}
	return p, err
}

func readClusterPolicy(in policyObject) (p *ClusterPolicy, valid bool, err error) {
	if err := checkName("metadata.name", in.Metadata.Name); err != nil {
		return nil, false, err
	}
	r := clusterReader{p: &ClusterPolicy{Name: in.Metadata.Name, UID: in.Metadata.UID}}
	var spec clusterPolicySpec
	unknown := unmarshalStrict(in.Spec, &spec)
	if unknown == nil {
		r.read(&spec)
		return r.p, !r.invalid, nil
	}
	spec = clusterPolicySpec{}
	if len(in.Spec) > 0 && json.Unmarshal(in.Spec, &spec) != nil {
		r.close(in.Spec, unknown)
		return r.p, false, nil
	}
	r.read(&spec)
	if r.p.Problem == "" {
		r.p.Problem = "spec: " + unknown.Error() + "; it is left out"
	}
	return r.p, false, nil
}

// clusterReader reads into a policy.
type clusterReader struct {
	p       *ClusterPolicy
	invalid bool // it is no such object as the API server lets through
}

// wrong keeps the first.
func (r *clusterReader) wrong(format string, args ...any) {
	if r.p.Problem == "" || !r.invalid {
		r.p.Problem = fmt.Sprintf(format, args...)
	}
	r.invalid = true
}

// close makes the policy one that denies all, because its spec cannot be read, as far as
// the pods that it is about can be.
func (r *clusterReader) close(spec json.RawMessage, why error) {
	var subject struct {
		Subject clusterPods `json:"subject"`
	}
	r.wrong("spec: %v; it denies everything", why)
	if json.Unmarshal(spec, &subject) != nil {
		subject.Subject = clusterPods{}
	}
	r.readSubject(&subject.Subject)
	r.p.Ingress, r.p.Egress = []ClusterRule{denyAll("")}, []ClusterRule{denyAll("")}
}

func (r *clusterReader) read(spec *clusterPolicySpec) {
	r.readSubject(&spec.Subject)
	for i := range spec.Ingress {
		rule := &spec.Ingress[i]
		r.p.Ingress = append(r.p.Ingress, r.readRule(fmt.Sprintf("spec.ingress[%d]", i), "from", rule, rule.From))
	}
	for i := range spec.Egress {
		rule := &spec.Egress[i]
		r.p.Egress = append(r.p.Egress, r.readRule(fmt.Sprintf("spec.egress[%d]", i), "to", rule, rule.To))
	}
	r.p.Baseline = spec.Tier == "Baseline"
	switch {
	case spec.Tier != "Admin" && spec.Tier != "Baseline":
		r.wrong("spec.tier: %q is none of Admin, Baseline; it denies everything", spec.Tier)
	case spec.Priority == nil:
		r.wrong("spec.priority: missing; it denies everything")
	case *spec.Priority < 0 || *spec.Priority > 1000:
		r.wrong("spec.priority: %d is not 0 to 1000; it denies everything", *spec.Priority)
	default:
		r.p.Priority = *spec.Priority
		return
	}
	for _, rules := range []*[]ClusterRule{&r.p.Ingress, &r.p.Egress} {
		if len(*rules) > 0 {
			*rules = []ClusterRule{denyAll("")}
		}
	}
}

func (r *clusterReader) readSubject(in *clusterPods) {
	var err error
	if r.p.Namespaces, r.p.Pods, err = in.read(); err != nil {
		r.wrong("spec.subject%v; it is about no pods", err)
		r.p.Namespaces, r.p.Pods = labels.Nothing(), nil
	}
}

// read's errors, and those of the functions below, begin with the field below that of in.
func (in *clusterPods) read() (namespaces, pods labels.Selector, err error) {
	switch {
	case (in.Namespaces == nil) == (in.Pods == nil):
		return nil, nil, errors.New(": not one of namespaces, pods")
	case in.Namespaces != nil:
		if namespaces, err = readSelector(in.Namespaces); err != nil {
			err = fmt.Errorf(".namespaces: %w", err)
		}
		return namespaces, nil, err
	}
	if namespaces, err = readSelector(&in.Pods.NamespaceSelector); err != nil {
		return nil, nil, fmt.Errorf(".pods.namespaceSelector: %w", err)
	}
	if pods, err = readSelector(&in.Pods.PodSelector); err != nil {
		return nil, nil, fmt.Errorf(".pods.podSelector: %w", err)
	}
	return namespaces, pods, nil
}

// readRule reads a rule or, if it cannot, makes the one that is closed in its stead.
func (r *clusterReader) readRule(field, peers string, in *clusterRuleObject, who []clusterPeerObject) ClusterRule {
	rule := ClusterRule{Name: in.Name}
	closed := func(format string, args ...any) ClusterRule {
		if rule.Action == ClusterAccept {
			r.wrong(field+format+"; the rule matches nothing", args...)
			return ClusterRule{Name: in.Name, Action: ClusterAccept}
		}
		r.wrong(field+format+"; the rule denies everything", args...)
		return denyAll(in.Name)
	}
	switch in.Action {
	case "Accept":
		rule.Action = ClusterAccept
	case "Deny":
		rule.Action = ClusterDeny
	case "Pass":
		rule.Action = ClusterPass
	default:
		return closed(".action: %q is none of Accept, Deny, Pass", in.Action)
	}
	if len(who) == 0 {
		return closed(".%s: missing", peers)
	}
	byAddress := false
	for i := range who {
		at := fmt.Sprintf(".%s[%d]", peers, i)
		peer, err := who[i].read(peers == "to")
		switch {
		case errors.Is(err, errNames) && rule.Action == ClusterAccept:
			if r.p.Problem == "" { // the object is well; it is we who lack something
				r.p.Problem = field + at + err.Error() + "; nothing is accepted for their sake"
			}
			continue
		case err != nil:
			return closed("%s%v", at, err)
		}
		byAddress = byAddress || peer.Namespaces == nil
		rule.Peers = append(rule.Peers, peer)
	}
	for i := range in.Protocols {
		port, err := in.Protocols[i].read()
		if err == nil && port.Name != "" && byAddress {
			err = errors.New(".destinationNamedPort: nodes and networks have no ports with names")
		}
		if err != nil {
			return closed(".protocols[%d]%v", i, err)
		}
		rule.Ports = append(rule.Ports, port)
	}
	return rule
}

// errNames is that a peer is domain names.
var errNames = errors.New(".domainNames: names are not supported")

func (in *clusterPeerObject) read(egress bool) (out ClusterPeer, err error) {
	fields := 0
	for _, set := range []bool{in.Namespaces != nil, in.Pods != nil, in.Nodes != nil, len(in.Networks) > 0, len(in.DomainNames) > 0} {
		if set {
			fields++
		}
	}
	switch {
	case !egress && (fields != 1 || (in.Namespaces == nil && in.Pods == nil)):
		return out, errors.New(": not one of namespaces, pods")
	case fields != 1:
		return out, errors.New(": not one of namespaces, pods, nodes, networks, domainNames")
	case len(in.DomainNames) > 0:
		return out, errNames
	case in.Nodes != nil:
		if out.Nodes, err = readSelector(in.Nodes); err != nil {
			err = fmt.Errorf(".nodes: %w", err)
		}
		return out, err
	case len(in.Networks) == 0:
		out.Namespaces, out.Pods, err = in.clusterPods.read()
		return out, err
	}
	for i, text := range in.Networks {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return out, fmt.Errorf(".networks[%d]: %q is not a CIDR", i, text)
		}
		out.Networks = append(out.Networks, p.Masked())
	}
	return out, nil
}

func (in *clusterProtocolObject) read() (out PolicyPort, err error) {
	fields, field := 0, ""
	var port *clusterPortObject
	for _, is := range []struct {
		field    string
		protocol Protocol
		port     *clusterPortObject
	}{{"tcp", TCP, in.TCP}, {"udp", UDP, in.UDP}, {"sctp", SCTP, in.SCTP}} {
		if is.port != nil {
			fields++
			out.Protocol, port, field = is.protocol, is.port, "."+is.field+".destinationPort"
		}
	}
	switch {
	case fields == 0 && in.Named != "":
		if wrong := validation.IsValidPortName(in.Named); len(wrong) > 0 {
			return out, fmt.Errorf(".destinationNamedPort: %q is not the name of a port: %s", in.Named, wrong[0])
		}
		out.Name = intern(in.Named)
		return out, nil
	case fields != 1 || in.Named != "":
		return out, errors.New(": not one of tcp, udp, sctp, destinationNamedPort")
	}
	number, ports := port.DestinationPort.Number, port.DestinationPort.Range
	switch {
	case (number == 0) == (ports == nil):
		return out, fmt.Errorf("%s: not one of number, range", field)
	case ports == nil:
		out.First, err = checkPort(field+".number", number)
		out.Last = out.First
		return out, err
	}
	if out.First, err = checkPort(field+".range.start", ports.Start); err != nil {
		return out, err
	}
	if out.Last, err = checkPort(field+".range.end", ports.End); err != nil {
		return out, err
	}
	if out.First >= out.Last {
		return out, fmt.Errorf("%s.range: start %d is not less than end %d", field, out.First, out.Last)
	}
	return out, nil
}
