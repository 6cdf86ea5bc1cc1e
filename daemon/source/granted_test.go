package source

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func balancedYAML(name, more string) string {
	return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {type: LoadBalancer, loadBalancerClass: weft.dev/l2, clusterIP: 10.96.0.1, ports: [{port: 80}]}\n" + more + "\n"
}

// candidate is a daemon that takes part.
type candidate struct {
	leads  chan context.Context // of each term
	cancel context.CancelFunc
	done   chan struct{}
}

// elect has the source take part. now counts who leads.
func (p *place) elect(now *atomic.Int32) *candidate {
	ctx, cancel := context.WithCancel(p.t.Context())
	c := &candidate{make(chan context.Context, 16), cancel, make(chan struct{})}
	go func() {
		defer close(c.done)
		_ = p.Elect(ctx, func(ctx context.Context) { // ends with ctx only
			if now.Add(1) > 1 {
				p.t.Errorf("%s leads beside another", p.opts.Node)
			}
			c.leads <- ctx
			<-ctx.Done()
			now.Add(-1)
		})
	}()
	p.t.Cleanup(func() {
		cancel()
		<-c.done
	})
	return c
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal(what + ": not so")
		panic("unreachable")
	}
}

// addresses waits until the state says this of Services' addresses and conditions.
func (p *place) addresses(want ...string) State {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s := p.Snapshot()
		var got []string
		for _, v := range s.Services {
			text := v.Name
			for _, l := range v.LoadBalancerIPs {
				text += " " + l.IP.String()
			}
			if v.Balancer != nil && v.Balancer.Condition.Reason != "" {
				text += " " + v.Balancer.Condition.Reason
			}
			got = append(got, text)
		}
		if slices.Equal(got, want) {
			return s
		}
		select {
		case <-p.Changed():
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			p.t.Fatalf("addresses: got %q, want %q", got, want)
		}
	}
}

var allocated = Condition{True: true, Reason: ReasonAllocated}

func (p *place) grant(v *Service, c Condition, ips ...string) {
	p.t.Helper()
	g := Grant{Service: v, Condition: c}
	for _, text := range ips {
		g.IPs = append(g.IPs, netip.MustParseAddr(text))
	}
	if written, err := p.Grant(p.t.Context(), []Grant{g}); err != nil || len(written) != 1 {
		p.t.Fatalf("grant: %d written, %v", len(written), err)
	}
}

func TestGrantsAreReadByAllOnTheFolder(t *testing.T) {
	a := start(t, "", Options{})
	b := start(t, a.dir, Options{Node: "node-b"})
	a.put("s.yaml", balancedYAML("web", "")+balancedYAML("own", "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}"))
	before := a.addresses("own 203.0.113.1", "web")
	var now atomic.Int32
	receive(t, "it leads", a.elect(&now).leads)
	a.grant(before.Services[1], allocated, "192.0.2.7", "2001:db8::7")
	b.addresses("own 203.0.113.1", "web 192.0.2.7 2001:db8::7 Allocated")
	after := a.addresses("own 203.0.113.1", "web 192.0.2.7 2001:db8::7 Allocated")
	if after.Services[0] != before.Services[0] {
		t.Error("what has not changed is another object")
	}
	a.grant(after.Services[0], Condition{Reason: "Exhausted", Message: "none"}) // counts, not what the user's file has
	b.addresses("own Exhausted", "web 192.0.2.7 2001:db8::7 Allocated")

	// Nothing of it is in the user's file, and all is there for who starts later.
	if text, err := os.ReadFile(filepath.Join(a.dir, "s.yaml")); err != nil || strings.Contains(string(text), "192.0.2.7") {
		t.Errorf("the user's file: %v\n%s", err, text)
	}
	c := start(t, a.dir, Options{Node: "node-c"})
	state := c.addresses("own Exhausted", "web 192.0.2.7 2001:db8::7 Allocated")

	a.put("s.yaml", balancedYAML("web", "")) // who is gone has nothing any more
	a.addresses("web 192.0.2.7 2001:db8::7 Allocated")
	a.grant(a.Snapshot().Services[0], Condition{})
	b.addresses("web")
	a.put("s.yaml", balancedYAML("web", "")+balancedYAML("own", ""))
	b.addresses("own", "web")
	if p := state.Problems; len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
}

