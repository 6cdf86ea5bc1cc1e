package policy

import (
	"slices"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
)

// Rules are found by deciding for every port of every protocol, from the first rule to the
// last, what becomes of it: what a rule decides is taken out of what is still open. That
// gives the same rows for all ways to say the same, and Pass needs nothing in the kernel.

// span is ports.
type span struct{ first, last uint16 }

// planes are the protocols that rules tell apart; the first stands for all others.
var planes = [...]bpf.Protocol{0, bpf.TCP, bpf.UDP, bpf.SCTP}

// plane is one of them, in the middle of being decided.
type plane struct {
	open   []span // not decided
	passed []span // nor in this tier
	done   []bpf.Rule
}

// take removes ports from spans, which are in order, and calls f with those it removed.
func take(spans []span, first, last uint16, f func(span)) []span {
	i, _ := slices.BinarySearchFunc(spans, first, func(s span, first uint16) int {
		if s.last < first {
			return -1
		}
		return 1
	})
	j := i
	var left [2]span
	keep := left[:0]
	for ; j < len(spans) && spans[j].first <= last; j++ {
		s := spans[j]
		f(span{max(s.first, first), min(s.last, last)})
		if s.first < first {
			keep = append(keep, span{s.first, first - 1})
		}
		if s.last > last {
			keep = append(keep, span{last + 1, s.last})
		}
	}
	if i == j {
		return spans
	}
	return slices.Replace(spans, i, j, keep...)
}

// decide is what a rule does with ports of a plane.
func (p *plane) decide(protocol bpf.Protocol, r *rule, first, last uint16) {
	p.open = take(p.open, first, last, func(s span) {
		switch r.action {
		case source.ClusterPass:
			p.passed = append(p.passed, s)
		case source.ClusterAccept:
			p.done = append(p.done, bpf.Rule{First: s.first, Last: s.last, Index: r.index, Protocol: protocol, Verdict: bpf.Allow})
		default:
			p.done = append(p.done, bpf.Rule{First: s.first, Last: s.last, Index: r.index, Protocol: protocol, Verdict: bpf.Deny})
		}
	})
}

// rest decides all that is open.
func (p *plane) rest(protocol bpf.Protocol, v bpf.Verdict) {
	for _, s := range p.open {
		p.done = append(p.done, bpf.Rule{First: s.first, Last: s.last, Index: bpf.RuleNone, Protocol: protocol, Verdict: v})
	}
	p.open = p.open[:0]
}

// next opens the next tier to what this one passed on.
func (p *plane) next() {
	if len(p.passed) == 0 {
		return
	}
	p.open = append(p.open, p.passed...)
	p.passed = p.passed[:0]
	slices.SortFunc(p.open, func(a, b span) int { return int(a.first) - int(b.first) })
}

// flattener has the room for one flattening after the other.
type flattener struct{ planes [len(planes)]plane }

// flatten returns the rules of a set for what matches an atom if has says so. numbered
// tells the numbers of a peer's port by its name.
func (f *flattener) flatten(s *ruleSet, has func(*atom) bool, numbered func(source.PolicyPort, func(source.PolicyPort))) []bpf.Rule {
	for i := range f.planes {
		p := &f.planes[i]
		p.open, p.passed, p.done = append(p.open[:0], span{0, 65535}), p.passed[:0], p.done[:0]
	}
	for t := range s.tiers {
		for i := range s.tiers[t] {
			r := &s.tiers[t][i]
			if r.any || slices.ContainsFunc(r.peers, has) {
				f.rule(r, numbered)
			}
		}
		for i := range f.planes {
			f.planes[i].next()
			if tier(t) == namespaced && s.isolates {
				f.planes[i].rest(planes[i], bpf.Deny)
			}
		}
	}
	for i := range f.planes {
		f.planes[i].rest(planes[i], bpf.Allow)
	}
	return f.rules()
}

func (f *flattener) rule(r *rule, numbered func(source.PolicyPort, func(source.PolicyPort))) {
	if r.all {
		for i := range f.planes {
			f.planes[i].decide(planes[i], r, 0, 65535)
		}
		return
	}
	one := func(w source.PolicyPort) {
		if i := slices.Index(planes[1:], bpf.Protocol(w.Protocol)); i >= 0 {
			f.planes[i+1].decide(planes[i+1], r, w.First, w.Last)
		}
	}
	for _, w := range r.ports {
		if w.Name != "" {
			numbered(w, one)
		} else {
			one(w)
		}
	}
}

// rules are what was decided, in the fewest rules: the last is of all that is as with the
// protocols that have no rules of their own; it is left out if that is to be denied by
// default.
func (f *flattener) rules() []bpf.Rule {
	other := f.planes[0].done[0]
	other.First, other.Last = 0, 65535
	var out []bpf.Rule
	same := func(a, b bpf.Rule) bool { return a.Index == b.Index && a.Verdict == b.Verdict }
	for i := range f.planes[1:] {
		done := f.planes[i+1].done
		slices.SortFunc(done, func(a, b bpf.Rule) int { return int(a.First) - int(b.First) })
		begin := len(out)
		for _, r := range done {
			switch {
			case same(r, other):
			case len(out) > begin && same(out[len(out)-1], r) && int(out[len(out)-1].Last)+1 == int(r.First):
				out[len(out)-1].Last = r.Last
			default:
				out = append(out, r)
			}
		}
	}
	if other.Index == bpf.RuleNone && other.Verdict == bpf.Deny {
		return out
	}
	return append(out, other)
}

// rowsOf cuts rules into rows.
func rowsOf(rules []bpf.Rule) []bpf.RuleRow {
	out := make([]bpf.RuleRow, (len(rules)+bpf.RulesPerRow-1)/bpf.RulesPerRow)
	for i, r := range rules {
		out[i/bpf.RulesPerRow][i%bpf.RulesPerRow] = r
	}
	return out
}
