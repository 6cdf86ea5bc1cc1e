package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/service"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// show is the Services and the pods with host ports, as `weft services` shows them: all,
// or with a name (NAME or NAMESPACE/NAME) that one with its backends. Services that another
// program serves are not shown: of their endpoints nothing is known.
func (s *services) show(name string) ([]api.Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := func(k serviceName) bool { return name == "" || name == k.name || name == k.String() }
	var out []api.Service
	for k, e := range s.book.entries {
		if s.enabled && e.svc != nil && wanted(k) {
			out = append(out, s.showService(k, e, name != ""))
		}
	}
	for _, p := range s.ports {
		if !wanted(p.serviceName()) || len(p.mappings) == 0 {
			continue
		}
		shown := p.show()
		if name != "" {
			shown.Backends = p.backends(s.name)
		}
		out = append(out, shown)
	}
	slices.SortFunc(out, func(a, b api.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
	})
	return out, s.unclear(name, out)
}

// unclear says why a name does not name one Service. A Service and a pod may have one
// name.
func (s *services) unclear(name string, found []api.Service) error {
	if name == "" {
		return nil
	}
	if len(found) == 0 {
		text := fmt.Sprintf("there is no Service %s, and no pod of that name with host ports", name)
		if !s.enabled {
			text = fmt.Sprintf("there is no pod %s with host ports; Services are not served here (setting services: false)", name)
		}
		return &api.Error{Code: api.CodeUnknown, Msg: text}
	}
	var spaces []string
	for _, f := range found {
		spaces = append(spaces, f.Namespace+"/"+f.Name)
	}
	if spaces = slices.Compact(spaces); len(spaces) > 1 {
		return &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("more than one is named %s: say which of %s", name, strings.Join(few(8, spaces), ", "))}
	}
	return nil
}

func (s *services) showService(k serviceName, e *serviceEntry, whole bool) api.Service {
	out := api.Service{
		Namespace: k.namespace, Name: k.name, Type: e.svc.Type, Served: e.put,
		Fronts: []api.ServiceFront{}, Problems: append([]string{}, s.book.troubled[k]...),
	}
	if e.svc.ProxyName != "" {
		out.Problems = append(out.Problems, "not ours: it is to be served by "+e.svc.ProxyName)
	}
	if why := s.cfg.balancerProblem(e.svc); why != "" {
		out.Problems = append(out.Problems, why)
	}
	if e.put {
		for _, ip := range e.svc.ClusterIPs {
			for _, p := range e.svc.Ports {
				out.Fronts = append(out.Fronts, s.showFronts(e, ip, p)...)
			}
		}
	}
	if whole {
		for _, p := range e.svc.Ports {
			out.Backends = append(out.Backends, s.backendsOf(e, p)...)
		}
	}
	return out
}

// showFronts is the places of one port in the family of a ClusterIP.
func (s *services) showFronts(e *serviceEntry, ip netip.Addr, p source.ServicePort) []api.ServiceFront {
	count := func(local bool) (ready, total int) {
		for _, sl := range e.slices {
			for _, sp := range sl.Ports {
				if sl.IPv6 != ip.Is6() || sp.Name != p.Name || sp.Protocol != p.Protocol {
					continue
				}
				for _, end := range sl.Endpoints {
					if local && end.Node != s.name {
						continue
					}
					total++
					if end.Ready && !s.node.IsLost(&end) {
						ready++
					}
				}
			}
		}
		return ready, total
	}
	var out []api.ServiceFront
	add := func(addr, kind string, port uint16, local bool) {
		f := api.ServiceFront{Addr: addr, Port: port, Protocol: p.Protocol.String(), Kind: kind, Target: p.TargetPort, Policy: "Cluster"}
		if local {
			f.Policy = "Local"
		} else if pass, _ := service.Passes(s.node, e.svc); pass && kind != "ClusterIP" {
			f.Policy = "Cluster, " + service.DSR
		}
		f.Ready, f.Total = count(local)
		out = append(out, f)
	}
	add(ip.String(), "ClusterIP", p.Port, e.svc.InternalLocal)
	if at := s.nodePortText(ip.Is6()); p.NodePort != 0 && at != "" {
		add(at, "NodePort", p.NodePort, e.svc.ExternalLocal)
	}
	for _, a := range e.svc.ExternalIPs {
		if a.Is6() == ip.Is6() {
			add(a.String(), "External", p.Port, e.svc.ExternalLocal)
		}
	}
	for _, lb := range e.svc.LoadBalancerIPs {
		if e.svc.Type == "LoadBalancer" && !lb.Proxy && lb.IP.Is6() == ip.Is6() {
			add(lb.IP.String(), "LB", p.Port, e.svc.ExternalLocal)
		}
	}
	return out
}

