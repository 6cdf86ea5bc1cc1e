package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/overlay"
)

// manyServices is n Services with so many endpoints in all, spread evenly; 2,500 of them,
// or every tenth if there are fewer, have a node port.
func manyServices(n, endpoints int) source.State {
	var s source.State
	var all []*source.EndpointSlice
	every := max(10, n/2500)
	for i := range n {
		svc := mkService("default", fmt.Sprintf("service-%05d", i), fmt.Sprintf("10.96.%d.%d", i/256, i%256))
		if i%every == 0 {
			svc.Type, svc.Ports[0].NodePort = "NodePort", uint16(30000+i/every)
		}
		s.Services = append(s.Services, svc)
		var ips []string
		for e := range (i+1)*endpoints/n - i*endpoints/n {
			ips = append(ips, fmt.Sprintf("10.%d.%d.%d", 128+e, i/256, i%256))
		}
		all = append(all, mkSlice("default", svc.Name+"-abcde", svc.Name, ips...))
	}
	s.Slices = source.ListOf(all)
	return s
}

// BenchmarkServices is 10,000 Services with 50,000 endpoints, and 30,000 with 250,000: all
// of them into the maps of the kernel, then one at a time, which loses or wins an endpoint.
func BenchmarkServices(b *testing.B) {
	testnet.Require(b)
	b.Run("10k", func(b *testing.B) { benchmarkServices(b, manyServices(10000, 50000)) })
	b.Run("30k", func(b *testing.B) { benchmarkServices(b, manyServices(30000, 250000)) })
}

func benchmarkServices(b *testing.B, state source.State) {
	self := overlay.Node{Name: "a", Addrs: []netip.Addr{addr("192.0.2.1")}}
	begin := func(b *testing.B) *services {
		dir, unmount, err := testnet.BPFFS(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := unmount(); err != nil {
				b.Error(err)
			}
		})
		dp, err := bpf.Open(bpf.Options{Dir: dir, Config: bpf.Config{VNI: 1, Port: 8872}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { dp.Close() })
		cfg := DefaultConfig()
		cfg.NodeName = "a"
		return newServices(cfg, newTables(b.TempDir(), "", dp), newProblems(slog.New(slog.DiscardHandler)))
	}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s, before := begin(b), heap()
			b.StartTimer()
			s.update(state, self)
			if err := s.tables.services().Sync(true); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(heap()-before, "heap-MiB")
			runtime.KeepAlive(s)
			b.StartTimer()
		}
	})
	b.Run("change", func(b *testing.B) {
		s := begin(b)
		if err := s.write(s.update(state, self)); err != nil {
			b.Fatal(err)
		}
		var took []time.Duration
		all := slices.Collect(state.Slices.All())
		for i := 0; b.Loop(); i++ {
			now := state
			now.Services = slices.Clone(state.Services)
			changed := *all[i*7919%len(all)]
			changed.Endpoints = changed.Endpoints[:len(changed.Endpoints)-i%2]
			now.Slices = state.Slices.With([]source.Change[source.EndpointSlice]{{Object: &changed}}, compareSlices)
			start := time.Now()
			owners := s.update(now, self)
			if err := s.write(owners); err != nil || len(owners) == 0 {
				b.Fatal(owners, err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	})
}

// BenchmarkServicesMemory is what a daemon holds (proportional set size) with Services of
// five endpoints, after it has settled, and after it has read all tables again.
func BenchmarkServicesMemory(b *testing.B) {
	for _, n := range []int{0, 100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			a := l.add()
			a.cfg.MetricsAddress = "127.0.0.1:9087"
			a.usual()
			for first := 0; first < n; first += 100 {
				var text strings.Builder
				for i := first; i < first+100; i++ {
					name := fmt.Sprintf("service-%05d", i)
					service := serviceText(name, fmt.Sprintf("10.96.%d.%d", i/256, i%256))
					if i%10 == 0 {
						service = strings.ReplaceAll(service, "30080", fmt.Sprint(30000+i/10))
					} else {
						service = strings.ReplaceAll(strings.ReplaceAll(service, "type: NodePort, ", ""), ", nodePort: 30080", "")
					}
					var ips []string
					for e := range 5 {
						ips = append(ips, fmt.Sprintf("10.%d.%d.%d", 128+e, i/256, i%256))
					}
					text.WriteString(service + "---\n" + sliceText(name, ips...) + "---\n")
				}
				l.file(fmt.Sprintf("services-%05d.yaml", first), text.String())
			}
			for b.Loop() {
				a.start()
				a.until("all Services", func(s api.Status) bool {
					return s.Ready && slices.ContainsFunc(s.Tables, func(t api.Table) bool { return t.Name == "sets" && t.Rows == n })
				})
				time.Sleep(2*lookEvery + time.Second) // what is measured comes by itself
				b.ReportMetric(a.pss(), "PSS-MiB")
				time.Sleep(wholeEvery)
				b.ReportMetric(a.pss(), "PSS-after-resync-MiB")
				a.changeServices(b, 50)
				b.ReportMetric(a.pss(), "PSS-after-changes-MiB")
				a.stop(syscall.SIGTERM)
			}
		})
	}
}

// changeServices changes one Service so often, and reports how long the daemon took from
// the source's word to the kernel.
func (m *machine) changeServices(b *testing.B, times int) {
	b.Helper()
	name := weftMetric + "_count "
	for i := range times {
		m.lab.file("changing.yaml", serviceText("changing", "10.97.0.1")+"---\n"+sliceText("changing", fmt.Sprintf("10.200.0.%d", 1+i)))
		time.Sleep(200 * time.Millisecond) // to ask the daemon would have it build the state
	}
	testnet.Until(b, 10*time.Second, func() error {
		if now := m.metric(name); now < float64(times) {
			return fmt.Errorf("%v changes of %d", now, times)
		}
		return nil
	})
	b.ReportMetric(1000*m.metric(weftMetric+"_sum ")/m.metric(name), "mean-change-ms")
	for _, bound := range []string{"0.004", "0.008", "0.016", "0.032", "0.064", "0.128"} {
		b.ReportMetric(m.metric(weftMetric+`_bucket{le="`+bound+`"} `), "changes-in-"+bound+"s")
	}
}

const weftMetric = "weft_service_program_seconds"

// metric is the value of a line that begins so; -1: there is none.
func (m *machine) metric(line string) float64 {
	for l := range strings.Lines(m.metrics()) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			m.lab.must(err)
			return v
		}
	}
	return -1
}

// pss is the daemon's proportional set size, MiB.
func (m *machine) pss() float64 {
	m.lab.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", m.cmd.Process.Pid))
	m.lab.must(err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			m.lab.must(err)
			return kib / 1024
		}
	}
	m.lab.t.Fatal("no Pss in smaps_rollup")
	return 0
}
