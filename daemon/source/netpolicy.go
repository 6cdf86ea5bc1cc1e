package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	netutils "k8s.io/utils/net"
)

// policyObject is a policy as the folder has it. Its spec is read so that a field that is
// not known is an error: a misspelt from would be all sources.
type policyObject struct {
	Metadata metadata        `json:"metadata"`
	Spec     json.RawMessage `json:"spec"`
}

func compareNetworkPolicies(a, b *NetworkPolicy) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// newNetworkPolicy reads a NetworkPolicy. What cannot be read of it allows nothing: the
// error comes with the policy, whose Problem it is, unless that has no name.
func newNetworkPolicy(in policyObject) (*NetworkPolicy, error) {
	p, err := namedPolicy(in.Metadata)
	if err != nil {
		return nil, err
	}
	var spec networkingv1.NetworkPolicySpec
	if err := unmarshalStrict(in.Spec, &spec); err != nil {
		p.close(in.Spec, fmt.Errorf("spec: %w", err))
	} else {
		p.read(&spec)
	}
	if p.Problem != "" {
		return p, errors.New(p.Namespace + "/" + p.Name + ": " + p.Problem)
	}
	return p, nil
}

func namedPolicy(m metadata) (*NetworkPolicy, error) {
	namespace, name, err := nameOf(m)
	if err != nil {
		return nil, err
	}
	return &NetworkPolicy{Namespace: namespace, Name: name, UID: m.UID}, nil
}

// close makes the policy one without rules, because its spec cannot be read. It is about
// the pods that can be read that it is about, else all of its namespace.
func (p *NetworkPolicy) close(spec json.RawMessage, why error) {
	var pods struct {
		PodSelector metav1.LabelSelector `json:"podSelector"`
	}
	p.Problem = why.Error() + "; it allows nothing"
	p.Ingress, p.Egress = &PolicyRules{}, &PolicyRules{}
	if json.Unmarshal(spec, &pods) != nil {
		pods.PodSelector = metav1.LabelSelector{}
	}
	p.readPods(&pods.PodSelector)
}

// read reads the spec as the API server would check it (pkg/apis/networking/validation),
// with the defaults that it would fill in.
func (p *NetworkPolicy) read(spec *networkingv1.NetworkPolicySpec) {
	p.readPods(&spec.PodSelector)
	ingress, egress := len(spec.PolicyTypes) == 0, len(spec.PolicyTypes) == 0 && len(spec.Egress) > 0
	for i, is := range spec.PolicyTypes {
		switch is {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			p.problem("spec.policyTypes[%d]: %q is none of Ingress, Egress; it isolates in both directions", i, is)
			ingress, egress = true, true
		}
	}
	if ingress {
		p.Ingress = &PolicyRules{}
		for i, from := range spec.Ingress {
			p.readRule(p.Ingress, fmt.Sprintf("spec.ingress[%d]", i), "from", from.From, from.Ports)
		}
	}
	if egress {
		p.Egress = &PolicyRules{}
		for i, to := range spec.Egress {
			p.readRule(p.Egress, fmt.Sprintf("spec.egress[%d]", i), "to", to.To, to.Ports)
		}
	}
}

// problem keeps the first.
func (p *NetworkPolicy) problem(format string, args ...any) {
	if p.Problem == "" {
		p.Problem = fmt.Sprintf(format, args...)
	}
}

func (p *NetworkPolicy) readPods(in *metav1.LabelSelector) {
	var err error
	if p.Pods, err = readSelector(in); err != nil {
		p.problem("spec.podSelector: %v; it isolates all pods of its namespace", err)
		p.Pods = labels.Everything()
	}
}

// readRule adds a rule; not one of which something cannot be read.
func (p *NetworkPolicy) readRule(to *PolicyRules, field, peers string, who []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	var rule PolicyRule
	for i := range who {
		peer, err := readPeer(&who[i])
		if err != nil {
			p.problem("%s.%s[%d]%v; the rule allows nothing", field, peers, i, err)
			return
		}
		rule.Peers = append(rule.Peers, peer)
	}
	for i := range ports {
		port, err := readPort(&ports[i])
		if err != nil {
			p.problem("%s.ports[%d]%v; the rule allows nothing", field, i, err)
			return
		}
		rule.Ports = append(rule.Ports, port)
	}
	to.Rules = append(to.Rules, rule)
}

