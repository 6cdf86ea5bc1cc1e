package ipam

import (
	"container/list"
	"fmt"
	"math/big"
	"net/netip"
	"time"
)

// maxResting bounds how many released addresses a pool remembers beyond their reuse
// delay. A larger pool forgets the oldest and finds them again in another lap.
const maxResting = 1 << 16

// rest is a released address that waits to be given out again.
type rest struct {
	addr netip.Addr
	at   time.Time // of the release
}

// pool gives out the addresses of one prefix: first those it has not met in this
// lap, in sequence, then the released ones, oldest first. Both cost O(1), but for
// the leases that the first lap after a start has to step over.
type pool struct {
	prefix      netip.Prefix
	first, last netip.Addr // what may be given out
	next, start netip.Addr // the lap goes from start around to start
	lapped      bool
	resting     *list.List // of rest, oldest first
	where       map[netip.Addr]*list.Element
	forgotten   bool // the lap has passed addresses that are free and not in resting
	early       uint64
}

// newPool makes the pool of a prefix. The network address, the node's gateway (the
// first host address) and the IPv4 broadcast address are never given out.
func newPool(p netip.Prefix) (*pool, error) {
	if !p.IsValid() || p.Addr().Is4In6() {
		return nil, fmt.Errorf("pool %s: not a valid prefix", p)
	}
	p = p.Masked()
	if hostBits := p.Addr().BitLen() - p.Bits(); hostBits < 2 {
		return nil, fmt.Errorf("pool %s: too small, needs at least 4 addresses", p)
	}
	first := p.Addr().Next().Next()
	last := lastAddr(p)
	if last.Is4() {
		last = last.Prev()
	}
	return &pool{
		prefix: p, first: first, last: last, next: first, start: first,
		resting: list.New(), where: map[netip.Addr]*list.Element{},
	}, nil
}

// lastAddr is the prefix's address with all host bits set.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// has says whether the pool may give out a.
func (p *pool) has(a netip.Addr) bool {
	return p.prefix.Contains(a) && p.first.Compare(a) <= 0 && a.Compare(p.last) <= 0
}

// size is how many addresses the pool may give out at most.
func (p *pool) size() *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(p.prefix.Addr().BitLen()-p.prefix.Bits()))
	if p.prefix.Addr().Is4() {
		return n.Sub(n, big.NewInt(3))
	}
	return n.Sub(n, big.NewInt(2))
}

// startAfter begins a lap behind a.
func (p *pool) startAfter(a netip.Addr) {
	p.next, p.lapped, p.forgotten = p.after(a), false, false
	p.start = p.next
}

func (p *pool) after(a netip.Addr) netip.Addr {
	if !p.has(a) || a == p.last {
		return p.first
	}
	return a.Next()
}

// fresh takes the next address of the lap that nobody holds and that does not rest.
func (p *pool) fresh(taken func(netip.Addr) bool) (netip.Addr, bool) {
	for !p.lapped {
		a := p.next
		p.next = p.after(a)
		p.lapped = p.next == p.start
		if _, rests := p.where[a]; !rests && !taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// oldest is the address that has rested longest.
func (p *pool) oldest() (rest, bool) {
	if e := p.resting.Front(); e != nil {
		return e.Value.(rest), true
	}
	return rest{}, false
}

// unrest takes an address out of those that rest; none if it does not.
func (p *pool) unrest(a netip.Addr) (rest, bool) {
	e, ok := p.where[a]
	if !ok {
		return rest{}, false
	}
	delete(p.where, a)
	return p.resting.Remove(e).(rest), true
}

// release lets an address rest as the youngest.
func (p *pool) release(r rest) {
	p.unrest(r.addr)
	p.where[r.addr] = p.resting.PushBack(r)
}

// putBack undoes a take: the address is the next to be given out.
func (p *pool) putBack(r rest) {
	p.unrest(r.addr)
	p.where[r.addr] = p.resting.PushFront(r)
}

// forget drops the address that has rested longest if there are too many and it is
// rested; it comes again with the next lap.
func (p *pool) forget(rested func(rest) bool) {
	if p.resting.Len() <= maxResting {
		return
	}
	if r, ok := p.oldest(); ok && rested(r) {
		p.unrest(r.addr)
		p.forgotten = true
	}
}

// cooling counts the addresses within their reuse delay.
func (p *pool) cooling(rested func(rest) bool) int {
	n := 0
	for e := p.resting.Back(); e != nil && !rested(e.Value.(rest)); e = e.Prev() {
		n++
	}
	return n
}
