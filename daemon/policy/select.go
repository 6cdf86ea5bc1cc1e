package policy

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// selectorText is the same for selectors that say the same in the same terms, and another
// for others. nil and the empty selector choose everything.
func selectorText(s labels.Selector) string {
	if s == nil {
		return ""
	}
	reqs, some := s.Requirements()
	if !some {
		return "!"
	}
	texts := make([]string, 0, len(reqs))
	for _, r := range reqs {
		values := slices.Clone(r.ValuesUnsorted())
		slices.Sort(values)
		op := r.Operator()
		if op == selection.Equals || op == selection.DoubleEquals {
			op = selection.In
		}
		t := r.Key() + "\x01" + string(op)
		for _, v := range values {
			t += "\x01" + v
		}
		texts = append(texts, t+"\x02")
	}
	slices.Sort(texts)
	var all string
	for _, t := range texts {
		all += t
	}
	return all
}

func matches(s labels.Selector, set map[string]string) bool {
	return s == nil || s.Matches(labels.Set(set))
}

// label is a key with a value.
type label struct{ key, value string }

// index finds which of many selectors may choose an object by its labels.
type index[T comparable] struct {
	byLabel map[label][]T // those that want one of a label's values
	rest    []T
}

// wants is one label of which a selector wants one of some values; none if there is no
// such label.
func wants(s labels.Selector) (out []label) {
	if s == nil {
		return nil
	}
	reqs, _ := s.Requirements()
	for _, r := range reqs {
		switch r.Operator() {
		case selection.In, selection.Equals, selection.DoubleEquals:
		default:
			continue
		}
		values := r.ValuesUnsorted()
		if out != nil && len(values) >= len(out) {
			continue
		}
		out = out[:0]
		for _, v := range values {
			if l := (label{r.Key(), v}); !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	return out
}

func (x *index[T]) add(s labels.Selector, item T) {
	ls := wants(s)
	if len(ls) == 0 {
		x.rest = append(x.rest, item)
		return
	}
	if x.byLabel == nil {
		x.byLabel = map[label][]T{}
	}
	for _, l := range ls {
		x.byLabel[l] = append(x.byLabel[l], item)
	}
}

func (x *index[T]) remove(s labels.Selector, item T) {
	ls := wants(s)
	if len(ls) == 0 {
		x.rest = without(x.rest, item)
	}
	for _, l := range ls {
		if left := without(x.byLabel[l], item); len(left) > 0 {
			x.byLabel[l] = left
		} else {
			delete(x.byLabel, l)
		}
	}
}

func without[T comparable](all []T, item T) []T {
	return slices.DeleteFunc(all, func(x T) bool { return x == item })
}

// each calls f with each item whose selector may match, once.
func (x *index[T]) each(set map[string]string, f func(T)) {
	for _, item := range x.rest {
		f(item)
	}
	if len(x.byLabel) == 0 {
		return
	}
	for k, v := range set {
		for _, item := range x.byLabel[label{k, v}] {
			f(item)
		}
	}
}

// diff tells what is in only one of two lists, sorted by compare: of two objects that
// compare equal, first that the former is gone, then that the latter came.
func diff[T any](before, now []*T, compare func(a, b *T) int, gone, came func(*T)) {
	if len(before) == len(now) && (len(now) == 0 || &before[0] == &now[0]) {
		return
	}
	for i, j := 0, 0; i < len(before) || j < len(now); {
		var c int
		switch {
		case i == len(before):
			c = 1
		case j == len(now):
			c = -1
		case before[i] == now[j]:
			i++
			j++
			continue
		default:
			c = compare(before[i], now[j])
		}
		if c <= 0 {
			gone(before[i])
			i++
		}
		if c >= 0 {
			came(now[j])
			j++
		}
	}
}
