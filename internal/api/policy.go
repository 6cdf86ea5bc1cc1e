package api

import (
	"context"
	"net/netip"
)

// Policy is a policy of the cluster, as `weft policy` shows it.
type Policy struct {
	Kind      string `json:"kind"` // NetworkPolicy or ClusterNetworkPolicy
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Tier      string `json:"tier,omitempty"`     // Admin or Baseline, of a ClusterNetworkPolicy
	Priority  int32  `json:"priority,omitempty"` // likewise
	// Directions in which it has something to say: ingress, egress.
	Directions []string `json:"directions"`
	Pods       int      `json:"pods"`              // of this node that it is about
	Problem    string   `json:"problem,omitempty"` // what of it cannot be applied
}

// PodPolicy is what policies mean for one attachment of this node, in words.
type PodPolicy struct {
	Ref
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addrs     []netip.Addr `json:"addrs"`
	Ingress   PodRules     `json:"ingress"`
	Egress    PodRules     `json:"egress"`
	Words     []string     `json:"words"` // what applies, a line each
}

// PodRules is [PodPolicy] in one direction.
type PodRules struct {
	State string `json:"state"`         // open, isolated, or closed: nothing passes
	Set   string `json:"set,omitempty"` // of rules, as the kernel names it
}

// States of [PodRules].
const (
	PodOpen     = "open"
	PodIsolated = "isolated"
	PodClosed   = "closed"
)

// ExplainRequest asks what becomes of a packet. From is a pod (NAME or NAMESPACE/NAME) or an
// address; To is one, or a Service, with or without :PORT and /PROTOCOL.
type ExplainRequest struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Explanation is what becomes of the first packet of a flow, by family.
type Explanation struct {
	Ways []ExplainedWay `json:"ways"`
}

// ExplainedWay is what becomes of it in one family.
type ExplainedWay struct {
	Protocol string  `json:"protocol"`
	From     DropEnd `json:"from"`
	To       DropEnd `json:"to"` // as it is sent
	// Service is which Service To is a place of, Backend which of its backends is chosen.
	Service string    `json:"service,omitempty"`
	Backend *DropEnd  `json:"backend,omitempty"`
	Egress  Judgement `json:"egress"`  // at the sender
	Ingress Judgement `json:"ingress"` // at the receiver
	Verdict string    `json:"verdict"` // allowed, denied or unknown: another node has an end
	// Reason is why it does not pass on this node, as in [Counter].
	Reason string `json:"reason,omitempty"`
}

// Judgement is what one end's policies say.
type Judgement struct {
	Verdict string `json:"verdict"`           // allowed, denied, unknown, or none: no policy is asked
	Policy  string `json:"policy,omitempty"`  // that decides
	Rule    string `json:"rule,omitempty"`    // which of its rules; empty: default deny
	Why     string `json:"why"`               // all of it in words
	AskNode string `json:"askNode,omitempty"` // the node that knows, if it is another one
}

// Verdicts of an [ExplainedWay] and a [Judgement].
const (
	VerdictAllowed = "allowed"
	VerdictDenied  = "denied"
	VerdictUnknown = "unknown"
	VerdictNone    = "none"
)

// Validate returns an [*Error] that names the first bad field, or nil.
func (r ExplainRequest) Validate() error {
	for _, text := range []string{r.From, r.To} {
		if text == "" || len(text) > 1024 {
			return &Error{Code: CodeBadConfig, Msg: "from and to must name a pod, an address or a Service"}
		}
	}
	return nil
}

// Policies returns the policies of the cluster.
func (c *Client) Policies(ctx context.Context) ([]Policy, error) {
	var p []Policy
	return p, c.call(ctx, PathPolicies, nil, &p)
}

// PodPolicy returns what policies mean for a pod of the node: NAME, NAMESPACE/NAME, or one
// of its addresses.
func (c *Client) PodPolicy(ctx context.Context, pod string) ([]PodPolicy, error) {
	if _, err := netip.ParseAddr(pod); err != nil && !IsServiceName(pod) {
		return nil, &Error{Code: CodeUnknown, Msg: "not the name of a pod: " + pod}
	}
	var p []PodPolicy
	return p, c.call(ctx, PathPodPolicy+"/"+pod, nil, &p)
}

// Explain returns what becomes of a packet.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	var e Explanation
	return e, c.call(ctx, PathExplain, r, &e)
}