// readPeer's errors, as readPort's, begin with the field below the peer's.
func readPeer(in *networkingv1.NetworkPolicyPeer) (out PolicyPeer, err error) {
	switch {
	case in.IPBlock == nil && in.NamespaceSelector == nil && in.PodSelector == nil:
		return out, errors.New(": none of podSelector, namespaceSelector, ipBlock")
	case in.IPBlock != nil && (in.NamespaceSelector != nil || in.PodSelector != nil):
		return out, errors.New(".ipBlock: it cannot be with podSelector or namespaceSelector")
	case in.IPBlock != nil:
		out.Block, err = readBlock(in.IPBlock)
		return out, err
	}
	if in.NamespaceSelector != nil {
		if out.Namespaces, err = readSelector(in.NamespaceSelector); err != nil {
			return out, fmt.Errorf(".namespaceSelector: %w", err)
		}
	}
	if in.PodSelector != nil {
		if out.Pods, err = readSelector(in.PodSelector); err != nil {
			return out, fmt.Errorf(".podSelector: %w", err)
		}
	}
	return out, nil
}

func readBlock(in *networkingv1.IPBlock) (*PolicyBlock, error) {
	cidr, err := parseBlock(in.CIDR)
	if err != nil {
		return nil, fmt.Errorf(".ipBlock.cidr: %w", err)
	}
	out := &PolicyBlock{CIDR: cidr}
	for i, text := range in.Except {
		except, err := parseBlock(text)
		if err != nil {
			return nil, fmt.Errorf(".ipBlock.except[%d]: %w", i, err)
		}
		if !cidr.Contains(except.Addr()) || except.Bits() <= cidr.Bits() {
			return nil, fmt.Errorf(".ipBlock.except[%d]: %q is not a part of %q", i, text, in.CIDR)
		}
		out.Except = append(out.Except, except)
	}
	return out, nil
}

// parseBlock reads what the API lets through in a policy or as a source range: with zeros
// before the numbers, and IPv4 as part of IPv6, too.
func parseBlock(s string) (netip.Prefix, error) {
	_, block, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	ip, ok := netip.AddrFromSlice(block.IP)
	bits, of := block.Mask.Size()
	if ok && of == 128 && ip.Is4In6() && bits >= 96 {
		ip, bits = ip.Unmap(), bits-96
	}
	if !ok {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	return netip.PrefixFrom(ip, bits).Masked(), nil
}

func readPort(in *networkingv1.NetworkPolicyPort) (out PolicyPort, err error) {
	if out.Protocol, err = parseProtocol(string(value(in.Protocol))); err != nil {
		return out, fmt.Errorf(".protocol: %w", err)
	}
	switch {
	case in.EndPort != nil && (in.Port == nil || in.Port.Type == intstr.String):
		return out, errors.New(".endPort: without a number of the first port")
	case in.Port == nil:
		out.Last = math.MaxUint16
		return out, nil
	case in.Port.Type == intstr.String:
		if wrong := validation.IsValidPortName(in.Port.StrVal); len(wrong) > 0 {
			return out, fmt.Errorf(".port: %q is not the name of a port: %s", in.Port.StrVal, wrong[0])
		}
		out.Name = intern(in.Port.StrVal)
		return out, nil
	}
	if out.First, err = checkPort(".port", int(in.Port.IntVal)); err != nil {
		return out, err
	}
	out.Last = out.First
	if in.EndPort == nil {
		return out, nil
	}
	if out.Last, err = checkPort(".endPort", int(*in.EndPort)); err != nil {
		return out, err
	}
	if out.Last < out.First {
		return out, fmt.Errorf(".endPort: %d is less than port %d", out.Last, out.First)
	}
	return out, nil
}

func readSelector(in *metav1.LabelSelector) (labels.Selector, error) {
	s, err := metav1.LabelSelectorAsSelector(in)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return s, nil
}

// unmarshalStrict is unmarshal, and does not take a field that is not known. Of nothing it
// makes nothing.
func unmarshalStrict(js []byte, v any) error {
	if len(js) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	return fieldError(d.Decode(v))
}
