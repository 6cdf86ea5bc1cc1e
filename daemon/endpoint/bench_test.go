package endpoint

import (
	"context"
	"testing"

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
