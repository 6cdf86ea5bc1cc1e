package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// asks is how many questions a node of so many asks a second when all are well, and how long
// one step takes, on average over some of the nodes.
func asks(t testing.TB, nodes, addrs int) (perSecond float64, step time.Duration) {
	const sample, warm, measured = 20, 20 * time.Second, 20 * time.Second
	all, ips, byIP := make([]Node, nodes), map[string]netip.Addr{}, map[netip.Addr]string{}
	for i := range all {
		all[i] = Node{Name: fmt.Sprintf("node-%d", i)}
		ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		ips[all[i].Name], byIP[ip] = ip, all[i].Name
	}
	steps, sent := 0, 0
	var took time.Duration
	for s := range sample {
		self := all[s*nodes/sample].Name
		now, nonce := time.Unix(1e9, 0), uint64(0)
		m := New(self, now, nil, func() uint64 { nonce++; return nonce })
		want := map[netip.Addr]Candidate{}
		first := map[netip.Addr]string{}
		for i := range addrs {
			a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
			ahead, may := Ahead(a, self, all)
			want[a], first[a] = Candidate{ahead, may}, First(a, all)
		}
		m.Set(now, want, ips)
		for end := now.Add(warm + measured); now.Before(end); now = now.Add(Every / 2) {
			start := time.Now()
			do := m.Step(now)
			if !now.Before(end.Add(-measured)) {
				steps++
				sent += len(do.Send)
				took += time.Since(start)
			}
			for _, q := range do.Send {
				d := Datagram{Kind: kindAnswer, Nonce: q.Nonce, Addr: q.Addr, Flags: flagHeld}
				if byIP[q.To] == first[q.Addr] {
					d.Flags |= flagOn
				}
				m.Hear(now, q.To, d)
			}
		}
		for a, on := range m.Held() {
			if on != (first[a] == self) {
				t.Fatalf("%s announces %s: %v", self, a, on)
			}
		}
	}
	return float64(sent) / (sample * measured.Seconds()), took / time.Duration(steps)
}

// What the docs say of the traffic (docs/loadbalancer.md, "What it costs").
func TestQuestionsAreFewHoweverLargeTheClusterIs(t *testing.T) {
	for _, c := range []struct {
		nodes, addrs int
		most         float64
	}{
		{3, 10, 12}, {3, 200, 12}, {100, 100, 60}, {1000, 10, 6}, {1000, 100, 27}, {5000, 10, 5}, {5000, 100, 24},
	} {
		got, step := asks(t, c.nodes, c.addrs)
		t.Logf("%d nodes, %d addresses: %.1f questions a second and node, %s a step", c.nodes, c.addrs, got, step)
		if got > c.most {
			t.Errorf("%d nodes, %d addresses: %.1f questions a second and node, want at most %.0f", c.nodes, c.addrs, got, c.most)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	for _, c := range [][2]int{{1000, 100}, {1000, 1000}, {5000, 1000}} {
		b.Run(fmt.Sprintf("nodes=%d/addresses=%d", c[0], c[1]), func(b *testing.B) {
			for range b.N {
				q, step := asks(b, c[0], c[1])
				b.ReportMetric(q, "questions/s")
				b.ReportMetric(float64(step.Microseconds()), "µs/step")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
