package daemon

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/overlay"
)

// exposedPorts is the ports at which this node serves node ports and host ports, as far as
// masquerade must keep away from them. It is not safe for concurrent use.
type exposedPorts struct {
	owners map[string][]uint16
	counts map[uint16]int // of owners that have the port
	free   overlay.PortRange
}

func newExposedPorts() *exposedPorts {
	return &exposedPorts{owners: map[string][]uint16{}, counts: map[uint16]int{}, free: overlay.MasqueradePorts(nil)}
}

// put takes up the places of an owner, and says whether masquerade is to take other ports.
// It costs nothing for owners without such ports, as most are.
func (e *exposedPorts) put(owner string, frontends map[bpf.Place]bpf.Frontend, of func(netip.Addr) bool) (moved bool) {
	was := e.owners[owner]
	var now []uint16
	for at := range frontends {
		if at.Port >= overlay.MasqueradeFirst && !slices.Contains(now, at.Port) && of(at.Addr) {
			now = append(now, at.Port)
		}
	}
	slices.Sort(now)
	if slices.Equal(was, now) {
		return false
	}
	for _, p := range now {
		e.counts[p]++
	}
	for _, p := range was {
		if e.counts[p]--; e.counts[p] == 0 {
			delete(e.counts, p)
		}
	}
	if e.owners[owner] = now; len(now) == 0 {
		delete(e.owners, owner)
	}
	free := overlay.MasqueradePorts(slices.Sorted(maps.Keys(e.counts)))
	moved = free != e.free
	e.free = free
	return moved
}

// ownerFormer is whoever had the places that a former daemon left in the kernel.
const ownerFormer = "former"

// putRows says in the tables what an owner wants, and keeps masquerade away from its ports
// on the node's addresses. s.mu is held.
func (s *services) putRows(owner string, rows service.Rows) {
	s.tables.putRows(owner, rows)
	s.expose(owner, rows.Frontends)
}

// putServices is putRows for Services.
func (s *services) putServices(all []serviceRows) {
	s.tables.putServices(all)
	for i := range all {
		s.expose(ownerService(all[i].name), all[i].Frontends)
	}
}

func (s *services) expose(owner string, frontends map[bpf.Place]bpf.Frontend) {
	ours := func(a netip.Addr) bool {
		_, nodes := s.node.Addrs[a]
		_, own := s.node.Own[a]
		return nodes || own || slices.Contains(s.node.NodePortAddrs, a)
	}
	if s.exposed.put(owner, frontends, ours) {
		offerLatest(s.newPorts, struct{}{})
	}
}

// masqueradePorts are the ports that pods' traffic is to come from as it leaves the cluster.
func (s *services) masqueradePorts() overlay.PortRange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exposed.free
}

// recallExposed goes by what the kernel serves, until the source speaks.
func (s *services) recallExposed() error {
	rows, err := s.tables.served.Frontends.Dump()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expose(ownerFormer, rows)
	return nil
}

// chainsWant is what the chains of this node are made of, beside its settings.
type chainsWant struct {
	self, cluster []netip.Prefix
	ports         overlay.PortRange
}

// wantChains says in the table of chains what this node needs, if that has changed: it is long,
// and each pass asks. It comes after what is known of the node and of Services.
func (n *node) wantChains() {
	ports := n.services.masqueradePorts()
	n.mu.Lock()
	defer n.mu.Unlock()
	want := chainsWant{n.around.self.PodCIDRs, n.around.cluster, ports}
	if old := n.chains; old != nil && old.ports == want.ports &&
		slices.Equal(old.self, want.self) && slices.Equal(old.cluster, want.cluster) {
		return
	}
	n.tables.chains.Put(ownerSelf, overlay.SelfChains(want.self, want.cluster, n.cfg.Masquerade, n.cfg.Port, ports))
	n.chains = &want
}
