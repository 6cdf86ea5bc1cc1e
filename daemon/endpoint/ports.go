package endpoint

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/internal/api"
)

// Ports is the host ports of one attachment.
type Ports struct {
	api.Ref
	PodNamespace, PodName, PodUID string // as far as the runtime told
	Addrs                         []netip.Addr
	Mappings                      []api.PortMapping
}

// ports is the attachment's host ports.
func (a *attachment) ports() Ports {
	return Ports{
		Ref:          refOf(a.lease.Owner),
		PodNamespace: a.rec.PodNamespace, PodName: a.rec.PodName, PodUID: a.rec.PodUID,
		Addrs: slices.Clone(a.lease.Addrs), Mappings: a.rec.PortMappings,
	}
}
