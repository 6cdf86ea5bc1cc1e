package kube

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

// BenchmarkSource reads 10,000 Services with 50,000 endpoints and 5,000 Pods of the node
// (a node has 250; but policies will want all), and says how long it takes from the first
// request to the state, how much of the heap the state keeps, and what a change costs.
func BenchmarkSource(b *testing.B) {
	c := testkube.NewCluster(b)
	dir := b.TempDir()
	c.ServiceAccount(dir, "token")
	servers, err := ParseServers(c.Serve().Addr)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 5000 {
		p := mkPod(fmt.Sprintf("pod-%05d", i), "node-a")
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", i/256, i%256)}}
		p.Labels = map[string]string{"app": fmt.Sprintf("app-%d", i%500), "pod-template-hash": fmt.Sprint(i % 500)}
		c.Put(p)
	}
	for i := range 10000 {
		c.Put(mkService(fmt.Sprintf("service-%05d", i), fmt.Sprintf("10.96.%d.%d", i/256, i%256)), benchSlice(i))
	}
	open := func(b *testing.B) (*Source, func()) {
		s, err := Open(Options{Node: "node-a", Servers: servers, StateFile: filepath.Join(dir, "servers.json"), Services: true, serviceAccount: dir})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Run(ctx)
		}()
		return s, func() { cancel(); <-done }
	}
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			before := heap()
			s, stop := open(b)
			<-s.Changed()
			if state := s.Snapshot(); state.Slices.Len() != 10000 || len(state.Services) != 10000 || len(state.Pods) != 5000 {
				b.Fatal(state.Slices.Len(), len(state.Services), len(state.Pods))
			}
			b.StopTimer()
			b.ReportMetric(float64(heap()-before)/(1<<20), "kept-MiB")
			stop()
			b.StartTimer()
		}
	})
	b.Run("change", func(b *testing.B) {
		s, stop := open(b)
		defer stop()
		<-s.Changed()
		var took time.Duration
		n := 0
		for b.Loop() {
			n++
			b.StopTimer()
			e := benchSlice(n * 7919 % 10000)
			e.Endpoints[0].Addresses[0] = fmt.Sprintf("10.200.%d.%d", n/256%256, n%256)
			b.StartTimer()
			c.Put(e)
			<-s.Changed()
			start := time.Now()
			s.Snapshot()
			took += time.Since(start)
		}
		b.ReportMetric(float64(took.Microseconds())/float64(n), "snapshot-µs")
	})
}

// BenchmarkConvert makes the source's objects of 10,000 slices with 50,000 endpoints.
func BenchmarkConvert(b *testing.B) {
	var all []*discoveryv1.EndpointSlice
	for i := range 10000 {
		all = append(all, benchSlice(i))
	}
	var names sharedNames
	b.ReportAllocs()
	for b.Loop() {
		for _, e := range all {
			if _, err := source.FromSlice(e, names.share); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func benchSlice(i int) *discoveryv1.EndpointSlice {
	e := mkSlice("shop", fmt.Sprintf("service-%05d", i))
	for j := range 5 {
		node, zone, yes := fmt.Sprintf("node-%04d", (i*5+j)%1000), fmt.Sprintf("zone-%d", j%3), true
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+j, i/256, i%256)}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: "shop", Name: fmt.Sprintf("service-%05d-7d4b9c-%d", i, j),
				UID: types.UID(fmt.Sprintf("11111111-0000-%04d-0000-%012d", j, i)),
			},
		})
	}
	return e
}

// BenchmarkTable is one changed slice among so many, and the list of all after it.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{1000, 10000, 30000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := newTable(source.ProblemService, "endpoint slice", nameOfSlice, func(e *source.EndpointSlice) string { return e.Problem })
			var names sharedNames
			read := func(i int) (name, *source.EndpointSlice) {
				e, err := source.FromSlice(benchSlice(i), names.share)
				if err != nil {
					b.Fatal(err)
				}
				return nameOfSlice(e), e
			}
			t.begin()
			for i := range n {
				name, e := read(i)
				t.put(name, e, nil)
			}
			t.end()
			name, e := read(n / 2)
			others := *e
			others.Endpoints = e.Endpoints[:1]
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				t.put(name, []*source.EndpointSlice{&others, e}[i%2], nil)
				if t.objects().Len() != n {
					b.Fatal(t.objects().Len())
				}
			}
		})
	}
}
