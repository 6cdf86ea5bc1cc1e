package source

import (
	"iter"
	"slices"
)

// List is objects in order, in parts. It is never changed: a change makes a list that
// shares all parts with the former one but those that it concerns. So it costs what it
// changes, also among tens of thousands. The zero List is empty.
type List[T any] struct {
	parts [][]*T // none is empty
	count int
}

// Parts have at most partMost objects, new ones half of it.
const partMost = 512

// ListOf is a list of objects that are in order. It keeps the slice.
func ListOf[T any](objects []*T) List[T] {
	l := List[T]{count: len(objects)}
	for part := range slices.Chunk(objects, partMost/2) {
		l.parts = append(l.parts, part)
	}
	return l
}

// Len is the number of objects.
func (l List[T]) Len() int { return l.count }

// All is the objects in order.
func (l List[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, part := range l.parts {
			for _, o := range part {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// Find is the object for which compare is 0; nil: there is none. Compare is less than 0
// for those before it, and more for those after it.
func (l List[T]) Find(compare func(*T) int) *T {
	after := func(o *T, _ struct{}) int { return compare(o) }
	i, _ := slices.BinarySearchFunc(l.parts, struct{}{}, func(part []*T, _ struct{}) int {
		return compare(part[len(part)-1])
	})
	if i == len(l.parts) {
		return nil
	}
	if at, ok := slices.BinarySearchFunc(l.parts[i], struct{}{}, after); ok {
		return l.parts[i][at]
	}
	return nil
}

// Change is an object that is there now, in the place of one that compares equal, if there
// is one; or that such a one is gone.
type Change[T any] struct {
	Object *T
	Gone   bool
}

// With is the list with some changes, which are in order and compare differently.
func (l List[T]) With(changes []Change[T], compare func(a, b *T) int) List[T] {
	if len(changes) == 0 {
		return l
	}
	out := List[T]{parts: make([][]*T, 0, len(l.parts)+1), count: l.count}
	rest := l.parts
	if len(rest) == 0 {
		rest = [][]*T{nil}
	}
	for len(changes) > 0 {
		// The part of the first change is the one before the first that begins after it.
		i, _ := slices.BinarySearchFunc(rest[1:], changes[0].Object, func(part []*T, o *T) int {
			if compare(part[0], o) <= 0 {
				return -1
			}
			return 1
		})
		n := len(changes)
		if i+1 < len(rest) { // those before the next part
			n, _ = slices.BinarySearchFunc(changes, rest[i+1][0], func(c Change[T], first *T) int { return compare(c.Object, first) })
		}
		part := merge(rest[i], changes[:n], compare)
		out.count += len(part) - len(rest[i])
		out.parts = append(out.parts, rest[:i]...)
		out.parts = appendPart(out.parts, part)
		rest, changes = rest[i+1:], changes[n:]
	}
	out.parts = append(out.parts, rest...)
	return out
}

// appendPart appends a new part, or what becomes of it.
func appendPart[T any](parts [][]*T, part []*T) [][]*T {
	last := len(parts) - 1
	switch {
	case len(part) == 0:
		return parts
	case len(part) > partMost:
		for piece := range slices.Chunk(part, partMost/2) {
			parts = append(parts, slices.Clone(piece)) // one that stays must not keep the memory of all
		}
		return parts
	case last >= 0 && len(parts[last])+len(part) <= partMost/2: // many small ones would be a list of parts
		parts[last] = slices.Concat(parts[last], part)
		return parts
	}
	return append(parts, part)
}

// merge is a new part of an old one and changes.
func merge[T any](part []*T, changes []Change[T], compare func(a, b *T) int) []*T {
	out := make([]*T, 0, len(part)+len(changes))
	for _, c := range changes {
		i, found := slices.BinarySearchFunc(part, c.Object, compare)
		out = append(out, part[:i]...)
		if part = part[i:]; found {
			part = part[1:]
		}
		if !c.Gone {
			out = append(out, c.Object)
		}
	}
	return append(out, part...)
}

// Differences tells what is in only one of two lists, sorted by compare: of two objects that
// compare equal, first that the former is gone, then that the latter came. Parts that both
// share cost nothing.
func Differences[T any](before, now List[T], compare func(a, b *T) int, gone, came func(*T)) {
	b, n := cursor[T]{parts: before.parts}, cursor[T]{parts: now.parts}
	for {
		x, y := b.object(), n.object()
		var c int
		switch {
		case x == nil && y == nil:
			return
		case x == nil:
			c = 1
		case y == nil:
			c = -1
		case b.shares(n):
			b.skip()
			n.skip()
			continue
		case x == y:
			b.next()
			n.next()
			continue
		default:
			c = compare(x, y)
		}
		if c <= 0 {
			gone(x)
			b.next()
		}
		if c >= 0 {
			came(y)
			n.next()
		}
	}
}

// cursor is a place in a list.
type cursor[T any] struct {
	parts [][]*T
	at    int // in the first part
}

// object is the one at the place; nil: that is the end.
func (c *cursor[T]) object() *T {
	if len(c.parts) == 0 {
		return nil
	}
	return c.parts[0][c.at]
}

func (c *cursor[T]) next() {
	if c.at++; c.at == len(c.parts[0]) {
		c.skip()
	}
}

// skip goes to the next part.
func (c *cursor[T]) skip() { c.parts, c.at = c.parts[1:], 0 }

// shares says whether both are at the beginning of the same part.
func (c *cursor[T]) shares(d cursor[T]) bool {
	return c.at == 0 && d.at == 0 && len(c.parts[0]) == len(d.parts[0]) && &c.parts[0][0] == &d.parts[0][0]
}
