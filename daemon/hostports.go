package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/overlay"
)

// podPorts is the host ports of one attachment.
type podPorts struct {
	endpoint.Ports
	uid      string // by which the rows were made
	mappings []service.PortMapping
	problems []string
}

// name is the pod's, for people.
func (p *podPorts) name() string {
	if p.PodName == "" {
		return p.Ref.String()
	}
	return p.PodNamespace + "/" + p.PodName
}

// setPorts takes up the host ports of an attachment, none if there are none any more,
// and makes the kernel serve them. Before the source has spoken it only notes them: a
// former daemon may have known more of the pod.
func (s *services) setPorts(p endpoint.Ports) error {
	if s.notePorts(p) {
		return s.write([]string{ownerPorts(p.Ref)})
	}
	return nil
}

// notePorts says whether rows are to be written or removed.
func (s *services) notePorts(p endpoint.Ports) bool {
	if len(p.Mappings) == 0 {
		if _, had := s.having.LoadAndDelete(p.Ref); !had {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.Mappings) == 0 {
		delete(s.ports, p.Ref)
		s.putRows(ownerPorts(p.Ref), service.Rows{})
		s.report()
		return true
	}
	now := &podPorts{Ports: p}
	for _, m := range p.Mappings {
		if m.HostPort != 0 { // a port that is only named
			now.mappings = append(now.mappings, portMapping(m))
		}
	}
	if now.atAddress() {
		s.lookForOwn()
	}
	s.ports[p.Ref] = now
	s.having.Store(p.Ref, true)
	s.compilePorts(p.Ref, now, s.uidOf(now))
	s.report()
	return s.begun
}

// atAddress says whether the node's addresses matter to the pod's host ports.
func (p *podPorts) atAddress() bool {
	return slices.ContainsFunc(p.mappings, service.PortMapping.AtAddress)
}

// lookForOwn reads the addresses of the node's devices, and says whether they changed.
// If they cannot be read, what was known stays, and the next pass tries again.
func (s *services) lookForOwn() bool {
	own, err := overlay.OwnAddrs()
	s.problems.err(problemAddresses, err)
	if err != nil || maps.Equal(own, s.node.Own) {
		return false
	}
	s.node.Own = own
	return true
}

// followAddresses takes up that the addresses of the node's devices may have changed: the
// tables are told of the host ports whose hostIP has come to the node, or gone from it.
func (s *services) followAddresses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var concerned []api.Ref
	for ref, p := range s.ports {
		if p.atAddress() {
			concerned = append(concerned, ref)
		}
	}
	if len(concerned) == 0 || !s.lookForOwn() {
		return
	}
	for _, ref := range concerned {
		s.compilePorts(ref, s.ports[ref], s.ports[ref].uid)
	}
	s.report()
}

func (s *services) compilePorts(ref api.Ref, p *podPorts, uid string) {
	rows := service.HostPort(s.node, uid, p.Addrs, p.mappings)
	p.uid, p.problems = uid, rows.Problems
	s.putRows(ownerPorts(ref), rows)
}

// uidOf is what slices call the pod (source.SliceEndpoint.TargetUID): the source's UID
// of it, else its name; while the source does not know it, what the runtime says.
func (s *services) uidOf(p *podPorts) string {
	namespace, name := cmp.Or(p.PodNamespace, "default"), cmp.Or(p.PodName, p.ContainerID) // as the source names it
	i, found := slices.BinarySearchFunc(s.pods, p, func(a *source.Pod, p *podPorts) int {
		return cmp.Or(cmp.Compare(a.Namespace, namespace), cmp.Compare(a.Name, name))
	})
	if found && (s.pods[i].Node == "" || s.pods[i].Node == s.name) { // not a successor's on another node
		return cmp.Or(s.pods[i].UID, namespace+"/"+name)
	}
	return cmp.Or(p.PodUID, namespace+"/"+name)
}

// portMapping is a mapping as package service takes it; the API has checked it.
func portMapping(m api.PortMapping) service.PortMapping {
	out := service.PortMapping{HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: bpf.TCP}
	switch strings.ToLower(m.Protocol) {
	case "udp":
		out.Protocol = bpf.UDP
	case "sctp":
		out.Protocol = bpf.SCTP
	}
	if a, err := netip.ParseAddr(m.HostIP); err == nil {
		out.HostIP = a.Unmap()
	}
	return out
}

func compareNames(a, b serviceName) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

func compareRefs(a, b api.Ref) int {
	return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
}
