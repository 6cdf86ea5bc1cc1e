package policy

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/bpf"
)

// table is a Sink that holds what is wanted, and fails a test if it is told what it knows.
type table struct {
	testing.TB
	rules   map[bpf.RuleKey]bpf.RuleRow
	classes map[netip.Prefix]bpf.Class
	calls   int
}

func newTable(t testing.TB) *table {
	return &table{TB: t, rules: map[bpf.RuleKey]bpf.RuleRow{}, classes: map[netip.Prefix]bpf.Class{}}
}

func (t *table) WantRule(k bpf.RuleKey, r bpf.RuleRow) {
	t.calls++
	if was, has := t.rules[k]; has {
		t.Errorf("rule %+v is wanted again: %v, before %v", k, r, was)
	}
	t.rules[k] = r
}

func (t *table) UnwantRule(k bpf.RuleKey) {
	t.calls++
	if _, has := t.rules[k]; !has {
		t.Errorf("rule %+v was not wanted", k)
	}
	delete(t.rules, k)
}

func (t *table) WantClass(p netip.Prefix, c bpf.Class) {
	t.calls++
	if was, has := t.classes[p]; has && was == c {
		t.Errorf("class %x of %s is wanted again", c, p)
	}
	if p != p.Masked() {
		t.Errorf("prefix %s is not masked", p)
	}
	t.classes[p] = c
}

func (t *table) UnwantClass(p netip.Prefix) {
	t.calls++
	if _, has := t.classes[p]; !has {
		t.Errorf("class of %s was not wanted", p)
	}
	delete(t.classes, p)
}

// class is what the data path finds for an address: the longest prefix, of IPv4 as if its
// addresses were mapped into IPv6.
func (t *table) class(a netip.Addr) bpf.Class {
	best, found := -1, bpf.Class(0)
	a = netip.AddrFrom16(a.As16())
	for p, c := range t.classes {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		q := netip.PrefixFrom(netip.AddrFrom16(p.Addr().As16()), bits)
		if bits > best && containsAny(q, a) {
			best, found = bits, c
		}
	}
	return found
}

// containsAny is Contains of the bits, whether they stand for IPv4 or not.
func containsAny(p netip.Prefix, a netip.Addr) bool {
	x, y := p.Addr().As16(), a.As16()
	for i := range p.Bits() {
		if (x[i/8]^y[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

// verdict is what the data path does.
func (t *table) verdict(set bpf.RuleSet, remote netip.Addr, protocol bpf.Protocol, port uint16) (allowed bool, index uint16) {
	switch set {
	case 0:
		return true, bpf.RuleNone
	case bpf.RuleSetClosed:
		return false, bpf.RuleNone
	}
	class := t.class(remote)
	if _, has := t.rules[bpf.RuleKey{Set: set, Class: class}]; !has {
		class = 0
	}
	for block := uint32(0); ; block++ {
		row, has := t.rules[bpf.RuleKey{Set: set, Class: class, Block: block}]
		if !has {
			return false, bpf.RuleNone
		}
		for _, r := range row {
			switch {
			case r.Verdict == 0:
				return false, bpf.RuleNone
			case (r.Protocol == 0 || r.Protocol == protocol) && r.First <= port && port <= r.Last:
				return r.Verdict == bpf.Allow, r.Index
			}
		}
	}
}
