package daemon

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
)

func TestRefusalsAreTold(t *testing.T) {
	count := func(flows, ports uint64) []bpf.Counter {
		return []bpf.Counter{
			{Kind: "drop", Reason: "flows-full", Count: flows},
			{Kind: "drop", Reason: "no-peer", Count: 99 + flows},
			{Kind: "drop", Reason: "ports-full", Count: ports},
		}
	}
	r := newRefused(count(7, 0)) // a former daemon told of those
	start := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		name         string
		flows, ports uint64
		after        time.Duration
		want         []string // what texts begin and end with
	}{
		{"nothing new", 7, 0, time.Second, nil},
		{"some flows", 10, 0, 2 * time.Second, []string{"flows-full", ": 3"}},
		{"and ports", 12, 1, 3 * time.Second, []string{"flows-full", ": 5", "ports-full", ": 1"}},
		{"it is kept for a while", 12, 1, 3*time.Second + roomHeld - 1, []string{"flows-full", ": 5", "ports-full", ": 1"}},
		{"and goes", 12, 1, 3*time.Second + roomHeld, nil},
		{"anew", 13, 1, time.Hour, []string{"flows-full", ": 1"}},
		{"long after", 15, 1, 2 * time.Hour, []string{"flows-full", ": 2"}},
	} {
		got := r.look(count(step.flows, step.ports), start.Add(step.after))
		if len(got) != len(step.want)/2 {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
			continue
		}
		for i, text := range got {
			if !strings.HasPrefix(text, step.want[2*i]) || !strings.HasSuffix(text, step.want[2*i+1]) {
				t.Errorf("%s: got %q, want %q … %q", step.name, text, step.want[2*i], step.want[2*i+1])
			}
		}
	}
}

func TestLittleRoomIsTold(t *testing.T) {
	for _, tc := range []struct {
		flows, room int64
		want        bool
	}{{0, 0, false}, {0, 100, false}, {89, 100, false}, {90, 100, true}, {100, 100, true}} {
		for _, got := range [][]string{nearlyFull(tc.flows, tc.room, 0, 1), nearlyFull(0, 1, tc.flows, tc.room)} {
			if (len(got) > 0) != tc.want {
				t.Errorf("%d flows in room for %d: got %q", tc.flows, tc.room, got)
			}
		}
	}
}

// What the programs refuse for want of room is a problem in the status, and a metric: here
// the counters go up as the programs write them (bpf: TestNoRoomForFlows, TestNoPortForFlow).
func TestLackOfRoomIsAlarmed(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.cfg.MetricsAddress = "127.0.0.1:9087"
	a.usual()
	a.start()
	a.ready()
	full := func(s api.Status) bool { return problem(s, problemFull) }
	a.until("no alarm", func(s api.Status) bool { return !full(s) })
	paths, err := filepath.Glob(filepath.Join(a.cfg.BPFDir, "*", "counters"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("pins of counters: %v, %v", paths, err)
	}
	counters, err := ebpf.LoadPinnedMap(paths[0], nil)
	l.must(err)
	defer counters.Close()
	reason, err := bpf.ReasonNumber("flows-full")
	l.must(err)
	var perCPU []uint64
	l.must(counters.Lookup(reason, &perCPU))
	perCPU[0] += 3
	l.must(counters.Put(reason, perCPU))
	a.until("an alarm", full)
	text := a.metrics()
	for _, line := range []string{
		`weft_packets_total{kind="drop",reason="flows-full"} 3`,
		fmt.Sprintf(`weft_problems{what=%q} 1`, problemFull),
		fmt.Sprintf(`weft_flows_limit %d`, bpf.DefaultMaxFlows/2),
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

// A table of the kernel that is full refuses what is new, and says so with the setting to
// raise; what lives stays, and when there is room again the alarm ends.
func TestFullTableIsAlarmed(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.cfg.MetricsAddress = "127.0.0.1:9087"
	a.cfg.MaxNodes = 1
	a.usual()
	peer := func(i int) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: peer-%[1]d}\nspec: {podCIDRs: [10.87.%[1]d.0/24, 'fd87:%[1]d::/64']}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.%[1]d}]}\n", i)
	}
	l.file("peer-101.yaml", peer(101))
	a.start()
	a.ready()
	before, err := a.kernelRows("peers")
	l.must(err)
	l.file("peer-102.yaml", peer(102))
	a.until("an alarm", func(s api.Status) bool {
		for _, p := range s.Problems {
			if p.What == problemTable && strings.Contains(p.Text, "peers") {
				if !strings.Contains(p.Text, "max-nodes") {
					t.Errorf("got %q, want the setting max-nodes named", p.Text)
				}
				return true
			}
		}
		return false
	})
	if text := a.metrics(); !strings.Contains(text, "\n"+`weft_table_failing{table="peers"} 1`) {
		t.Errorf("no metric of it in\n%s", text)
	}
	if after, err := a.kernelRows("peers"); err != nil || !maps.Equal(after, before) {
		t.Errorf("the rows that lived are %q, want %q; %v", after, before, err)
	}
	l.file("peer-102.yaml", "")
	a.until("no alarm", func(s api.Status) bool { return !problem(s, problemTable) })
}
