package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

func compareText(a, b string) int { return strings.Compare(a, b) }

func compareRefs(a, b api.Ref) int {
	return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
}

// How a pod is known to have its addresses, the surest first.
const (
	attached  uint8 = iota // to this node
	stated                 // by its status
	announced              // by its node
)

// pod is a Pod of the source, or an attachment of which it has none.
type pod struct {
	obj   *source.Pod
	sig   *sig
	addrs []netip.Addr // that it occupies
	how   uint8
	blank bool // its labels are not known
}

// comparePods says who has an address that both say they have.
func comparePods(a, b *pod) int {
	gone := func(p *pod) int {
		if p.obj.Terminating {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.how, b.how), cmp.Compare(gone(a), gone(b)), compareObjects(a.obj, b.obj),
		cmp.Compare(a.obj.UID, b.obj.UID))
}

func compareObjects(a, b *source.Pod) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// updatePods takes note of the Pods. Of those that did not change it costs a comparison of
// pointers.
func (c *Compiler) updatePods(now []*source.Pod) {
	was := c.podList
	if len(was) == len(now) && (len(now) == 0 || &was[0] == &now[0]) {
		return
	}
	next := slices.Grow(c.spare[:0], len(now))
	i := 0
	for j := 0; j < len(now); {
		if i < len(was) && was[i] == now[j] {
			n := 1
			for i+n < len(was) && j+n < len(now) && was[i+n] == now[j+n] {
				n++
			}
			next = append(next, c.pods[i:i+n]...)
			i, j = i+n, j+n
			continue
		}
		order := 1
		if i < len(was) {
			order = compareObjects(was[i], now[j])
		}
		switch {
		case order < 0:
			c.leave(c.pods[i])
			i++
		case order > 0:
			next = append(next, c.come(&pod{obj: now[j], sig: c.noSig}))
			j++
		default:
			p := c.pods[i]
			p.obj = now[j]
			next = append(next, c.come(p))
			i++
			j++
		}
	}
	for ; i < len(was); i++ {
		c.leave(c.pods[i])
	}
	clear(c.pods)
	c.spare = c.pods[:0]
	c.pods, c.podList = next, now
}

// come marks a Pod that is another than before.
func (c *Compiler) come(p *pod) *pod {
	c.work.pods[p] = struct{}{}
	for _, l := range c.byName[name{p.obj.Namespace, p.obj.Name}] {
		c.work.locals[l] = struct{}{}
	}
	return p
}

func (c *Compiler) leave(p *pod) {
	delete(c.work.pods, p)
	for _, a := range p.addrs {
		c.vacate(a, p)
	}
	p.addrs = nil
	for _, l := range c.byName[name{p.obj.Namespace, p.obj.Name}] {
		c.work.locals[l] = struct{}{}
	}
}

// find returns the Pod of that name, or nil.
func (c *Compiler) find(n name) *pod {
	i, ok := slices.BinarySearchFunc(c.podList, n, func(o *source.Pod, n name) int {
		return cmp.Or(cmp.Compare(o.Namespace, n.namespace), cmp.Compare(o.Name, n.name))
	})
	if !ok {
		return nil
	}
	return c.pods[i]
}

// within is the Pods of a namespace.
func (c *Compiler) within(namespace string) []*pod {
	from, _ := slices.BinarySearchFunc(c.podList, namespace, func(o *source.Pod, n string) int { return cmp.Compare(o.Namespace, n) })
	to := from
	for to < len(c.podList) && c.podList[to].Namespace == namespace {
		to++
	}
	return c.pods[from:to]
}

