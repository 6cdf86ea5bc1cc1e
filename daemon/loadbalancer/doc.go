// Package loadbalancer decides which addresses Services of type LoadBalancer have: from
// pools, by what Services ask for and by what they have. It is pure: the same pools and
// Services give the same decisions, whoever makes them. docs/loadbalancer.md
package loadbalancer

import "github.com/weftnet/weft/daemon/source"

const (
	// Class is the loadBalancerClass of Services that are Weft's.
	Class = "weft.dev/l2"
	// AddressesAnnotation asks for addresses: one of a family, with a comma between.
	AddressesAnnotation = "weft.dev/load-balancer-ips"
	// SharingAnnotation lets Services of one namespace with the same value have one address.
	SharingAnnotation = "weft.dev/load-balancer-sharing"
)

// Ours says whether Weft gives a Service its load balancer's addresses and announces them:
// if it is of [Class] or, where classless says so (setting load-balancer-default), of no
// class.
func Ours(s *source.Service, classless bool) bool {
	return s.Type == "LoadBalancer" && (s.LoadBalancerClass == Class || classless && s.LoadBalancerClass == "")
}
