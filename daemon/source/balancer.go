package source

import (
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BalancerCondition, in the status of a Service, says whether Weft gave it the addresses
// that it wants of its load balancer, and why not. Who has it not never had one of Weft's.
const BalancerCondition = "weft.dev/LoadBalancerAddress"

// Balancer is what of a Service only the allocation of load balancers' addresses goes by.
type Balancer struct {
	IPv4, IPv6 bool   // the families of the Service (spec.ipFamilies, else its ClusterIPs')
	IPv6First  bool   // of both
	NeedsBoth  bool   // ipFamilyPolicy RequireDualStack
	Requested  string // spec.loadBalancerIP, as written
	Condition  Condition
}

// Condition is a [BalancerCondition].
type Condition struct {
	True   bool
	Reason string // "": there is no condition
	// Message says why; "" with the reason [ReasonAllocated], which needs none.
	Message string
}

// ReasonAllocated is the reason of a condition of which there is nothing to say.
const ReasonAllocated = "Allocated"

// Grant is what a Service shall have in its status: who allocates decides it.
type Grant struct {
	// Service is what it was decided by. If it is another by now, the decision is void.
	Service   *Service
	IPs       []netip.Addr // all that it has; IPv4 and IPv6
	Condition Condition    // with Reason "": it shall have none
}

// ErrStale is that a [Grant] was decided by something that is no more.
var ErrStale = errors.New("the Service has changed since")

// conditionObject is what is read of a condition (metav1.Condition).
type conditionObject struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// readBalancer makes s.Balancer, after the addresses were read.
func (s *Service) readBalancer(in *serviceObject) error {
	condition := conditionIn(in.Status.Conditions)
	if s.Type != "LoadBalancer" && condition.Reason == "" {
		return nil
	}
	b := &Balancer{
		Requested: in.Spec.LoadBalancerIP, Condition: condition,
		NeedsBoth: in.Spec.IPFamilyPolicy == string(corev1.IPFamilyPolicyRequireDualStack),
	}
	add := func(ipv6 bool) {
		b.IPv6First = b.IPv6First || ipv6 && !b.IPv4
		b.IPv4, b.IPv6 = b.IPv4 || !ipv6, b.IPv6 || ipv6
	}
	for _, f := range in.Spec.IPFamilies {
		add(f == string(corev1.IPv6Protocol))
	}
	if len(in.Spec.IPFamilies) == 0 {
		for _, a := range s.ClusterIPs {
			add(a.Is6())
		}
	}
	if !b.IPv4 && !b.IPv6 {
		b.IPv4 = true
	}
	s.Balancer = b
	return nil
}

// conditionIn finds ours.
func conditionIn(list []conditionObject) Condition {
	for _, c := range list {
		if c.Type != BalancerCondition || c.Reason == "" {
			continue
		}
		out := Condition{True: c.Status == string(metav1.ConditionTrue), Reason: intern(c.Reason)}
		if out.Reason != ReasonAllocated {
			out.Message = intern(c.Message) // many lack the same
		}
		return out
	}
	return Condition{}
}
