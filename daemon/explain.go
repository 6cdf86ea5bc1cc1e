package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// explain says what becomes of a packet, by asking the programs that are in force.
func (n *node) explain(dp *bpf.Datapath, r api.ExplainRequest) (api.Explanation, error) {
	state := n.source.Snapshot()
	from, err := parseTarget(r.From)
	if err != nil {
		return api.Explanation{}, err
	}
	if from.port != 0 {
		return api.Explanation{}, &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("%q: the sender's port is no matter, leave it out", r.From)}
	}
	to, err := parseTarget(r.To)
	if err != nil {
		return api.Explanation{}, err
	}
	senders, err := n.policies.podAddrs(state, from)
	if err != nil {
		return api.Explanation{}, err
	}
	receivers, service, err := n.policies.placesOf(state, &to)
	if err != nil {
		return api.Explanation{}, err
	}
	var out api.Explanation
	for _, s := range senders {
		for _, d := range receivers {
			if s.Is4() != d.Is4() {
				continue
			}
			way, err := n.explainWay(dp, state, s, d, to)
			if err != nil {
				return api.Explanation{}, err
			}
			way.Service = cmp.Or(service, serviceAt(state.Services, d))
			out.Ways = append(out.Ways, way)
			break
		}
	}
	if len(out.Ways) == 0 {
		return out, &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("%s and %s have no addresses of one family", r.From, r.To)}
	}
	return out, nil
}

// explainWay is the answer for one family.
func (n *node) explainWay(dp *bpf.Datapath, state source.State, from, to netip.Addr, t target) (api.ExplainedWay, error) {
	q := bpf.Question{From: from, To: netip.AddrPortFrom(to, t.port), Protocol: t.protocol}
	if t.port == 0 {
		q.Protocol = unix.IPPROTO_ICMP
		if to.Is6() {
			q.Protocol = unix.IPPROTO_ICMPV6
		}
	}
	a, err := dp.Explain(q)
	if err != nil {
		return api.ExplainedWay{}, fmt.Errorf("ask the datapath: %w", err)
	}
	return n.sayWay(state, q, a), nil
}

// sayWay is what the programs answered, in words.
func (n *node) sayWay(state source.State, q bpf.Question, a bpf.Answer) api.ExplainedWay {
	way := api.ExplainedWay{From: api.DropEnd{Addr: q.From}, To: api.DropEnd{Addr: q.To.Addr(), Port: q.To.Port()}}
	way.Protocol, _ = protocolText(bpf.Packet{Protocol: q.Protocol})
	receiver := &way.To
	if a.Backend.IsValid() && a.Service {
		way.Backend = &api.DropEnd{Addr: a.Backend.Addr(), Port: a.Backend.Port()}
		receiver = way.Backend
	}
	ends := []*api.DropEnd{&way.From, &way.To, receiver}
	here := n.policies.pods.byAddr()
	for _, e := range ends {
		e.Pod = here[e.Addr]
	}
	nameEnds(state, ends)
	way.Reason = a.Reason
	way.Egress = n.policies.judgement(state, a.Egress, way.From, "egress")
	way.Ingress = n.policies.judgement(state, a.Ingress, *receiver, "ingress")
	switch way.Verdict = together(way.Egress, way.Ingress); {
	case a.Reason != "":
		way.Verdict = api.VerdictDenied
	case a.Netfilter:
		way.Verdict = api.VerdictUnknown
		way.Ingress = api.Judgement{Verdict: api.VerdictUnknown, Why: "another program serves this Service: which backend it chooses is not known here"}
	}
	return way
}

// together is the verdict of both ends.
func together(ends ...api.Judgement) string {
	verdict := api.VerdictAllowed
	for _, j := range ends {
		switch j.Verdict {
		case api.VerdictDenied:
			return api.VerdictDenied
		case api.VerdictUnknown:
			verdict = api.VerdictUnknown
		}
	}
	return verdict
}

