package policy

import (
	"crypto/sha256"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/daemon/source"
)

type atomKind uint8

const (
	podAtom   atomKind = iota // pods, by a selector
	nodeAtom                  // nodes, by a selector
	blockAtom                 // addresses
	portAtom                  // pods that have a port of a name and number
)

// atom is one thing that an address matches or not. What an address matches is its class.
type atom struct {
	kind   atomKind
	text   string // the same for the same
	digest [sha256.Size]byte
	id     uint32 // the order in a sig; not the same after a start
	refs   int    // sets that name it
	active bool   // addresses are matched with it
	mark   uint32 // of the class at hand
	sets   map[*ruleSet]struct{}

	scope *scope          // of pods
	sel   labels.Selector // of pods and nodes
	block source.PolicyBlock
	name  string // of a port
	port  uint16
	proto source.Protocol
}

// scope is the namespaces in which a selector of pods looks.
type scope struct {
	text  string
	fixed string          // the name of the one namespace; "": by
	sel   labels.Selector // its labels
	pods  index[*atom]
	n     int // atoms
}

// space is a namespace.
type space struct {
	obj    *source.Namespace // nil: there are only atoms of that name
	scopes []*scope          // that choose it by its labels
	fixed  *scope            // that choose it by its name
}

func (c *Compiler) atom(kind atomKind, text string, fill func(*atom)) *atom {
	a := c.atoms[text]
	if a == nil {
		c.nextID++
		a = &atom{kind: kind, text: text, digest: sha256.Sum256([]byte(text)), id: c.nextID, sets: map[*ruleSet]struct{}{}}
		fill(a)
		c.atoms[text] = a
	}
	return a
}

// podsIn is the pods that a selector chooses in a namespace.
func (c *Compiler) podsIn(namespace string, pods labels.Selector) *atom {
	return c.podsOf("n\x00"+namespace, namespace, nil, pods)
}

// podsBy is the pods that a selector chooses in those namespaces that another chooses.
func (c *Compiler) podsBy(namespaces, pods labels.Selector) *atom {
	return c.podsOf("s\x00"+selectorText(namespaces), "", namespaces, pods)
}

func (c *Compiler) podsOf(text, fixed string, namespaces, pods labels.Selector) *atom {
	return c.atom(podAtom, "pods\x00"+text+"\x00"+selectorText(pods), func(a *atom) {
		s := c.scopes[text]
		if s == nil {
			s = &scope{text: text, fixed: fixed, sel: namespaces}
			c.scopes[text] = s
		}
		a.scope, a.sel = s, pods
		s.n++
	})
}

func (c *Compiler) nodesBy(nodes labels.Selector) *atom {
	return c.atom(nodeAtom, "nodes\x00"+selectorText(nodes), func(a *atom) { a.sel = nodes })
}

func (c *Compiler) inBlock(b source.PolicyBlock) *atom {
	text := "block\x00" + b.CIDR.String()
	for _, e := range b.Except {
		text += "\x00" + e.String()
	}
	return c.atom(blockAtom, text, func(a *atom) { a.block = b })
}

// portOf is the pods that have a port of that name and number.
func (c *Compiler) portOf(p source.SlicePort) *atom {
	text := "port\x00" + p.Name + "\x00" + string([]byte{byte(p.Protocol), byte(p.Port >> 8), byte(p.Port)})
	return c.atom(portAtom, text, func(a *atom) { a.name, a.proto, a.port = p.Name, p.Protocol, p.Port })
}

// acquire says that a set names an atom.
func (c *Compiler) acquire(s *ruleSet, a *atom) {
	if _, has := a.sets[s]; has {
		return
	}
	a.sets[s] = struct{}{}
	a.refs++
	if a.active {
		return
	}
	a.active = true
	switch a.kind {
	case podAtom:
		if len(a.scope.pods.rest) == 0 && len(a.scope.pods.byLabel) == 0 {
			c.activate(a.scope)
		}
		a.scope.pods.add(a.sel, a)
		c.work.came = append(c.work.came, a)
	case nodeAtom:
		c.nodeSel.add(a.sel, a)
		c.work.nodes = true
	case blockAtom:
		c.tree.add(a)
		c.work.blocks = append(c.work.blocks, a.block.CIDR)
	}
}

// release says that a set is gone.
func (c *Compiler) release(s *ruleSet, a *atom) {
	if _, has := a.sets[s]; !has {
		return
	}
	delete(a.sets, s)
	if a.refs--; a.refs > 0 {
		return
	}
	a.active = false
	delete(c.atoms, a.text)
	switch a.kind {
	case podAtom:
		a.scope.pods.remove(a.sel, a)
		c.work.stale = true
		if a.scope.n--; a.scope.n == 0 {
			c.deactivate(a.scope)
			delete(c.scopes, a.scope.text)
		}
	case nodeAtom:
		c.nodeSel.remove(a.sel, a)
		c.work.nodes = true
	case blockAtom:
		c.tree.remove(a)
		c.work.blocks = append(c.work.blocks, a.block.CIDR)
	}
}

// activate makes namespaces know a scope.
func (c *Compiler) activate(s *scope) {
	if s.fixed != "" {
		c.space(s.fixed).fixed = s
		return
	}
	c.chosen.add(s.sel, s)
	for _, n := range c.spaces {
		if n.obj != nil && matches(s.sel, n.obj.Labels) {
			n.scopes = append(n.scopes, s)
		}
	}
}

func (c *Compiler) deactivate(s *scope) {
	if s.fixed != "" {
		n := c.spaces[s.fixed]
		n.fixed = nil
		if n.obj == nil {
			delete(c.spaces, s.fixed)
		}
		return
	}
	c.chosen.remove(s.sel, s)
	for _, n := range c.spaces {
		n.scopes = without(n.scopes, s)
	}
}

// spacesOf is the namespaces in which a scope looks.
func (c *Compiler) spacesOf(s *scope) (out []string) {
	if s.fixed != "" {
		return []string{s.fixed}
	}
	for name, n := range c.spaces {
		if slices.Contains(n.scopes, s) {
			out = append(out, name)
		}
	}
	return out
}

func (c *Compiler) space(name string) *space {
	n := c.spaces[name]
	if n == nil {
		n = &space{}
		c.spaces[name] = n
	}
	return n
}

// updateSpaces takes note of namespaces; those with other labels are in other scopes.
func (c *Compiler) updateSpaces(now []*source.Namespace) {
	diff(c.spaceList, now, func(a, b *source.Namespace) int { return compareText(a.Name, b.Name) },
		func(o *source.Namespace) { c.setSpace(o.Name, nil) },
		func(o *source.Namespace) { c.setSpace(o.Name, o) })
	c.spaceList = now
}

func (c *Compiler) setSpace(name string, o *source.Namespace) {
	n := c.space(name)
	n.obj, n.scopes = o, nil
	c.work.spaces[name] = struct{}{}
	c.work.localsIn[name] = struct{}{}
	if o == nil {
		if n.fixed == nil {
			delete(c.spaces, name)
		}
		return
	}
	c.chosen.each(o.Labels, func(s *scope) {
		if matches(s.sel, o.Labels) {
			n.scopes = append(n.scopes, s)
		}
	})
}
