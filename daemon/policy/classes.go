package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/bpf"
)

// sig is atoms of one kind that something matches. There is one of the same atoms.
type sig struct {
	atoms []*atom // by id
	seen  bool    // by a sweep
	stale bool    // one of them is of no use any more
}

// sigOf is the sig of atoms, each at most once; it changes their order.
func (c *Compiler) sigOf(atoms []*atom) *sig {
	if len(atoms) == 0 {
		return c.noSig
	}
	slices.SortFunc(atoms, func(a, b *atom) int { return int(int64(a.id) - int64(b.id)) })
	var room [256]byte
	key := room[:0]
	for _, a := range atoms {
		key = binary.LittleEndian.AppendUint32(key, a.id)
	}
	s := c.sigs[string(key)]
	if s == nil {
		s = &sig{atoms: slices.Clone(atoms)}
		c.sigs[string(key)] = s
	}
	return s
}

// sweepSigs forgets those that nothing has, once they are many.
func (c *Compiler) sweepSigs() {
	if len(c.sigs) < c.sigRoom {
		return
	}
	c.noSig.seen = true
	for _, p := range c.pods {
		p.sig.seen = true
	}
	for _, l := range c.locals {
		if l.alone != nil {
			l.alone.sig.seen = true
		}
	}
	for _, n := range c.nodes {
		n.sig.seen = true
	}
	for _, b := range c.tree.at {
		b.sig.seen = true
	}
	for k := range c.classes {
		k.pods.seen, k.nodes.seen, k.blocks.seen = true, true, true
	}
	ports := map[*atom]bool{}
	for k, s := range c.sigs {
		if !s.seen {
			delete(c.sigs, k)
			continue
		}
		s.seen = false
		for _, a := range s.atoms {
			if a.kind == portAtom {
				ports[a] = true
			}
		}
	}
	for k, a := range c.atoms {
		if a.kind == portAtom && !ports[a] {
			delete(c.atoms, k)
		}
	}
	c.sigRoom = 2*len(c.sigs) + 1024
}

// classKey is what the addresses of a class match.
type classKey struct{ pods, nodes, blocks *sig }

func (k classKey) each(f func(*atom)) {
	for _, s := range [...]*sig{k.pods, k.nodes, k.blocks} {
		for _, a := range s.atoms {
			f(a)
		}
	}
}

// class is addresses that match the same.
type class struct {
	key  classKey
	id   bpf.Class
	refs int // rows of classes
}

// classOf is the class of what matches a key. Its name is a hash of the atoms: the first 8
// bytes of a SHA-256, for which nobody who may write policies can find another of a given
// class; 0 is that of none.
func (c *Compiler) classOf(k classKey) *class {
	if cl := c.classes[k]; cl != nil {
		return cl
	}
	var digests [][sha256.Size]byte
	k.each(func(a *atom) { digests = append(digests, a.digest) })
	slices.SortFunc(digests, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, d := range digests {
		h.Write(d[:])
	}
	cl := &class{key: k}
	if len(digests) > 0 {
		cl.id = bpf.Class(max(1, binary.LittleEndian.Uint64(h.Sum(nil))))
	}
	c.classes[k] = cl
	return cl
}

// setRow makes want the row of a prefix, of which row is the current one; nil: none.
func (c *Compiler) setRow(p netip.Prefix, row **class, want *class) {
	if *row == want {
		return
	}
	if want != nil {
		if want.refs++; want.refs == 1 {
			c.work.classes[want] = struct{}{}
		}
		c.sink.WantClass(p, want.id)
	} else {
		c.sink.UnwantClass(p)
	}
	if was := *row; was != nil {
		if was.refs--; was.refs == 0 {
			c.work.classes[was] = struct{}{}
		}
	}
	*row = want
	c.work.rejudge = true
}

// place is an address that a pod or a node has, or a block alone.
type place struct {
	pod  *pod   // who has it; nil: nobody
	more *crowd // usually nil
	row  *class // that is wanted
}

// crowd is what else may be at an address.
type crowd struct {
	pods     []*pod // that say they have it, too
	nodes    []*node
	branches int
}

func (c *Compiler) place(a netip.Addr) *place {
	p := c.places[a]
	if p == nil {
		p = &place{}
		c.places[a] = p
	}
	c.work.places[a] = struct{}{}
	return p
}

func (c *Compiler) crowd(a netip.Addr) *crowd {
	p := c.place(a)
	if p.more == nil {
		p.more = &crowd{}
	}
	return p.more
}

// occupy says that a pod has an address, or says so.
func (c *Compiler) occupy(a netip.Addr, who *pod) {
	p := c.place(a)
	if p.pod == nil {
		p.pod = who
		return
	}
	m := c.crowd(a)
	m.pods = append(m.pods, who)
}

func (c *Compiler) vacate(a netip.Addr, who *pod) {
	p := c.place(a)
	if p.pod != who {
		p.more.pods = without(p.more.pods, who)
		return
	}
	p.pod = nil
	if p.more != nil && len(p.more.pods) > 0 {
		p.pod, p.more.pods = p.more.pods[0], p.more.pods[1:]
	}
}

// holder is the pod that has an address: one that is attached here before one that has it
// by its status, and that before one that is only announced with it; one that runs before
// one that terminates.
func (p *place) holder() *pod {
	best := p.pod
	if p.more != nil {
		for _, q := range p.more.pods {
			if comparePods(q, best) < 0 {
				best = q
			}
		}
	}
	return best
}

// classPlaces finds the classes of the addresses of which something changed. What blocks
// say of a node's own addresses holds for its gateways, too.
func (c *Compiler) classPlaces() {
	if len(c.work.blocks) > 0 {
		changed := c.work.blocks
		for a, p := range c.places {
			if p.more != nil && len(p.more.nodes) > 0 || slices.ContainsFunc(changed, func(b netip.Prefix) bool { return b.Contains(a) }) {
				c.work.places[a] = struct{}{}
			}
		}
	}
	for a := range c.work.places {
		c.classPlace(a, c.places[a])
	}
}

func (c *Compiler) classPlace(a netip.Addr, p *place) {
	prefix := netip.PrefixFrom(a, a.BitLen())
	if p.more != nil && len(p.more.pods) == 0 && len(p.more.nodes) == 0 && p.more.branches == 0 {
		p.more = nil
	}
	if p.pod == nil && p.more == nil {
		c.setRow(prefix, &p.row, nil)
		delete(c.places, a)
		return
	}
	k := classKey{c.noSig, c.noSig, c.noSig}
	around := c.zero
	first := true
	c.tree.over(prefix, func(b *branch) bool {
		if first {
			k.blocks, first = b.sig, false
		}
		if b.prefix == prefix {
			return true
		}
		around = b.class
		return false
	})
	if h := p.holder(); h != nil {
		k.pods = h.sig
	}
	if p.more != nil && len(p.more.nodes) > 0 {
		k.nodes, k.blocks = c.nodeAt(a, p.more.nodes, k.blocks)
	}
	if cl := c.classOf(k); cl == around {
		c.setRow(prefix, &p.row, nil)
	} else {
		c.setRow(prefix, &p.row, cl)
	}
}
