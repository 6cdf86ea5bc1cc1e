package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// startPolicies isolates the pods of two namespaces: those of the first from everything,
// those of the second from all but the peers.
const startPolicies = `apiVersion: v1
kind: Namespace
metadata: {name: peers, labels: {name: peers}}
---
apiVersion: v1
kind: Namespace
metadata: {name: open, labels: {name: open}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: closed}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: peers, namespace: open}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {matchLabels: {name: peers}}}]}]
  egress: [{to: [{namespaceSelector: {matchLabels: {name: peers}}}]}]
`

// starts is a cluster whose peers, one on each node, spray at the addresses that pods of
// node 1 have or will have next.
type starts struct {
	c     *cluster.Cluster
	node  *cluster.Node
	peers []*cluster.Pod
	taps  []*tap
	at    []netip.AddrPort // of the peers

	mu      sync.Mutex
	sprays  []*spray
	count   int
	sent    int64 // by pods
	retries int   // of ADD
}

func newStarts(t *testing.T) *starts {
	t.Helper()
	s := &starts{c: start(t, cluster.Spec{Nodes: 2})}
	s.node = s.c.Nodes[0]
	if err := s.c.WriteObject("policies", startPolicies); err != nil {
		t.Fatal(err)
	}
	for _, n := range s.c.Nodes {
		p, err := n.NewPod("peer-" + n.Name)
		if err != nil {
			t.Fatal(err)
		}
		p.Namespace = "peers"
		if err := p.Add(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, a := range p.Addrs() {
			server, err := traffic.Serve(p.NS, netip.AddrPortFrom(a, 80))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Close)
			s.at = append(s.at, netip.AddrPortFrom(a, 80))
		}
		s.peers, s.taps = append(s.peers, p), append(s.taps, newTap(t, p.NS))
		s.sprays = append(s.sprays, newSpray(t, p.NS, time.Millisecond))
		testnet.Until(t, 10*time.Second, func() error {
			all, err := n.Client().Policies(t.Context())
			if err == nil && len(all) != 2 {
				err = fmt.Errorf("%s knows %d policies, want 2", n.Name, len(all))
			}
			return err
		})
	}
	s.aim(s.peers[0])
	return s
}

// aim lets the peers spray at a pod's addresses and the few that come after.
func (s *starts) aim(p *cluster.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const ahead = 6
	var to []netip.AddrPort
	for _, a := range p.Addrs() {
		for range ahead {
			to = append(to, netip.AddrPortFrom(a, 80))
			a = a.Next()
		}
	}
	for _, y := range s.sprays {
		y.targets.Store(&to)
	}
}

