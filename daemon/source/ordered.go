package source

import (
	"slices"
	"strings"

	"github.com/weftnet/weft/internal/api"
)

// ordered has the objects of a kind of which there may be tens of thousands, in order. After a
// change it sorts those of the files that changed.
type ordered[T any] struct {
	kind     string
	of       func(*objects) []*T
	compare  func(a, b *T) int
	name     func(*T) string
	files    []fileOf[T]   // that it is made of, by name
	all      []found[T]    // what is in them
	out      []*T          // of each name the first
	problems []api.Problem // what that leaves out
}

// fileOf is what one file has of a kind.
type fileOf[T any] struct {
	file    string
	objects []*T
}

// same says whether a file has not been read anew.
func (f fileOf[T]) same(g fileOf[T]) bool {
	return f.file == g.file && len(f.objects) == len(g.objects) && &f.objects[0] == &g.objects[0]
}

// update makes it anew of the files, which are in order. Neither it nor who gets out may change
// what is in out.
func (o *ordered[T]) update(root []named) {
	files := make([]fileOf[T], 0, len(o.files)+1)
	for i := range root {
		if objects := o.of(&root[i].objects); len(objects) > 0 {
			files = append(files, fileOf[T]{root[i].file, objects})
		}
	}
	gone, came := o.differ(files)
	if o.files = files; len(gone) == 0 && len(came) == 0 {
		return
	}
	slices.SortStableFunc(came, o.order) // of two in one file the first counts
	kept, lost := make([]found[T], 0, len(o.all)+len(came)), []found[T](nil)
	for _, f := range o.all {
		if gone[f.file] {
			lost = append(lost, f)
		} else {
			kept = append(kept, f)
		}
	}
	now := objectsOf(came)
	keep(objectsOf(lost), now, o.compare)
	for i := range came {
		came[i].object = now[i]
	}
	o.all = o.merge(kept, came)
	o.choose()
}

// differ is which of the files are not as they were, or not there, and what is in the new ones.
func (o *ordered[T]) differ(now []fileOf[T]) (gone map[string]bool, came []found[T]) {
	gone = map[string]bool{}
	for before := o.files; len(before)+len(now) > 0; {
		switch {
		case len(before) > 0 && len(now) > 0 && before[0].same(now[0]):
			before, now = before[1:], now[1:]
		case len(now) == 0 || len(before) > 0 && before[0].file <= now[0].file:
			gone[before[0].file] = true
			before = before[1:]
		default:
			for _, object := range now[0].objects {
				came = append(came, found[T]{now[0].file, object})
			}
			now = now[1:]
		}
	}
	return gone, came
}

func (o *ordered[T]) order(a, b found[T]) int {
	if by := o.compare(a.object, b.object); by != 0 {
		return by
	}
	return strings.Compare(a.file, b.file)
}

func objectsOf[T any](list []found[T]) []*T {
	out := make([]*T, len(list))
	for i, f := range list {
		out[i] = f.object
	}
	return out
}

// merge puts came in its places. It searches them, as there may be few.
func (o *ordered[T]) merge(kept, came []found[T]) []found[T] {
	if len(kept) == 0 || len(came) > len(kept)/8 {
		out := append(kept, came...)
		slices.SortStableFunc(out, o.order)
		return out
	}
	out := make([]found[T], 0, len(kept)+len(came))
	for _, f := range came {
		n, _ := slices.BinarySearchFunc(kept, f, o.order)
		out = append(append(out, kept[:n]...), f)
		kept = kept[n:]
	}
	return append(out, kept...)
}

// choose takes the first of each name.
func (o *ordered[T]) choose() {
	o.out, o.problems = make([]*T, 0, len(o.all)), nil
	first := "" // the file of the last of out
	for _, f := range o.all {
		if n := len(o.out); n > 0 && o.compare(o.out[n-1], f.object) == 0 {
			o.problems = append(o.problems, duplicate(o.kind, o.name(f.object), first, f.file))
			continue
		}
		o.out, first = append(o.out, f.object), f.file
	}
	o.out = slices.Clip(o.out)
}

// kinds are the kinds of a folder that are in order, and what follows from that.
type kinds struct {
	services ordered[Service]
	slices   ordered[EndpointSlice]
	policies ordered[NetworkPolicy]
	served   served
}

func newKinds() *kinds {
	return &kinds{
		services: ordered[Service]{
			kind: "Service", of: func(o *objects) []*Service { return o.services }, compare: compareServices,
			name: func(v *Service) string { return v.Namespace + "/" + v.Name },
		},
		slices: ordered[EndpointSlice]{
			kind: "EndpointSlice", of: func(o *objects) []*EndpointSlice { return o.slices }, compare: compareSlices,
			name: func(e *EndpointSlice) string { return e.Namespace + "/" + e.Name },
		},
		policies: ordered[NetworkPolicy]{
			kind: "NetworkPolicy", of: func(o *objects) []*NetworkPolicy { return o.policies }, compare: compareNetworkPolicies,
			name: func(p *NetworkPolicy) string { return p.Namespace + "/" + p.Name },
		},
	}
}
