// Package loadbalancer says which Services' load balancer is Weft.
package loadbalancer

import "github.com/weftnet/weft/daemon/source"

// Class is the loadBalancerClass by which a Service asks for Weft.
const Class = "weft.dev/l2"

// Ours says whether Weft is the load balancer of a Service; classless is the setting
// load-balancer-default: whether it is also that of Services without a class.
func Ours(s *source.Service, classless bool) bool {
	return s.Type == "LoadBalancer" && (s.LoadBalancerClass == Class || s.LoadBalancerClass == "" && classless)
}
