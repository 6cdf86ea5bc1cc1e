package service

import "net/netip"

// maglevSizes are what a Maglev table can have of entries: primes, each about twice the
// one before, so that for most changes of the number of backends the size stays. Where
// it does not, between 3 and 4, 6 and 7, … 96 and 97 backends, nearly every flow that a
// node does not know yet is chosen anew. The last is the largest prime of 16 bits.
var maglevSizes = [...]uint32{307, 601, 1201, 2411, 4801, 9601, 19207, 38431, 65521}

// maglevSize is the size for n backends: 100 entries for each, as far as there are.
func maglevSize(n int) uint32 {
	for _, size := range maglevSizes {
		if uint32(n)*100 <= size {
			return size
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// maglevTable fills a table with slots, numbers of at, so that all have nearly the same
// part of it and another backend moves few entries between those that stay (Eisenbud et
// al., "Maglev", NSDI 2016, section 3.4). at must be sorted and without duplicates, and
// have 1 to 65535 backends. What an entry names depends on the addresses and ports
// alone: every node has the same table.
//
// without says which backends get nothing, not all of them; nil: none. Of the others' entries
// none moves.
func maglevTable(at []netip.AddrPort, without []bool) []uint16 {
	size := maglevSize(len(at))
	// Each backend asks for the entries next, next+step, … in turn.
	next, step := make([]uint32, len(at)), make([]uint32, len(at))
	for i, a := range at {
		h := fnvOffset
		for _, b := range a.Addr().As16() {
			h = (h ^ uint64(b)) * fnvPrime
		}
		h = (h ^ uint64(a.Port()>>8)) * fnvPrime
		h = (h ^ uint64(a.Port()&0xff)) * fnvPrime
		next[i] = uint32(mix(h) % uint64(size))
		step[i] = uint32(mix(h^0x9e3779b97f4a7c15)%uint64(size-1)) + 1
	}
	table := make([]uint16, size)
	taken := make([]bool, size)
	fill := func(left uint32, skips func(int) bool) {
		for i := 0; left > 0; i = (i + 1) % len(at) {
			if skips(i) {
				continue
			}
			e, by := next[i], step[i]
			for taken[e] {
				if e += by; e >= size {
					e -= size
				}
			}
			table[e], taken[e] = uint16(i), true
			left--
			if e += by; e >= size {
				e -= size
			}
			next[i] = e
		}
	}
	fill(size, func(int) bool { return false })
	if without == nil {
		return table
	}
	free := uint32(0)
	for e, i := range table {
		if without[i] {
			taken[e] = false
			free++
		}
	}
	fill(free, func(i int) bool { return without[i] })
	return table
}

// table is the Maglev table of the chosen endpoints. Those on lost nodes are in it as far as the
// others' entries are concerned: flows that another node takes over stay where they are.
func (c *compiler) table() []uint16 {
	all := c.chosen
	if c.whole != nil {
		all = c.whole
	}
	at := make([]netip.AddrPort, len(all))
	for i, e := range all {
		at[i] = e.at
	}
	if c.whole == nil {
		return maglevTable(at, nil)
	}
	without, slot, next := make([]bool, len(all)), make([]uint16, len(all)), uint16(0)
	for i, e := range all {
		if without[i] = e.lost; !e.lost {
			slot[i] = next
			next++
		}
	}
	table := maglevTable(at, without)
	for e, i := range table {
		table[e] = slot[i]
	}
	return table
}
