package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// local is an attachment of this node.
type local struct {
	Local
	alone *pod // it, if the source has no Pod of it
	known bool // sets are right
	sets  [2]*ruleSet

	told      bool // last is what the caller knows
	last      Isolation
	lastKnown bool
}

func (c *Compiler) updateLocals(now []Local) {
	touched := map[name]struct{}{}
	there := make(map[api.Ref]struct{}, len(now))
	for _, n := range now {
		there[n.Ref] = struct{}{}
		l := c.locals[n.Ref]
		if l != nil && equalLocals(l.Local, n) {
			continue
		}
		if l == nil {
			l = &local{}
			c.locals[n.Ref] = l
		} else {
			c.detach(l, touched)
		}
		n.Addrs, n.Labels = slices.Clone(n.Addrs), maps.Clone(n.Labels)
		l.Local = n
		k := name{n.Namespace, n.Name}
		c.byName[k] = append(c.byName[k], l)
		touched[k] = struct{}{}
	}
	for ref, l := range c.locals {
		if _, ok := there[ref]; !ok {
			c.detach(l, touched)
			c.give(l, ingress, nil)
			c.give(l, egress, nil)
			delete(c.locals, ref)
			delete(c.work.locals, l)
		}
	}
	for k := range touched {
		slices.SortFunc(c.byName[k], func(a, b *local) int { return compareRefs(a.Ref, b.Ref) })
		if p := c.find(k); p != nil {
			c.work.pods[p] = struct{}{}
		}
		for _, l := range c.byName[k] {
			c.work.locals[l] = struct{}{}
		}
	}
	for l := range c.work.locals {
		c.settle(l)
	}
}

func equalLocals(a, b Local) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && a.UID == b.UID && slices.Equal(a.Addrs, b.Addrs) &&
		(a.Labels == nil) == (b.Labels == nil) && maps.Equal(a.Labels, b.Labels)
}

// detach forgets under which name an attachment was.
func (c *Compiler) detach(l *local, touched map[name]struct{}) {
	k := name{l.Namespace, l.Name}
	touched[k] = struct{}{}
	if left := without(c.byName[k], l); len(left) > 0 {
		c.byName[k] = left
	} else {
		delete(c.byName, k)
	}
	if l.alone != nil {
		c.leave(l.alone)
		l.alone = nil
	}
}

// settle makes a pod of an attachment that has no Pod.
func (c *Compiler) settle(l *local) {
	if p := c.find(name{l.Namespace, l.Name}); p != nil && l.is(p) {
		if l.alone != nil {
			c.leave(l.alone)
			l.alone = nil
		}
		return
	}
	if l.alone == nil {
		l.alone = &pod{
			obj: &source.Pod{Namespace: l.Namespace, Name: l.Name, UID: l.UID, Labels: l.Labels},
			sig: c.noSig, blank: l.Labels == nil,
		}
	}
	c.move(l.alone, l.Addrs, attached)
}

// is says whether it is that Pod, which has its name.
func (l *local) is(p *pod) bool { return l.UID == "" || p.obj.UID == "" || l.UID == p.obj.UID }

func (l *local) pod(c *Compiler) *pod {
	if l.alone != nil {
		return l.alone
	}
	return c.find(name{l.Namespace, l.Name})
}

// findSets finds the sets of the attachments for which something changed.
func (c *Compiler) findSets() {
	if c.work.allLocals || len(c.work.localsIn) > 0 {
		for _, l := range c.locals {
			if _, in := c.work.localsIn[l.Namespace]; in || c.work.allLocals {
				c.work.locals[l] = struct{}{}
			}
		}
	}
	for l := range c.work.locals {
		c.findSet(l)
	}
}

func (c *Compiler) findSet(l *local) {
	p := l.pod(c)
	space := c.spaces[l.Namespace]
	var labels map[string]string
	inSpace := space != nil && space.obj != nil
	if inSpace {
		labels = space.obj.Labels
	}
	l.known = !p.blank && (inSpace || len(c.cluster) == 0)
	var of [2][]*policy
	if l.known && !p.obj.HostNetwork {
		of = c.applying(p.obj, labels)
	}
	for _, d := range directions {
		c.give(l, d, c.setOf(d, of[d], p.obj.Ports))
	}
}

// applying is the policies that are about a pod, in the order in which they are asked, by
// direction.
func (c *Compiler) applying(o *source.Pod, spaceLabels map[string]string) (of [2][]*policy) {
	tier := func(t tier) {
		for _, p := range c.cluster {
			if p.tier == t && matches(p.cluster.Namespaces, spaceLabels) && matches(p.cluster.Pods, o.Labels) {
				p.addTo(&of)
			}
		}
	}
	tier(admin)
	if x := c.policies[o.Namespace]; x != nil {
		var found []*policy
		x.each(o.Labels, func(p *policy) {
			if matches(p.network.Pods, o.Labels) {
				found = append(found, p)
			}
		})
		slices.SortFunc(found, func(a, b *policy) int { return cmp.Compare(a.network.Name, b.network.Name) })
		for _, p := range found {
			p.addTo(&of)
		}
	}
	tier(baseline)
	return of
}

// give makes s the set of an attachment.
func (c *Compiler) give(l *local, d direction, s *ruleSet) {
	if l.sets[d] == s {
		return
	}
	if s != nil {
		if s.refs++; s.refs == 1 {
			c.rows += s.n
		}
	}
	if was := l.sets[d]; was != nil {
		if was.refs--; was.refs == 0 {
			c.rows -= was.n
			c.leaving = true
		}
	}
	l.sets[d] = s
}