// addresses is those that a pod of the source has.
func (c *Compiler) addresses(p *pod) ([]netip.Addr, uint8) {
	o := p.obj
	here := c.byName[name{o.Namespace, o.Name}]
	if len(here) == 1 && here[0].is(p) {
		return here[0].Addrs, attached
	}
	var all []netip.Addr
	known := false
	for _, l := range here {
		if !l.is(p) {
			continue
		}
		known = true
		for _, a := range l.Addrs {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	if known {
		return all, attached
	}
	switch {
	case !matchable(o):
		return nil, stated
	case len(o.IPs) > 0:
		return o.IPs, stated
	}
	n := c.nodes[o.Node]
	if n == nil {
		return nil, announced
	}
	var sure []netip.Addr
	for _, a := range o.Announced {
		if slices.ContainsFunc(n.obj.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			sure = append(sure, a)
		}
	}
	return sure, announced
}

// matchable says whether selectors of pods match a Pod at all: one in its node's network
// is the node, and one that ended has no address any more.
func matchable(o *source.Pod) bool { return !o.HostNetwork && !o.Finished }

// move gives a pod its addresses.
func (c *Compiler) move(p *pod, addrs []netip.Addr, how uint8) {
	if p.how == how && slices.Equal(p.addrs, addrs) {
		for _, a := range addrs { // another may have it instead, as one terminates
			c.place(a)
		}
		p.addrs = addrs
		return
	}
	for _, a := range p.addrs {
		c.vacate(a, p)
	}
	p.addrs, p.how = addrs, how
	for _, a := range addrs {
		c.occupy(a, p)
	}
}

// matchPods finds the addresses of the pods that changed, and what pods match of which
// that may be something else.
func (c *Compiler) matchPods() {
	for p := range c.work.pods {
		addrs, how := c.addresses(p)
		c.move(p, addrs, how)
		c.match(p)
	}
	for _, l := range c.locals {
		if l.alone != nil {
			c.match(l.alone)
		}
	}
	c.matchStale()
	c.matchNew()
	for n := range c.work.spaces {
		for _, p := range c.within(n) {
			c.match(p)
		}
	}
}

// matchStale matches the pods anew that matched something that is of no use any more.
func (c *Compiler) matchStale() {
	if !c.work.stale {
		return
	}
	of := func(a *atom) bool {
		return a.kind == podAtom && !a.active || a.kind == portAtom && len(c.ports[a.name]) == 0
	}
	for _, s := range c.sigs {
		s.stale = slices.ContainsFunc(s.atoms, of)
	}
	for _, p := range c.pods {
		if p.sig.stale {
			c.match(p)
		}
	}
}

// maxProbes is for how many new selectors pods are asked one by one. With more it costs
// less to match all pods where they look.
const maxProbes = 8

// matchNew matches the pods that match something new.
func (c *Compiler) matchNew() {
	probes := 0
	for _, a := range c.work.came {
		if a.scope.fixed == "" {
			probes++
		}
	}
	for _, a := range c.work.came {
		if a.scope.fixed != "" || probes > maxProbes {
			for _, n := range c.spacesOf(a.scope) {
				c.work.spaces[n] = struct{}{}
			}
			continue
		}
		for _, n := range c.spacesOf(a.scope) {
			if _, all := c.work.spaces[n]; all {
				continue
			}
			for _, p := range c.within(n) {
				if matches(a.sel, p.obj.Labels) {
					c.match(p)
				}
			}
		}
	}
	if len(c.work.ports) == 0 {
		return
	}
	for _, p := range c.pods {
		if slices.ContainsFunc(p.obj.Ports, func(q source.SlicePort) bool { _, named := c.work.ports[q.Name]; return named }) {
			c.match(p)
		}
	}
}

// match finds what a pod matches.
func (c *Compiler) match(p *pod) {
	found := c.room[:0]
	if !p.blank && matchable(p.obj) {
		labels := p.obj.Labels
		in := func(s *scope) {
			s.pods.each(labels, func(a *atom) {
				if matches(a.sel, labels) {
					found = append(found, a)
				}
			})
		}
		if n := c.spaces[p.obj.Namespace]; n != nil {
			if n.fixed != nil {
				in(n.fixed)
			}
			for _, s := range n.scopes {
				in(s)
			}
		}
		for _, port := range p.obj.Ports {
			if len(c.ports[port.Name]) == 0 {
				continue
			}
			if a := c.portOf(port); !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	c.room = found
	if s := c.sigOf(found); s != p.sig {
		p.sig = s
		for _, a := range p.addrs {
			c.place(a)
		}
	}
}
