package source

import (
	"fmt"
	"testing"
)

// BenchmarkRebuild makes the state of 10,000 Services in files of a hundred, of which one
// changed.
func BenchmarkRebuild(b *testing.B) {
	var v view
	for i := range 100 {
		var text string
		for j := range 100 {
			text += serviceYAML(i*100+j) + "---\n"
		}
		o, err := decode([]byte(text))
		if err != nil {
			b.Fatal(err)
		}
		v.root = append(v.root, named{file: fmt.Sprintf("%03d.yaml", i), objects: o})
	}
	d := &Dir{view: v, kinds: newKinds()}
	d.stale = true
	d.rebuild()
	for i := 0; b.Loop(); i++ {
		f := &v.root[i%len(v.root)]
		changed := *f.slices[0]
		f.slices = append([]*EndpointSlice{&changed}, f.slices[1:]...)
		changed.Endpoints = changed.Endpoints[:4+i%2]
		d.view, d.stale = v, true
		d.rebuild()
	}
}
