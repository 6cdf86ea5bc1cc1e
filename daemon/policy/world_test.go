package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/policy/oracle"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// world is a small cluster in which everything meets often, and which changes.
type world struct {
	*rand.Rand
	state   source.State
	locals  []Local
	serial  int
	cluster bool // it has ClusterNetworkPolicies
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 5))}
	w.cluster = w.IntN(2) == 0
	w.state.PoliciesComplete, w.state.Complete = true, true
	for _, n := range []string{"a", "b", "c"} {
		w.state.Namespaces = append(w.state.Namespaces, w.namespace(n))
	}
	for i := range 3 {
		w.state.Nodes = append(w.state.Nodes, w.node(i))
	}
	for range 6 + w.IntN(5) {
		w.addPod()
	}
	for range w.IntN(6) {
		w.addPolicy()
	}
	for range w.IntN(4) {
		w.addCluster()
	}
	for range 3 {
		w.attach()
	}
	return w
}

func (w *world) yes(of int) bool { return w.IntN(of) == 0 }

func pick[T any](w *world, from ...T) T { return from[w.IntN(len(from))] }

// some is a part of a list, in its order; it may be empty.
func some[T any](w *world, from ...T) (out []T) {
	for _, x := range from {
		if w.yes(2) {
			out = append(out, x)
		}
	}
	return out
}

func (w *world) labels() map[string]string {
	out := map[string]string{}
	for _, k := range some(w, "app", "tier", "x") {
		out[k] = pick(w, "1", "2", "3")
	}
	return out
}

func (w *world) namespace(name string) *source.Namespace {
	l := w.labels()
	l["kubernetes.io/metadata.name"] = name
	return &source.Namespace{Name: name, Labels: l}
}

func (w *world) node(i int) *source.Node {
	n := &source.Node{
		Name: fmt.Sprint("node", i), Labels: w.labels(),
		InternalIPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 0, byte(i + 1)})},
		PodCIDRs:    []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))},
	}
	if w.yes(2) {
		n.InternalIPs = append(n.InternalIPs, netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1)))
	}
	if !w.yes(4) {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", i)))
	}
	return n
}

// addrs is the addresses of a pod: of few, so that some meet.
func (w *world) addrs() []netip.Addr {
	n, host := w.IntN(3), 2+w.IntN(8)
	all := []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", n, host)),
		netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%d::%x", n, host)),
	}
	return pick(w, all, all[:1], all[1:])
}

var portNames = []string{"http", "dns", "admin"}

func (w *world) ports() (out []source.SlicePort) {
	for _, n := range some(w, portNames...) {
		out = append(out, source.SlicePort{Name: n, Protocol: pick(w, source.TCP, source.UDP, source.SCTP), Port: pick[uint16](w, 53, 80, 81, 8080)})
	}
	if w.yes(4) && len(out) > 0 { // another container with that name
		p := out[0]
		p.Protocol, p.Port = pick(w, source.TCP, source.UDP), pick[uint16](w, 80, 90)
		out = append(out, p)
	}
	return out
}

func (w *world) pod(namespace, name string) *source.Pod {
	p := &source.Pod{
		Namespace: namespace, Name: name, UID: fmt.Sprint(w.serial), Labels: w.labels(), Node: pick(w, "node0", "node1", "node2", ""),
		Ports: w.ports(), HostNetwork: w.yes(9), Terminating: w.yes(6), Finished: w.yes(8),
	}
	w.serial++
	switch w.IntN(4) {
	case 0:
		p.Announced = w.addrs()
	case 1:
		p.Announced, p.IPs = w.addrs(), w.addrs()
	default:
		p.IPs = w.addrs()
	}
	if p.HostNetwork {
		p.IPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 0, byte(w.IntN(3) + 1)})}
	}
	return p
}

func (w *world) addPod() {
	w.serial++
	w.state.Pods = append(slices.Clone(w.state.Pods), w.pod(pick(w, "a", "b", "c", "d"), fmt.Sprint("p", w.IntN(12))))
	slices.SortStableFunc(w.state.Pods, compareObjects)
	w.state.Pods = slices.CompactFunc(w.state.Pods, func(a, b *source.Pod) bool { return compareObjects(a, b) == 0 })
}

// attach attaches a pod of the state, or one that it lacks.
func (w *world) attach() {
	l := Local{Namespace: pick(w, "a", "b", "c", "d"), Name: fmt.Sprint("p", w.IntN(14)), Addrs: w.addrs()}
	if len(w.state.Pods) > 0 && w.IntN(4) > 0 {
		p := pick(w, w.state.Pods...)
		l.Namespace, l.Name = p.Namespace, p.Name
	}
	if w.yes(2) {
		l.Labels = w.labels()
	}
	w.serial++
	l.Ref = api.Ref{ContainerID: fmt.Sprintf("%04d", w.serial), IfName: "eth0"}
	for _, o := range w.locals {
		if slices.ContainsFunc(o.Addrs, func(a netip.Addr) bool { return slices.Contains(l.Addrs, a) }) {
			return // IPAM gives no address twice
		}
	}
	w.locals = append(slices.Clone(w.locals), l)
}