func TestOneOnTheFolderLeadsAndAnotherAfterIt(t *testing.T) {
	a := start(t, "", Options{})
	a.put("s.yaml", balancedYAML("web", ""))
	b := start(t, a.dir, Options{Node: "node-b"})
	var now atomic.Int32
	first := a.elect(&now)
	receive(t, "the first leads", first.leads)
	second := b.elect(&now)
	a.grant(a.addresses("web").Services[0], allocated, "192.0.2.7")
	first.cancel()
	<-first.done
	receive(t, "the second leads", second.leads)
	v := b.Snapshot().Services[0] // what the first wrote is known at once
	if len(v.LoadBalancerIPs) != 1 {
		t.Errorf("the second leads and knows %+v", v)
	}
	if _, err := a.Grant(t.Context(), []Grant{{Service: v}}); !errors.Is(err, errNotElected) {
		t.Errorf("the first writes: got %v", err)
	}
	b.grant(v, allocated, "192.0.2.8")
	a.addresses("web 192.0.2.8 Allocated")
}

func TestLeaderOnTheFolderEndsWithItsLockFile(t *testing.T) {
	a := start(t, "", Options{})
	a.put("s.yaml", balancedYAML("web", ""))
	var now atomic.Int32
	c := a.elect(&now)
	ctx := receive(t, "it leads", c.leads)
	a.remove("status")
	receive(t, "it ends", ctx.Done())
	receive(t, "it leads again", c.leads)
}

func TestGrantOnTheFolderByAnotherServiceIsNotWritten(t *testing.T) {
	a := start(t, "", Options{})
	a.put("s.yaml", balancedYAML("web", ""))
	v := a.addresses("web").Services[0]
	var now atomic.Int32
	receive(t, "it leads", a.elect(&now).leads)
	a.put("s.yaml", balancedYAML("web", "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}"))
	a.addresses("web 203.0.113.1")
	written, err := a.Grant(t.Context(), []Grant{{Service: v, Condition: allocated}})
	if !errors.Is(err, ErrStale) || len(written) != 0 {
		t.Errorf("got %d written, %v", len(written), err)
	}
	a.addresses("web 203.0.113.1")
}

// A file that somebody damaged does not take the addresses away, and is not overwritten.
func TestDamagedGrantsStayAsTheyWere(t *testing.T) {
	a := start(t, "", Options{})
	a.put("s.yaml", balancedYAML("web", ""))
	v := a.addresses("web").Services[0]
	var now atomic.Int32
	receive(t, "it leads", a.elect(&now).leads)
	a.grant(v, allocated, "192.0.2.7")
	for i, text := range []string{"{", `{"items": [{"metadata": {"name": "web"}, "status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}}]}`, `{"other": 1}`} {
		a.put("status/load-balancers.json", text)
		deadline := time.Now().Add(20 * time.Second)
		for n := 0; n == 0; {
			for _, p := range a.addresses("web 192.0.2.7 Allocated").Problems {
				if p.What == ProblemStatus && strings.Contains(p.Text, "status/load-balancers.json: ") {
					n++
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("case %d: no problem", i)
			}
			<-time.After(10 * time.Millisecond) // problems are not told
		}
		if _, err := a.Grant(t.Context(), []Grant{{Service: a.Snapshot().Services[0]}}); err == nil {
			t.Errorf("case %d: it is overwritten", i)
		}
	}
	a.remove("status/load-balancers.json")
	a.addresses("web")
}

func BenchmarkGrants(b *testing.B) {
	status := map[nameIn]serviceStatus{}
	for i := range 10000 {
		status[nameIn{"x", fmt.Sprintf("s%05d", i)}] = statusOf(Grant{IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, Condition: allocated})
	}
	d := &Dir{grants: grants{dir: b.TempDir()}}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := d.writeGrants(status); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			d.grants.stamp = stamp{}
			d.loadGrants()
		}
	})
}
