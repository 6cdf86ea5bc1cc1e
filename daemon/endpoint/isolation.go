package endpoint

import (
	"context"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

// Pod is an attachment, for those who say what policies mean for it.
type Pod struct {
	api.Ref
	PodNamespace, PodName, PodUID string            // as far as the runtime told
	Labels                        map[string]string // likewise
	Netns                         string            // path
	Addrs                         []netip.Addr
}

// Isolation is what the rows of a pod say of policies; zero: it is not isolated.
type Isolation struct{ Ingress, Egress bpf.RuleSet }

// Closed is the isolation of a pod of which nothing is known.
var Closed = Isolation{bpf.RuleSetClosed, bpf.RuleSetClosed}

// Policies says what policies mean for attachments. It must not call back, but for
// [Manager.Isolate] without a lock that Isolation takes.
type Policies interface {
	// Admit makes an attachment known that is being added. It returns when what policies
	// say of it is in the kernel, for it and for the others of this node, or when that will
	// not be known for now; after ctx is done, soon.
	Admit(ctx context.Context, p Pod)
	// Restore makes one known that a former process has added: its rows stay as the
	// kernel has them until more is known. It may be told the same again.
	Restore(p Pod)
	// Isolation is what the rows of a known attachment are to say; [Closed] of another.
	Isolation(api.Ref) Isolation
	// Forget is told when the rows of an attachment are gone from the kernel, also of one
	// that was never known.
	Forget(api.Ref)
}

// open is no policies.
type open struct{}

func (open) Admit(context.Context, Pod)      {}
func (open) Restore(Pod)                     {}
func (open) Isolation(api.Ref) (i Isolation) { return i }
func (open) Forget(api.Ref)                  {}

func refOf(o ipam.Owner) api.Ref { return api.Ref{ContainerID: o.ContainerID, IfName: o.IfName} }

// pod is the attachment as policies see it.
func (a *attachment) pod() Pod {
	return Pod{
		Ref: refOf(a.lease.Owner), PodNamespace: a.rec.PodNamespace, PodName: a.rec.PodName, PodUID: a.rec.PodUID,
		Labels: a.rec.Labels, Netns: a.rec.Netns, Addrs: slices.Clone(a.lease.Addrs),
	}
}

// Isolate makes the rows of an attachment, if it has some, say what policies now say of
// it, and returns when the kernel has them.
func (m *Manager) Isolate(r api.Ref) error {
	o := ipam.Owner{ContainerID: r.ContainerID, IfName: r.IfName}
	m.rowsMu.Lock()
	defer m.rowsMu.Unlock()
	a := m.get(o)
	if a == nil || !a.rows {
		return nil
	}
	a.isolation = m.Policies.Isolation(r)
	rows := map[netip.Addr]bpf.Endpoint{}
	for _, addr := range a.lease.Addrs {
		if row, ok := m.Rows.Wanted(addr); ok {
			row.Ingress, row.Egress = a.isolation.Ingress, a.isolation.Egress
			rows[addr] = row
		}
	}
	m.Rows.Put(rowOwner(o), rows)
	return m.Rows.WriteOwner(rowOwner(o))
}