// nodePortText is the address of a family that serves node ports, * for more than one.
func (s *services) nodePortText(ipv6 bool) string {
	text := ""
	for _, a := range s.node.NodePortAddrs {
		switch {
		case a.Is6() != ipv6:
		case text != "":
			return "*"
		default:
			text = a.String()
		}
	}
	return text
}

// backendsOf is all endpoints of a port.
func (s *services) backendsOf(e *serviceEntry, p source.ServicePort) []api.ServiceBackend {
	var out []api.ServiceBackend
	for _, sl := range e.slices {
		for _, sp := range sl.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, end := range sl.Endpoints {
				state := "not ready"
				switch {
				case (end.Ready || end.Serving) && s.node.IsLost(&end):
					state = "lost"
				case end.Ready:
					state = "ready"
				case end.Serving && end.Terminating:
					state = "terminating"
				}
				out = append(out, api.ServiceBackend{
					Port: cmp.Or(p.Name, fmt.Sprint(p.Port)), Addr: netip.AddrPortFrom(end.IP, sp.Port).String(),
					Protocol: p.Protocol.String(), State: state, Node: end.Node, Zone: end.Zone, Pod: end.TargetPod,
				})
			}
		}
	}
	slices.SortFunc(out, func(a, b api.ServiceBackend) int { return cmp.Compare(a.Addr, b.Addr) })
	return out
}

// hostPort is the type that pods with host ports have among Services.
const hostPort = "HostPort"

// serviceName is by what the host ports of a pod are shown among Services.
func (p *podPorts) serviceName() serviceName {
	return serviceName{p.PodNamespace, cmp.Or(p.PodName, p.Ref.String())}
}

// show is the host ports of a pod, without its addresses.
func (p *podPorts) show() api.Service {
	k := p.serviceName()
	return api.Service{
		Namespace: k.namespace, Name: k.name, Type: hostPort, Served: true,
		Fronts: p.fronts(), Problems: append([]string{}, p.problems...),
	}
}

// fronts is the places of a pod's host ports.
func (p *podPorts) fronts() []api.ServiceFront {
	var out []api.ServiceFront
	for _, m := range p.mappings {
		at := "*"
		if m.HostIP.IsValid() {
			at = m.HostIP.String()
		}
		out = append(out, api.ServiceFront{
			Addr: at, Port: m.HostPort, Protocol: m.Protocol.String(), Kind: hostPort,
			Target: fmt.Sprint(m.ContainerPort), Ready: 1, Total: 1,
		})
	}
	return out
}

func (p *podPorts) backends(node string) []api.ServiceBackend {
	var out []api.ServiceBackend
	for _, m := range p.mappings {
		for _, a := range p.Addrs {
			out = append(out, api.ServiceBackend{
				Port: fmt.Sprint(m.HostPort),
				Addr: netip.AddrPortFrom(a, m.ContainerPort).String(), Protocol: m.Protocol.String(),
				State: "ready", Node: node, Pod: p.name(),
			})
		}
	}
	return out
}
