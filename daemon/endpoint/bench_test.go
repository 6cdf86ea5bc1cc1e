package endpoint

import (
	"context"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/internal/api"
)

// BenchmarkAdd is the daemon's share of an ADD: lease with fsync, devices, rows,
// program.
func BenchmarkAdd(b *testing.B) {
	n := newDatapathNode(b)
	var pods []api.Attach
	for b.Loop() {
		b.StopTimer()
		a := attach(b)
		pods = append(pods, a)
		if len(pods) > 100 {
			for _, p := range pods[:100] {
				_ = n.Del(context.Background(), p)
			}
			pods = pods[100:]
		}
		b.StartTimer()
		n.mustAdd(a)
	}
}

// BenchmarkAddBurst is the same for a hundred at once, as when a node's pods all start.
func BenchmarkAddBurst(b *testing.B) {
	n := newDatapathNode(b)
	for b.Loop() {
		b.StopTimer()
		var pods []api.Attach
		for range 100 {
			pods = append(pods, attach(b))
		}
		b.StartTimer()
		var group errgroup.Group
		for _, p := range pods {
			group.Go(func() error { _, err := n.Add(context.Background(), p); return err })
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for _, p := range pods {
			_ = n.Del(context.Background(), p)
		}
		b.StartTimer()
	}
}