func without1[T any](w *world, all []*T) []*T {
	if len(all) == 0 {
		return nil
	}
	i := w.IntN(len(all))
	return slices.Delete(slices.Clone(all), i, i+1)
}

// change makes another world out of this one: other objects have other pointers, and lists
// that are others are other slices.
func (w *world) change() {
	switch w.IntN(14) {
	case 0:
		w.addPod()
	case 1:
		w.state.Pods = without1(w, w.state.Pods)
	case 2, 3: // another of the same name
		if len(w.state.Pods) > 0 {
			i := w.IntN(len(w.state.Pods))
			w.state.Pods = slices.Clone(w.state.Pods)
			w.state.Pods[i] = w.pod(w.state.Pods[i].Namespace, w.state.Pods[i].Name)
		}
	case 4:
		w.addPolicy()
	case 5:
		w.state.Policies = without1(w, w.state.Policies)
	case 6:
		w.addCluster()
	case 7:
		w.state.ClusterPolicies = without1(w, w.state.ClusterPolicies)
	case 8:
		i := w.IntN(3)
		w.state.Nodes = slices.DeleteFunc(slices.Clone(w.state.Nodes), func(n *source.Node) bool { return n.Name == fmt.Sprint("node", i) })
		if !w.yes(3) {
			w.state.Nodes = append(w.state.Nodes, w.node(i))
			slices.SortFunc(w.state.Nodes, func(a, b *source.Node) int { return strings.Compare(a.Name, b.Name) })
		}
	case 9:
		name := pick(w, "a", "b", "c", "d")
		w.state.Namespaces = slices.DeleteFunc(slices.Clone(w.state.Namespaces), func(n *source.Namespace) bool { return n.Name == name })
		if !w.yes(4) {
			w.state.Namespaces = append(w.state.Namespaces, w.namespace(name))
			slices.SortFunc(w.state.Namespaces, func(a, b *source.Namespace) int { return strings.Compare(a.Name, b.Name) })
		}
	case 10:
		w.attach()
	case 11, 12: // a single field
		if len(w.state.Pods) > 0 {
			i := w.IntN(len(w.state.Pods))
			w.state.Pods = slices.Clone(w.state.Pods)
			p := *w.state.Pods[i]
			switch w.IntN(5) {
			case 0:
				p.Terminating = !p.Terminating
			case 1:
				p.Finished = !p.Finished
			case 2:
				p.Labels = w.labels()
			case 3:
				p.Ports = w.ports()
			case 4:
				p.IPs = w.addrs()
			}
			w.state.Pods[i] = &p
		}
	case 13:
		if len(w.locals) > 0 {
			i := w.IntN(len(w.locals))
			w.locals = slices.Clone(w.locals)
			if w.yes(2) {
				w.locals[i].Labels = w.labels()
			} else {
				w.locals = slices.Delete(w.locals, i, i+1)
			}
		}
	}
}

// changePolicies changes nothing else.
func (w *world) changePolicies() {
	switch w.IntN(4) {
	case 0:
		w.addPolicy()
	case 1:
		w.state.Policies = without1(w, w.state.Policies)
	case 2:
		w.addCluster()
	case 3:
		w.state.ClusterPolicies = without1(w, w.state.ClusterPolicies)
	}
}

// oracle is the same for who is to judge.
func (w *world) oracle() oracle.World {
	o := oracle.World{State: w.state}
	for _, l := range w.locals {
		o.Attached = append(o.Attached, oracle.Attachment{Namespace: l.Namespace, Name: l.Name, Labels: l.Labels, Addrs: l.Addrs})
	}
	return o
}

// remotes is every address that may make a difference.
func (w *world) remotes() []netip.Addr {
	var out []netip.Addr
	add := func(as ...netip.Addr) {
		for _, a := range as {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	for _, p := range w.state.Pods {
		add(p.IPs...)
		add(p.Announced...)
	}
	for _, l := range w.locals {
		add(l.Addrs...)
	}
	for _, n := range w.state.Nodes {
		add(n.InternalIPs...)
		for _, p := range n.PodCIDRs {
			add(p.Addr().Next())
		}
	}
	for _, a := range []string{"10.244.1.4", "10.244.0.3", "10.99.0.1", "203.0.113.1", "203.0.113.129", "203.0.113.200", "8.8.8.8",
		"fd00:244:0:1::4", "fd00:9::1", "2001:db8::1", "2001:db8:1::1", "2600::1", "::2", "192.168.0.77"} {
		add(netip.MustParseAddr(a))
	}
	return out
}
