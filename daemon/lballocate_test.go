package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/daemon/loadbalancer"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// fakeGranter is a source that shows what was granted when it is told to.
type fakeGranter struct {
	mu     sync.Mutex
	state  source.State
	behind []source.Grant // granted, and not shown yet
	slow   bool           // it shows nothing by itself
	fail   error
	calls  int
}

func (f *fakeGranter) Snapshot() source.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fakeGranter) Elect(ctx context.Context, lead func(context.Context)) error {
	lead(ctx)
	return nil
}

func (f *fakeGranter) Grant(_ context.Context, list []source.Grant) (written []source.Grant, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.fail != nil {
		return nil, f.fail
	}
	f.behind = append(f.behind, list...)
	if !f.slow {
		f.show()
	}
	return list, nil
}

// show puts what was granted into the state. f.mu is held.
func (f *fakeGranter) show() {
	f.state.Services = slices.Clone(f.state.Services)
	for _, g := range f.behind {
		for i, s := range f.state.Services {
			if s.Name == g.Service.Name {
				f.state.Services[i] = loadbalancer.Applied(source.Grant{Service: s, IPs: g.IPs, Condition: g.Condition})
			}
		}
	}
	f.behind = nil
}

// change changes the fake, and tells the allocator.
func (f *fakeGranter) change(a *allocator, how func()) {
	f.mu.Lock()
	how()
	f.mu.Unlock()
	a.wake()
}

func balanced(names ...string) []*source.Service {
	var out []*source.Service
	for _, n := range names {
		out = append(out, &source.Service{
			Namespace: "x", Name: n, Type: "LoadBalancer", LoadBalancerClass: loadbalancer.Class, Balancer: &source.Balancer{IPv4: true},
		})
	}
	return out
}

// runAllocator runs an allocator of three addresses on a fake.
func runAllocator(t *testing.T, f *fakeGranter) *allocator {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := Config{LoadBalancerPools: "[{name: a, addresses: [198.51.100.1-198.51.100.3]}]"}
	a := newAllocator(cfg, f, newProblems(log), log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

func (f *fakeGranter) until(t *testing.T, is func() error) {
	t.Helper()
	testnet.Until(t, 20*time.Second, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		return is()
	})
}

func TestAllocatorFollowsServices(t *testing.T) {
	f := &fakeGranter{state: source.State{Complete: true, Services: balanced("s1", "s2")}}
	a := runAllocator(t, f)
	have := func(names ...string) func() error {
		return func() error {
			seen := map[netip.Addr]bool{}
			for _, s := range f.state.Services {
				for _, l := range s.LoadBalancerIPs {
					if seen[l.IP] {
						t.Fatalf("%s is there twice", l.IP)
					}
					seen[l.IP] = true
				}
				if want := slices.Contains(names, s.Name); want != (len(s.LoadBalancerIPs) == 1) {
					return fmt.Errorf("%s has %v", s.Name, s.LoadBalancerIPs)
				}
			}
			return nil
		}
	}
	f.until(t, have("s1", "s2"))
	f.change(a, func() { f.state.Services = append(slices.Clone(f.state.Services), balanced("s3", "s4")...) })
	f.until(t, have("s1", "s2", "s3"))
	testnet.Until(t, 20*time.Second, func() error {
		want := []string{"service x/s4: load balancer's address: no IPv4 address is free in a"}
		var got []string
		for _, p := range a.problems.all() {
			got = append(got, p.Text)
		}
		if !slices.Equal(got, want) {
			a.wake() // the fake does not
			return fmt.Errorf("problems: got %q, want %q", got, want)
		}
		return nil
	})
	usage, refused := a.use()
	if want := []loadbalancer.Usage{{Pool: "a", Family: "IPv4", Used: 3}}; !slices.Equal(usage, want) || refused != 1 || !a.leads.Load() {
		t.Errorf("usage %v, refused %d, leads %v", usage, refused, a.leads.Load())
	}
	f.change(a, func() { f.state.Services = slices.Delete(slices.Clone(f.state.Services), 0, 1) })
	f.until(t, have("s2", "s3", "s4"))
	f.mu.Lock()
	calls := f.calls
	f.mu.Unlock()
	if calls > 4 {
		t.Errorf("%d calls, want one for each change", calls)
	}
}

// The state may show late what was written. Until it does, it counts all the same.
func TestAllocatorKnowsWhatItWrote(t *testing.T) {
	f := &fakeGranter{slow: true, state: source.State{Complete: true, Services: balanced("s1")}}
	a := runAllocator(t, f)
	granted := func(n int) func() error {
		return func() error {
			if len(f.behind) != n {
				return fmt.Errorf("%d granted, want %d", len(f.behind), n)
			}
			return nil
		}
	}
	f.until(t, granted(1))
	for _, next := range []string{"s2", "s3"} {
		f.change(a, func() { f.state.Services = append(slices.Clone(f.state.Services), balanced(next)...) })
		f.until(t, granted(len(f.state.Services)))
	}
	seen := map[netip.Addr]bool{}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.behind {
		if len(g.IPs) != 1 || seen[g.IPs[0]] {
			t.Errorf("%s got %v", g.Service.Name, g.IPs)
		}
		seen[g.IPs[0]] = true
	}
}

func TestAllocatorTriesAgain(t *testing.T) {
	f := &fakeGranter{fail: errors.New("no answer"), state: source.State{Complete: true, Services: balanced("s1")}}
	a := runAllocator(t, f)
	problem := func(want bool) {
		t.Helper()
		testnet.Until(t, 20*time.Second, func() error {
			is := slices.ContainsFunc(a.problems.all(), func(p api.Problem) bool {
				return p.What == problemLoadBalancerWrite && strings.Contains(p.Text, "no answer")
			})
			if is != want {
				return fmt.Errorf("problems: %v", a.problems.all())
			}
			return nil
		})
	}
	problem(true)
	f.mu.Lock()
	f.fail = errors.Join(fmt.Errorf("service x/s1: %w", source.ErrStale)) // no problem: it is told, or was
	f.mu.Unlock()
	problem(false)
	f.change(a, func() { f.fail = nil })
	f.until(t, func() error {
		if len(f.state.Services[0].LoadBalancerIPs) != 1 {
			return errors.New("it has no address")
		}
		return nil
	})
}

func TestWithoutPoolsNothingIsAllocated(t *testing.T) {
	f := &fakeGranter{state: source.State{Complete: true, Services: balanced("s1")}}
	var cfg Config
	a := newAllocator(cfg, f, nil, nil)
	a.wake()
	if err := a.run(t.Context()); a != nil || err != nil || f.calls > 0 {
		t.Errorf("allocator %v, %v, %d calls", a, err, f.calls)
	}
	if got, want := cfg.balancerProblem(f.state.Services[0]), "no load balancer's address: there are no pools (setting load-balancer-pools)"; got != want {
		t.Errorf("problem: got %q, want %q", got, want)
	}
}
