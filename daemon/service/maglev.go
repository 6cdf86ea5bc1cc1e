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
func maglevTable(at []netip.AddrPort) []uint16 {
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
	for left := size; ; {
		for i := range at {
			e, by := next[i], step[i]
			for taken[e] {
				if e += by; e >= size {
					e -= size
				}
			}
			table[e], taken[e] = uint16(i), true
			if left--; left == 0 {
				return table
			}
			if e += by; e >= size {
				e -= size
			}
			next[i] = e
		}
	}
}
