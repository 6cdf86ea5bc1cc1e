package endpoint

import (
	"context"
	"testing"

	"github.com/weftnet/weft/internal/api"
)

// BenchmarkAdd is the daemon's share of an ADD: lease with fsync, devices, rows,
// program. Most of it is the grace period for which the kernel waits when a TCX link
// is made (tcx_entry_sync in kernel/bpf/tcx.c), holding the lock of all rtnetlink.
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
