package kube

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weftnet/weft/daemon/source"
)

// readSlice reads an EndpointSlice. It is called by one goroutine.
func (s *Source) readSlice(o *discoveryv1.EndpointSlice) (*source.EndpointSlice, error) {
	return source.FromSlice(o, s.names.share)
}

// sharedNames has endpoints share the names of nodes and zones: there are some of each on
// every node. It is not safe for concurrent use.
type sharedNames map[string]string

// share returns an equal string. If there are very many names, some of those that could be
// shared are not.
func (n *sharedNames) share(s string) string {
	if have, ok := (*n)[s]; ok || s == "" {
		return have
	}
	if *n == nil || len(*n) >= maxShared {
		*n = sharedNames{}
	}
	(*n)[s] = s
	return s
}
