package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weftnet/weft/daemon/source"
)

// sink takes what a [feed] finds.
type sink interface {
	// begin says that what follows, until end, is all objects there are.
	begin()
	put(runtime.Object)
	remove(runtime.Object)
	end()
}

// objects is the sink of one kind.
type objects[O interface {
	runtime.Object
	metav1.Object
}, T any] struct {
	s     *Source
	table *table[T]
	read  func(O) (*T, error)
	// What else is told, with s.mu held; may be nil: that an object was put into the
	// table, or could not be; that it is gone; that there are no others in the table.
	saw  func(name, O)
	lost func(name)
	all  func()
	// quiet says of which changes nobody need be told before the end of the listing; nil:
	// of none.
	quiet func(O) bool
}

func (o *objects[O, T]) begin() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.table.begin()
}

func (o *objects[O, T]) put(object runtime.Object) {
	in, ok := object.(O)
	if !ok {
		return
	}
	n := name{in.GetNamespace(), in.GetName()}
	now, err := o.read(in)
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.table.put(n, now, err) {
		o.s.stale = true
		if o.quiet == nil || !o.quiet(in) {
			o.s.change()
		}
	}
	if o.saw != nil {
		o.saw(n, in)
	}
}

func (o *objects[O, T]) remove(object runtime.Object) {
	in, ok := object.(O)
	if !ok {
		return
	}
	n := name{in.GetNamespace(), in.GetName()}
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.table.remove(n) {
		o.s.change()
	}
	if o.lost != nil {
		o.lost(n)
	}
}

func (o *objects[O, T]) end() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.table.end() {
		o.s.change()
	}
	if o.all != nil {
		o.all()
	}
}

func nameOfNode(n *source.Node) name             { return name{"", n.Name} }
func nameOfNamespace(n *source.Namespace) name   { return name{"", n.Name} }
func nameOfPolicy(p *source.NetworkPolicy) name  { return name{p.Namespace, p.Name} }
func nameOfCluster(p *source.ClusterPolicy) name { return name{"", p.Name} }
func nameOfPod(p *source.Pod) name               { return name{p.Namespace, p.Name} }
func nameOfService(v *source.Service) name       { return name{v.Namespace, v.Name} }
func nameOfSlice(e *source.EndpointSlice) name   { return name{e.Namespace, e.Name} }