// podAddrs is the addresses of a target that is no Service.
func (p *policies) podAddrs(state source.State, t target) ([]netip.Addr, error) {
	if t.addr.IsValid() {
		return []netip.Addr{t.addr}, nil
	}
	found := p.findPods(state, t)
	switch len(found) {
	case 0:
		return nil, &api.Error{Code: api.CodeUnknown, Msg: fmt.Sprintf("there is no pod %s that this node knows (of other nodes' pods it knows addresses only once there are policies)", t)}
	case 1:
		return found[0].addrs, nil
	}
	return nil, severalNames(t, "pod", found)
}

// placesOf is the addresses of a target, and the Service that it is, if it is one. A Service
// with one port lends it to a target without.
func (p *policies) placesOf(state source.State, t *target) (addrs []netip.Addr, service string, err error) {
	if t.addr.IsValid() {
		return []netip.Addr{t.addr}, "", nil
	}
	pods := p.findPods(state, *t)
	var found []named
	var services []*source.Service
	for _, s := range state.Services {
		if s.Name == t.name && (t.namespace == "" || s.Namespace == t.namespace) {
			services = append(services, s)
			found = append(found, named{s.Namespace + "/" + s.Name, s.ClusterIPs})
		}
	}
	switch {
	case len(pods) == 0 && len(found) == 0:
		return nil, "", &api.Error{Code: api.CodeUnknown, Msg: fmt.Sprintf("there is no pod and no Service %s that this node knows (of other nodes' pods it knows addresses only once there are policies)", t)}
	case len(pods)+len(found) > 1:
		return nil, "", severalNames(*t, "pod or Service", append(pods, found...))
	case len(pods) == 1:
		return pods[0].addrs, "", nil
	}
	s := services[0]
	if len(s.ClusterIPs) == 0 {
		return nil, "", &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("Service %s has no cluster IP: name one of its pods", found[0].name)}
	}
	if t.port == 0 {
		if len(s.Ports) != 1 {
			return nil, "", &api.Error{Code: api.CodeBadConfig, Msg: fmt.Sprintf("Service %s has %d ports: say which", found[0].name, len(s.Ports))}
		}
		t.port, t.protocol = s.Ports[0].Port, bpf.Protocol(s.Ports[0].Protocol)
	}
	return s.ClusterIPs, found[0].name, nil
}

// named is a pod or a Service, and its addresses.
type named struct {
	name  string
	addrs []netip.Addr
}

// findPods finds the pods of a name: attachments of this node, then what the source tells.
func (p *policies) findPods(state source.State, t target) []named {
	var out []named
	add := func(namespace, name string, addrs []netip.Addr) {
		full := namespace + "/" + name
		if name != t.name || t.namespace != "" && namespace != t.namespace || len(addrs) == 0 ||
			slices.ContainsFunc(out, func(n named) bool { return n.name == full }) {
			return
		}
		out = append(out, named{full, addrs})
	}
	for _, e := range p.pods.all() {
		add(namespaceOf(e.pod), cmp.Or(e.pod.PodName, e.pod.ContainerID), e.pod.Addrs)
	}
	for _, pod := range state.Pods {
		if pod.Name == t.name && !pod.Finished {
			addrs := pod.IPs
			if len(addrs) == 0 {
				addrs = pod.Announced
			}
			add(pod.Namespace, pod.Name, addrs)
		}
	}
	return out
}

func severalNames(t target, what string, found []named) error {
	var names []string
	for _, f := range found {
		names = append(names, f.name)
	}
	slices.Sort(names)
	text := fmt.Sprintf("more than one %s is named %s: say which of %s", what, t, strings.Join(few(8, slices.Compact(names)), ", "))
	if t.namespace != "" {
		text = fmt.Sprintf("a pod and a Service are named %s: give the address", t)
	}
	return &api.Error{Code: api.CodeBadConfig, Msg: text}
}

// serviceAt is the name of the Service with that cluster IP; "": there is none.
func serviceAt(list []*source.Service, a netip.Addr) string {
	for _, s := range list {
		if slices.Contains(s.ClusterIPs, a) {
			return s.Namespace + "/" + s.Name
		}
	}
	return ""
}

func (t target) String() string {
	if t.namespace == "" {
		return t.name
	}
	return t.namespace + "/" + t.name
}
