package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// policyRecords is what the daemons tell of the packets that policies drop.
type policyRecords struct {
	nodes []*cluster.Node
	total [2]uint64 // dropped, left out; of all cases

	mu     sync.Mutex
	drops  []api.Drop // since begin
	left   uint64     // out
	lost   uint64     // later fragments whose first was overtaken
	before uint64     // what the counters said at begin
}

func watchPolicyRecords(t *testing.T, c *cluster.Cluster) *policyRecords {
	t.Helper()
	r := &policyRecords{nodes: c.Nodes}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	for _, n := range c.Nodes {
		wg.Go(func() {
			err := n.Client().WatchDrops(ctx, 10*time.Second, func(d api.Drop) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.left += d.LeftOut
				if d.Reason == "service-fragment" {
					r.lost++
				}
				if strings.HasPrefix(d.Reason, "policy-") {
					r.drops = append(r.drops, d)
				}
				return nil
			})
			if ctx.Err() == nil {
				t.Errorf("%s: watch drops: %v", n.Name, err)
			}
		})
	}
	return r
}

// counted is how many packets policies have dropped.
func (r *policyRecords) counted(ctx context.Context) (sum uint64, err error) {
	for _, n := range r.nodes {
		s, err := n.Client().Status(ctx)
		if err != nil {
			return 0, err
		}
		for _, c := range s.Counters {
			if c.Kind == "drop" && strings.HasPrefix(c.Reason, "policy-") {
				sum += c.Count
			}
		}
	}
	return sum, nil
}

func (r *policyRecords) begin(t *testing.T) {
	t.Helper()
	before, err := r.counted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drops, r.left, r.lost, r.before = nil, 0, 0, before
}

// compare waits until there are as many records as drops, and wants each denied probe to
// have one that says what the oracle says, and nothing else to have one.
func (r *policyRecords) compare(t *testing.T, w *policyWorld, expected map[policyProbe]policyVerdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var dropped uint64
	err := testnet.Wait(ctx, func() error {
		now, err := r.counted(ctx)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		dropped = now - r.before
		if got := uint64(len(r.drops)) + r.left; got != dropped {
			return fmt.Errorf("%d records and %d left out, but %d drops counted", len(r.drops), r.left, dropped)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total[0] += dropped
	r.total[1] += r.left
	told, denied := map[string][]api.Drop{}, map[string][]policyProbe{}
	for _, d := range r.drops {
		if d.Detail == "time exceeded" { // a kernel had not all fragments of what was lost
			continue
		}
		key := dropKey(d.Src.Addr, endOf(d), d.Protocol)
		told[key] = append(told[key], d)
	}
	for p, v := range expected {
		if !v.allowed {
			key := dropKey(v.sees, v.remote, p.recorded())
			denied[key] = append(denied[key], p)
		}
	}
	missing := uint64(0)
	for key, probes := range denied {
		records, want := len(told[key]), 0
		for _, p := range probes {
			want += p.weight()
		}
		missing += uint64(max(0, want-records))
		switch {
		case records < want && missing > r.left+r.lost:
			t.Errorf("%s: %d records, want %d: one for each packet of %v", key, records, want, probes)
		case records > want && probes[0].protocol != "tcp": // that asks again on a busy machine
			t.Errorf("%s: %d records for %v: %+v", key, records, probes, told[key])
		}
		for _, d := range told[key] {
			var all []error
			ok := false
			for _, p := range probes {
				err := recordSays(d, expected[p])
				all, ok = append(all, err), ok || err == nil
			}
			if !ok {
				t.Errorf("%s: record of %v: %v", key, probes, errors.Join(all...))
			}
		}
		delete(told, key)
	}
	for key, drops := range told {
		t.Errorf("%d records of what is not denied: %s: %+v", len(drops), key, drops)
	}
}

// endOf is where the packet was to go in the end.
func endOf(d api.Drop) netip.AddrPort {
	if d.Backend != nil {
		return netip.AddrPortFrom(d.Backend.Addr, d.Backend.Port)
	}
	return netip.AddrPortFrom(d.Dst.Addr, d.Dst.Port)
}

func dropKey(from netip.Addr, to netip.AddrPort, protocol string) string {
	return fmt.Sprintf("%s > %s %s", from, to, protocol)
}

// recorded is the name of the protocol in records.
func (p policyProbe) recorded() string {
	switch {
	case p.protocol == "icmp" && p.v4:
		return "ICMP"
	case p.protocol == "icmp":
		return "ICMPv6"
	}
	return policyProtocols[p.protocol].String()
}

// recordSays compares a record with a verdict.
func recordSays(d api.Drop, v policyVerdict) error {
	if d.Reason != "policy-"+v.direction() || d.Direction != v.direction() {
		return fmt.Errorf("it says %s of %s, want %s", d.Reason, d.Direction, v.direction())
	}
	want, rule := v.policies, ""
	if v.why.By != "" {
		f := strings.Fields(v.why.By) // kind name direction rule
		want, rule = []string{f[0] + " " + f[1]}, f[2]+" "+f[3]
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(d.Policies))); diff != "" {
		return fmt.Errorf("it names other policies (-want +got): %s", diff)
	}
	if !strings.HasPrefix(d.Rule, rule) || rule == "" && d.Rule != "" {
		return fmt.Errorf("it names rule %q, want %q", d.Rule, rule)
	}
	return nil
}
