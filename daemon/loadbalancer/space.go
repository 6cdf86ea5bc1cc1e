package loadbalancer

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"sort"

	"github.com/weftnet/weft/daemon/source"
)

// maxSpan is how many addresses of a pool and family are looked through for a free one. A
// pool may be bigger; what is behind them is given to who asks for it.
const maxSpan = 1 << 20

// space is the addresses of one pool and family that can be given.
type space struct {
	pool   *Pool
	ipv6   bool
	ranges []Range  // without reserved addresses, in order
	starts []uint64 // offset of each range's first address
	size   uint64   // addresses, at most maxSpan
	used   uint64   // of them
}

// newSpace makes the space of a pool and family without reserved addresses.
func newSpace(p *Pool, ipv6 bool, reserved []netip.Prefix) *space {
	s := &space{pool: p, ipv6: ipv6}
	for _, r := range p.Ranges {
		if r.First.Is6() == ipv6 {
			s.ranges = append(s.ranges, without(r, reserved)...)
		}
	}
	for _, r := range s.ranges {
		s.starts = append(s.starts, s.size)
		s.size = min(maxSpan, s.size+min(maxSpan, distance(r.First, r.Last)+1))
	}
	return s
}

// without is a range without the addresses of some prefixes.
func without(r Range, reserved []netip.Prefix) []Range {
	rest := []Range{r}
	for _, p := range reserved {
		no := rangeOf(p.Masked())
		var next []Range
		for _, r := range rest {
			if !r.overlaps(no) {
				next = append(next, r)
				continue
			}
			if r.First.Compare(no.First) < 0 {
				next = append(next, Range{r.First, no.First.Prev()})
			}
			if r.Last.Compare(no.Last) > 0 {
				next = append(next, Range{no.Last.Next(), r.Last})
			}
		}
		rest = next
	}
	slices.SortFunc(rest, func(a, b Range) int { return a.First.Compare(b.First) })
	return rest
}

// distance is how many addresses b is behind a, at most maxSpan.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	high := binary.BigEndian.Uint64(y[:8]) - binary.BigEndian.Uint64(x[:8])
	lowX, lowY := binary.BigEndian.Uint64(x[8:]), binary.BigEndian.Uint64(y[8:])
	if lowY < lowX {
		high--
	}
	if high > 0 {
		return maxSpan
	}
	return min(maxSpan, lowY-lowX)
}

// at is the address at an offset that is less than size.
func (s *space) at(offset uint64) netip.Addr {
	i := sort.Search(len(s.starts), func(i int) bool { return s.starts[i] > offset }) - 1
	return plus(s.ranges[i].First, offset-s.starts[i])
}

// plus is the address that is n behind a.
func plus(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	if low+n < low {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	binary.BigEndian.PutUint64(b[8:], low+n)
	out := netip.AddrFrom16(b)
	if a.Is4() {
		return out.Unmap()
	}
	return out
}

// spans says whether an address is one of those that are looked through.
func (s *space) spans(a netip.Addr) bool {
	for i, r := range s.ranges {
		if r.Contains(a) {
			return s.starts[i]+distance(r.First, a) < s.size
		}
	}
	return false
}

// first is where to look for an address of a Service first. It follows from its name, so
// that a Service that comes again has its address again if it is free, one that comes after
// another has not the other's, and two that allocate at a time mostly choose alike.
func (s *space) first(v *source.Service) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(v.Namespace + "/" + v.Name)) // never fails
	x := h.Sum64()
	return (x ^ x>>32) % s.size
}
