package kube

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

// shortLease gives a holder that a busy machine holds up two seconds to end in.
var shortLease = leaseTimes{valid: 3 * time.Second, safe: time.Second, renew: 50 * time.Millisecond, ask: 50 * time.Millisecond}

// candidate is a daemon that takes part.
type candidate struct {
	*place
	leads  chan context.Context // of each term
	cancel context.CancelFunc
	done   chan struct{}
}

// elect has the source of a node take part, on the cluster of p. now counts who leads.
func (p *place) elect(node string, now *atomic.Int32) *candidate {
	p.t.Helper()
	opts := p.opts
	opts.Node, opts.lease, opts.StateFile = node, shortLease, ""
	s, err := Open(opts)
	if err != nil {
		p.t.Fatal(err)
	}
	own := *p
	own.startWith(s)
	c := &candidate{place: &own, leads: make(chan context.Context, 16), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(p.t.Context())
	c.cancel = cancel
	go func() {
		defer close(c.done)
		_ = s.Elect(ctx, func(ctx context.Context) { // ends with ctx only
			if now.Add(1) > 1 {
				p.t.Errorf("%s leads beside another", node)
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

func TestOneOfAllLeadsAndAnotherAfterItsDeath(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1), mkNode("node-b", 2), mkNode("node-c", 3))
	var now atomic.Int32
	all := map[string]*candidate{}
	for _, node := range []string{"node-a", "node-b", "node-c"} {
		all[node] = p.elect(node, &now)
	}
	for len(all) > 0 {
		var leader string
		deadline := time.After(20 * time.Second)
		for leader == "" {
			select {
			case <-all["node-a"].term():
				leader = "node-a"
			case <-all["node-b"].term():
				leader = "node-b"
			case <-all["node-c"].term():
				leader = "node-c"
			case <-deadline:
				t.Fatalf("nobody leads of %d", len(all))
			}
		}
		if l := p.Lease("kube-system", LeaseName); l == nil || *l.Spec.HolderIdentity != leader {
			t.Errorf("%s leads, but the Lease is %v", leader, l)
		}
		all[leader].cancel()
		<-all[leader].done
		delete(all, leader)
	}
}

// term is the terms of a candidate; of one that is not there, nothing comes.
func (c *candidate) term() <-chan context.Context {
	if c == nil {
		return nil
	}
	return c.leads
}

// A daemon that comes back goes on, and need not wait until its own Lease is over.
func TestHolderThatRestartsGoesOn(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	long := metav1.NowMicro()
	holder, seconds := "node-a", int32(3600)
	p.Put(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: LeaseName, Labels: map[string]string{"kept": "yes"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &long},
	})
	var now atomic.Int32
	c := p.elect("node-a", &now)
	receive(t, "it leads", c.leads)
	if l := p.Lease("kube-system", LeaseName); l.Labels["kept"] != "yes" || l.Spec.LeaseTransitions == nil || *l.Spec.LeaseTransitions != 0 {
		t.Errorf("Lease: %+v", l)
	}
}

func TestLeaderEndsWhenItsLeaseIsAnothers(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	var now atomic.Int32
	c := p.elect("node-a", &now)
	ctx := receive(t, "it leads", c.leads)
	l := p.Lease("kube-system", LeaseName).DeepCopy()
	other := "node-b"
	l.Spec.HolderIdentity = &other
	p.Put(l)
	receive(t, "it ends", ctx.Done())
	receive(t, "it leads again, as the other does not renew", c.leads)
}

// No server answers: long before another may take over, nothing is written any more.
func TestLeaderEndsInTimeWhenItCannotRenew(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkNode("node-a", 1))
	var now atomic.Int32
	c := p.elect("node-a", &now)
	ctx := receive(t, "it leads", c.leads)
	server.Freeze()
	receive(t, "it ends", ctx.Done())
	if c.elector.holds() {
		t.Error("it ends, and holds the Lease all the same")
	}
	server.Thaw()
	receive(t, "it leads again", c.leads)
}

func TestLeaderListsServicesAnewFirst(t *testing.T) {
	for _, options := range []testkube.Options{{}, {NoStream: true}} {
		p := newPlace(t)
		p.Set(options)
		p.servers(p.Serve().Addr)
		p.Put(mkNode("node-a", 1), mkService("web", "10.96.0.1"))
		p.Fail(func(r *http.Request) int {
			if strings.Contains(r.URL.Path, "leases") {
				return http.StatusServiceUnavailable
			}
			return 0
		})
		var now atomic.Int32
		c := p.elect("node-a", &now)
		c.until("synced", func(s source.State) bool { return s.Complete })
		c.until("no Lease", func(s source.State) bool { return hasProblem(s, ProblemAPI, "load balancers' addresses") })
		p.Asked()
		p.Fail(nil)
		receive(t, "it leads", c.leads)
		want := "stream services"
		if options.NoStream {
			want = "list services"
		}
		asked := strings.Join(p.Asked(), "\n")
		if !strings.Contains(asked, want) {
			t.Errorf("%+v: before it leads, it asked:\n%s", options, asked)
		}
		c.until("no problem", func(s source.State) bool { return len(s.Problems) == 0 })
	}
}

func TestMissingRightsAreAProblem(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1))
	p.Fail(func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "leases") {
			return http.StatusForbidden
		}
		return 0
	})
	var now atomic.Int32
	c := p.elect("node-a", &now)
	c.until("a problem", func(s source.State) bool {
		return hasProblem(s, ProblemAccess, "give us the rights", "lease kube-system/"+LeaseName)
	})
}

// All nodes may be elected, and their looks at the Lease are no load.
func TestLooksOfManyNodesAreFew(t *testing.T) {
	perSecond := 0.0
	for rank := range 5000 {
		e := &elector{times: usualLease, rank: func() int { return rank }}
		perSecond += 1 / e.often().Seconds()
	}
	if perSecond > 2 {
		t.Errorf("%.1f requests a second of 5,000 nodes, want at most 2", perSecond)
	}
}
