package kube

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// name names an object of one kind.
type name struct{ namespace, name string }

func (n name) String() string {
	if n.namespace == "" {
		return n.name
	}
	return n.namespace + "/" + n.name
}

func compareNames(a, b name) int {
	if by := strings.Compare(a.namespace, b.namespace); by != 0 {
		return by
	}
	return strings.Compare(a.name, b.name)
}

// table is the objects of one kind. A change costs what it changes; the list is made anew
// when somebody asks for it. It is not safe for concurrent use.
type table[T any] struct {
	what   string // of its problems
	kind   string // for people
	nameOf func(*T) name
	// problemOf is what an object lacks; "" if nothing.
	problemOf func(*T) string
	// lost says what an object lacks now that it had before, if it cannot be so on
	// purpose; nil: it can.
	lost func(before, now *T) string

	list    source.List[T]       // sorted by name
	flat    []*T                 // the same, if isFlat; shared: it is never changed
	isFlat  bool                 // somebody has asked for it since list changed
	pending map[name]*T          // changes that are not in list; nil: gone
	seen    map[name]bool        // by the listing under way; nil: there is none
	synced  bool                 // one listing is complete
	trouble map[name]api.Problem // of objects
}

func newTable[T any](what, kind string, nameOf func(*T) name, problemOf func(*T) string) *table[T] {
	return &table[T]{
		what: what, kind: kind, nameOf: nameOf, problemOf: problemOf,
		pending: map[name]*T{}, trouble: map[name]api.Problem{},
	}
}

// begin says that all objects will be listed.
func (t *table[T]) begin() { t.seen = map[name]bool{} }

// end says that all have been: others are gone. It says whether anything changed.
func (t *table[T]) end() (changed bool) {
	for o := range t.objects().All() {
		if n := t.nameOf(o); !t.seen[n] {
			t.pending[n] = nil
			changed = true
		}
	}
	maps.DeleteFunc(t.trouble, func(n name, _ api.Problem) bool { return !t.seen[n] })
	changed = changed || !t.synced
	t.seen, t.synced = nil, true
	return changed
}

// put takes up an object, or why it cannot be read: then what it was before stays. With
// neither it is none of ours. It says whether anything changed.
func (t *table[T]) put(n name, now *T, err error) (changed bool) {
	if t.seen != nil {
		t.seen[n] = true
	}
	before := t.get(n)
	switch {
	case err != nil:
		t.note(n, ProblemObject, t.kind+": "+err.Error())
		return false
	case now == nil:
		return t.remove(n)
	}
	if t.lost != nil && before != nil {
		if what := t.lost(before, now); what != "" {
			t.note(n, t.what, t.kind+" "+n.String()+": "+what)
			return false
		}
	}
	if what := t.problemOf(now); what != "" {
		t.note(n, t.what, t.kind+" "+n.String()+": "+what)
	} else {
		delete(t.trouble, n)
	}
	if before != nil && reflect.DeepEqual(before, now) {
		return false
	}
	t.pending[n] = now
	return true
}

// remove takes up that an object is gone.
func (t *table[T]) remove(n name) (changed bool) {
	delete(t.trouble, n)
	if t.get(n) == nil {
		return false
	}
	t.pending[n] = nil
	return true
}

// get is an object as it was put last; nil: there is none.
func (t *table[T]) get(n name) *T {
	if o, ok := t.pending[n]; ok {
		return o
	}
	return t.find(n)
}

func (t *table[T]) find(n name) *T {
	return t.list.Find(func(o *T) int { return compareNames(t.nameOf(o), n) })
}

// objects is all objects, sorted by name. It costs what has changed.
func (t *table[T]) objects() source.List[T] {
	if len(t.pending) > 0 {
		t.list, t.flat, t.isFlat = t.merged(), nil, false
		t.pending = map[name]*T{}
	}
	return t.list
}

// current is the same, for kinds that change seldom: after a change it costs all objects.
func (t *table[T]) current() []*T {
	if l := t.objects(); !t.isFlat {
		t.flat, t.isFlat = slices.AppendSeq(make([]*T, 0, l.Len()), l.All()), true
	}
	return t.flat
}

// merged is the list with all changes.
func (t *table[T]) merged() source.List[T] {
	var changes []source.Change[T]
	for _, n := range slices.SortedFunc(maps.Keys(t.pending), compareNames) {
		if o := t.pending[n]; o != nil {
			changes = append(changes, source.Change[T]{Object: o})
		} else if o = t.find(n); o != nil {
			changes = append(changes, source.Change[T]{Object: o, Gone: true})
		}
	}
	return t.list.With(changes, func(a, b *T) int { return compareNames(t.nameOf(a), t.nameOf(b)) })
}

// note keeps what is wrong with an object, and since when.
func (t *table[T]) note(n name, what, text string) {
	if was, ok := t.trouble[n]; ok && was.What == what && was.Text == text {
		return
	}
	t.trouble[n] = api.Problem{What: what, Text: text, Since: time.Now()}
}

// maxProblems is how many objects of a kind are shown as problems; the rest is counted.
const maxProblems = 8

// problems is what is wrong with the objects, by name.
func (t *table[T]) problems() []api.Problem {
	var out []api.Problem
	for _, n := range slices.SortedFunc(maps.Keys(t.trouble), compareNames) {
		p := t.trouble[n]
		if len(out) == maxProblems {
			p.Text = fmt.Sprintf("%s: %d more", t.kind, len(t.trouble)-maxProblems)
			return append(out, p)
		}
		out = append(out, p)
	}
	return out
}