// attach adds the pod, again and again as a runtime does.
func (s *starts) attach(ctx context.Context, p *cluster.Pod) error {
	for {
		err := p.Add(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.mu.Lock()
		s.retries++
		s.mu.Unlock()
		if err := p.Detach(ctx); err != nil && ctx.Err() != nil {
			return err
		}
		select { // runtimes do not try at once either
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// one starts a pod that sprays at the peers from before its first device is there, looks
// at it, and deletes it.
func (s *starts) one(t *testing.T, namespace string, known bool) {
	t.Helper()
	s.mu.Lock()
	s.count++
	name := fmt.Sprintf("%s-%d", namespace, s.count)
	s.mu.Unlock()
	p, err := s.node.NewPod(name)
	if err != nil {
		t.Error(err)
		return
	}
	p.Namespace = namespace
	arrived := newTap(t, p.NS)
	var own *spray
	if namespace == "closed" {
		own = newSpray(t, p.NS, 200*time.Microsecond, s.at...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.attach(ctx, p); err != nil {
		t.Error(err)
		return
	}
	s.aim(p)
	if namespace == "open" && known {
		s.firstSYN(t, p)
	}
	if namespace == "closed" {
		s.silent(t, p, arrived, own)
	}
	if err := p.Detach(ctx); err != nil {
		t.Error(err)
	}
	arrived.close()
	if err := p.NS.Close(); err != nil {
		t.Error(err)
	}
}

// firstSYN wants the pod's first SYN to each peer to be answered: the second would be sent
// after a second.
func (s *starts) firstSYN(t *testing.T, p *cluster.Pod) {
	t.Helper()
	for _, at := range s.at {
		if _, err := traffic.Ask(p.NS, at, 900*time.Millisecond); err != nil {
			t.Errorf("first SYN of a pod that may: %v", err)
		}
	}
}

// silent watches a pod for a while, in which both sides spray, and wants nothing to have
// arrived at either.
func (s *starts) silent(t *testing.T, p *cluster.Pod, arrived *tap, own *spray) {
	t.Helper()
	began := own.sent.Load()
	testnet.Until(t, 20*time.Second, func() error {
		if n := own.sent.Load() - began; n < 200 {
			return fmt.Errorf("%s has sent %d packets", p.Name, n)
		}
		return nil
	})
	own.stop(t)
	s.mu.Lock()
	s.sent += own.sent.Load()
	s.mu.Unlock()
	if n := arrived.seen(netip.Addr{}); n > 0 {
		t.Errorf("%d packets have come into %s, which nothing may reach", n, p.Name)
	}
	for i, peer := range s.taps {
		for _, a := range p.Addrs() {
			if n := peer.seen(a); n > 0 {
				t.Errorf("%d packets of %s (%s) have come to %s, to which nothing of it may go", n, p.Name, a, s.peers[i].Node.Name)
			}
		}
	}
}

// many starts so many pods, a few at a time, those of the second namespace every third.
func (s *starts) many(t *testing.T, n int, known bool) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s.one(t, []string{"closed", "closed", "open"}[i%3], known)
		})
	}
	wg.Wait()
}

// P2: no packet gets into or out of a pod that policies isolate, from the first moment of
// its device on, whatever becomes of the daemon and the source meanwhile; and what may
// passes at once.
func TestNoPacketBeforePolicy(t *testing.T) {
	t.Parallel()
	number := 102
	if os.Getenv("WEFT_SOAK") != "" {
		number = 1002
	}
	s := newStarts(t)
	s.many(t, number/2, true)
	t.Logf("daemon normal: %d pods", s.count)

	// It is killed and started again, on and on.
	stop, ended := make(chan struct{}), make(chan struct{})
	kills := 0
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(700 * time.Millisecond):
			}
			if err := s.node.Kill(); err != nil {
				t.Error(err)
			}
			if err := s.node.Start(); err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			err := s.node.WaitReady(ctx)
			cancel()
			if err != nil {
				t.Error(err)
				return
			}
			kills++
		}
	}()
	s.many(t, number/3, true)
	close(stop)
	<-ended
	t.Logf("daemon killed %d times: %d pods, %d ADDs repeated", kills, s.count, s.retries)
	if kills == 0 {
		t.Error("the daemon was never killed")
	}

	// The folder is away, and the daemon is new.
	if err := os.Rename(s.c.Source, s.c.Source+".away"); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	restart(t, s.node)
	before := s.count
	s.many(t, number-number/2-number/3, false)
	late, err := s.node.NewPod("late")
	if err != nil {
		t.Fatal(err)
	}
	late.Namespace = "open"
	if err := late.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := traffic.Ask(late.NS, s.at[0], 500*time.Millisecond); err == nil {
		t.Error("a pod of which it is not known what applies is not closed")
	}
	if err := os.Rename(s.c.Source+".away", s.c.Source); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, 10*time.Second, func() error {
		_, err := traffic.Ask(late.NS, s.at[0], 200*time.Millisecond)
		return err
	})
	t.Logf("source away: %d pods", s.count-before)
	for _, y := range s.sprays {
		if n := y.sent.Load(); n < 1000 {
			t.Errorf("a peer has sprayed %d packets: too few to prove anything", n)
		}
	}
	t.Logf("%d pods, which sprayed %d packets", s.count, s.sent)
}
