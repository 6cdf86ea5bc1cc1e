package policy

import (
	"net/netip"
)

// all4 and mapped are the same addresses: the map `classes` has those of IPv4 below mapped.
var (
	all4   = netip.MustParsePrefix("0.0.0.0/0")
	mapped = netip.MustParsePrefix("::ffff:0:0/96")
)

// blockTree is the blocks that sets name, by their prefixes.
type blockTree struct {
	at    map[netip.Prefix]*branch
	count [2][129]int // branches of that family and length
}

// branch is a prefix at which a block begins or has an exception.
type branch struct {
	prefix netip.Prefix
	blocks []*atom // of which it is the CIDR
	refs   int     // as CIDR and as exception
	sig    *sig    // blocks that have what lies in it and in no smaller branch
	class  *class  // of these alone
	row    *class  // that is wanted
	placed bool    // there is a place of that address
}

func newBlockTree() blockTree { return blockTree{at: map[netip.Prefix]*branch{}} }

// sound says whether an address can lie in a prefix: packets have IPv4 addresses, never
// mapped ones.
func sound(p netip.Prefix) bool {
	return p.IsValid() && (p.Addr().Is4() || p.Bits() < mapped.Bits() || !mapped.Contains(p.Addr()))
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (t *blockTree) add(a *atom) {
	if !sound(a.block.CIDR) {
		return
	}
	b := t.grow(a.block.CIDR)
	b.blocks = append(b.blocks, a)
	if a.block.CIDR.Overlaps(mapped) { // it must not be IPv4's, too
		t.grow(all4)
	}
	for _, e := range a.block.Except {
		if sound(e) {
			t.grow(e)
		}
	}
}

func (t *blockTree) remove(a *atom) {
	if !sound(a.block.CIDR) {
		return
	}
	b := t.at[a.block.CIDR]
	b.blocks = without(b.blocks, a)
	b.refs--
	if a.block.CIDR.Overlaps(mapped) {
		t.at[all4].refs--
	}
	for _, e := range a.block.Except {
		if sound(e) {
			t.at[e].refs--
		}
	}
}

func (t *blockTree) grow(p netip.Prefix) *branch {
	b := t.at[p]
	if b == nil {
		b = &branch{prefix: p}
		t.at[p] = b
		t.count[family(p.Addr())][p.Bits()]++
	}
	b.refs++
	return b
}

// over calls f with the branches that contain a prefix, from the longest.
func (t *blockTree) over(p netip.Prefix, f func(*branch) (on bool)) {
	for bits := p.Bits(); bits >= 0; bits-- {
		if t.count[family(p.Addr())][bits] == 0 {
			continue
		}
		q, err := p.Addr().Prefix(bits)
		if err != nil {
			return
		}
		if b := t.at[q]; b != nil && !f(b) {
			return
		}
	}
}

// blocksOf is the blocks that have all of a prefix that no smaller branch has.
func (c *Compiler) blocksOf(p netip.Prefix, also []*atom) []*atom {
	c.tree.over(p, func(b *branch) bool {
	next:
		for _, a := range b.blocks {
			for _, e := range a.block.Except {
				if e.Bits() <= p.Bits() && e.Contains(p.Addr()) {
					continue next
				}
			}
			also = append(also, a)
		}
		return true
	})
	return also
}

// updateBlocks classes the prefixes of blocks anew, if there are others.
func (c *Compiler) updateBlocks() {
	if len(c.work.blocks) == 0 {
		return
	}
	for p, b := range c.tree.at {
		if p.IsSingleIP() && !b.placed {
			b.placed = true
			c.crowd(p.Addr()).branches++
		}
		if b.refs > 0 {
			b.sig = c.sigOf(c.blocksOf(p, nil))
			c.setBranch(b)
			continue
		}
		delete(c.tree.at, p)
		c.tree.count[family(p.Addr())][p.Bits()]--
		if b.placed {
			c.crowd(p.Addr()).branches--
		}
		c.setRow(p, &b.row, nil)
	}
}

// setBranch makes the row of a branch. Those of single addresses are rows of places.
func (c *Compiler) setBranch(b *branch) {
	if !b.prefix.IsSingleIP() {
		b.class = c.classOf(classKey{blocks: b.sig, pods: c.noSig, nodes: c.noSig})
		c.setRow(b.prefix, &b.row, b.class)
	}
}
