package service

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
)

// PortMapping is a port of the node that stands for one of a pod (CNI's capability
// portMappings).
type PortMapping struct {
	// HostIP is where; invalid: all addresses of the node that serve node ports, and
	// 127.0.0.1 and ::1, of the pod's families; 0.0.0.0 or ::: the same of one family.
	// Any other must be an address of the node: who makes a pod may not take what goes to
	// a Service, to another pod or out of the cluster.
	HostIP                  netip.Addr
	HostPort, ContainerPort uint16
	Protocol                bpf.Protocol
}

// AtAddress says whether the mapping is for one address that only the node's devices can
// tell to be the node's.
func (m PortMapping) AtAddress() bool {
	return m.HostIP.IsValid() && !m.HostIP.IsUnspecified() && !m.HostIP.IsLoopback()
}

// has says whether an address is this node's.
func (n Node) has(a netip.Addr) bool {
	_, own := n.Own[a]
	return own || slices.Contains(n.NodePortAddrs, a)
}

// HostPort makes the rows of one pod's host ports. owner is the pod's UID as
// EndpointSlices have it; pod are its addresses, of which the first of each family
// counts. A loopback address is not served for what comes from elsewhere.
func HostPort(node Node, owner string, pod []netip.Addr, mappings []PortMapping) Rows {
	r := newRows(4*len(mappings), 2*len(mappings), 2*len(mappings))
	for _, m := range mappings {
		if m.HostPort == 0 || m.ContainerPort == 0 {
			r.problem("host port %d/%s to %d: 0 is not a port", m.HostPort, m.Protocol, m.ContainerPort)
			continue
		}
		m.HostIP = m.HostIP.Unmap()
		if m.AtAddress() && !node.has(m.HostIP) {
			r.problem("host port %d/%s: %s is not an address of this node; it is served as soon as it is", m.HostPort, m.Protocol, m.HostIP)
			continue
		}
		served := false
		for _, ipv6 := range []bool{false, true} {
			if m.HostIP.IsValid() && m.HostIP.Is6() != ipv6 {
				continue
			}
			i := slices.IndexFunc(pod, func(a netip.Addr) bool { return a.Is6() == ipv6 })
			if i < 0 {
				continue
			}
			served = true
			r.hostPort(node, owner, pod[i], m)
		}
		switch {
		case served:
		case m.HostIP.IsValid():
			r.problem("host port %d/%s: the pod has no address of the family of %s", m.HostPort, m.Protocol, m.HostIP)
		default:
			r.problem("host port %d/%s: the pod has no address", m.HostPort, m.Protocol)
		}
	}
	return r
}

// hostPort makes the rows of a mapping in the family of the pod's address.
func (r *Rows) hostPort(node Node, owner string, pod netip.Addr, m PortMapping) {
	backend := bpf.Backend{Addr: pod, Port: m.ContainerPort, Generation: generation(owner, pod)}
	to := bpf.Place{Addr: pod, Port: m.ContainerPort, Protocol: m.Protocol}
	set := hashID("host port", owner, to.String())
	r.Alive[to] = backend.Generation
	r.Backends[bpf.Slot{Set: set}] = backend
	r.Sets[set] = bpf.Set{Count: 1}

	at := []netip.Addr{m.HostIP}
	if !m.HostIP.IsValid() || m.HostIP.IsUnspecified() {
		if at = ofFamily(node.NodePortAddrs, pod.Is6()); len(at) == 0 {
			r.problem("host port %d/%s: the node has no %s address for it but loopback", m.HostPort, m.Protocol, familyText(pod.Is6()))
		}
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if pod.Is6() {
			loopback = netip.IPv6Loopback()
		}
		at = append(at, loopback)
	}
	for _, a := range at {
		f := bpf.Frontend{Inside: set, Flags: bpf.FrontendHostPort}
		if !a.IsLoopback() {
			f.Outside = set
		}
		r.front(bpf.Place{Addr: a, Port: m.HostPort, Protocol: m.Protocol}, f)
	}
}
