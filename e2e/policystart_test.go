package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// startPolicies isolates the pods of three namespaces: those of the first from everything,
// those of the second from all but the peers and the guards, and these, which are there
// before, from all but the second's.
const startPolicies = `apiVersion: v1
kind: Namespace
metadata: {name: peers, labels: {name: peers}}
---
apiVersion: v1
kind: Namespace
metadata: {name: open, labels: {name: open}}
---
apiVersion: v1
kind: Namespace
metadata: {name: guards, labels: {name: guards}}
---
apiVersion: v1
kind: Namespace
metadata: {name: closed, labels: {name: closed}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: closed}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some, namespace: open}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {matchLabels: {name: peers}}}]}]
  egress: [{to: [{namespaceSelector: {matchExpressions: [{key: name, operator: In, values: [peers, guards]}]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: guards}
spec:
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {name: open}}}]}]
`

// starts is a cluster whose peers, one on each node, spray at the addresses that pods of
// node 1 have or will have next.
type starts struct {
	c     *cluster.Cluster
	api   *madeAPI // nil: the source is the folder
	node  *cluster.Node
	peers []*cluster.Pod
	taps  []*tap
	at    []netip.AddrPort // of the peers, who let everybody in
	near  []netip.AddrPort // of the guard on the pods' node
	far   []netip.AddrPort // of that on the other one

	mu      sync.Mutex
	sprays  []*spray
	count   int
	sent    int64         // by pods
	retries int           // of ADD
	latest  time.Duration // from a pod's start until the guard on the other node let it in
}

// who says what of new pods is known while they start.
type who struct {
	known bool // to their node: what may pass does, from the first packet on
	told  bool // to the other node, soon
}

func newStarts(t *testing.T, byAPI bool) *starts {
	t.Helper()
	s := &starts{}
	if byAPI {
		s.c, s.api = startWithAPI(t, cluster.Spec{Nodes: 2})
		s.api.write(t, startPolicies)
	} else {
		s.c = start(t, cluster.Spec{Nodes: 2})
		if err := s.c.WriteObject("policies", startPolicies); err != nil {
			t.Fatal(err)
		}
	}
	s.node = s.c.Nodes[0]
	for _, n := range s.c.Nodes {
		p, at := s.server(t, n, "peers")
		s.at = append(s.at, at...)
		s.peers, s.taps = append(s.peers, p), append(s.taps, newTap(t, p.NS))
		s.sprays = append(s.sprays, newSpray(t, p.NS, time.Millisecond))
		testnet.Until(t, 20*time.Second, func() error {
			all, err := n.Client().Policies(t.Context())
			if err == nil && len(all) != 3 {
				err = fmt.Errorf("%s knows %d policies, want 3", n.Name, len(all))
			}
			return err
		})
	}
	_, s.near = s.server(t, s.c.Nodes[0], "guards")
	_, s.far = s.server(t, s.c.Nodes[1], "guards")
	s.aim(s.peers[0])
	return s
}

// server adds a pod that serves.
func (s *starts) server(t *testing.T, n *cluster.Node, namespace string) (p *cluster.Pod, at []netip.AddrPort) {
	t.Helper()
	name := namespace + "-" + n.Name
	p, err := n.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Namespace, p.UID = namespace, uidOf(name)
	if s.api != nil {
		s.api.schedule(n, namespace, name, "")
	}
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range p.Addrs() {
		server, err := traffic.Serve(p.NS, netip.AddrPortFrom(a, 80))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		at = append(at, netip.AddrPortFrom(a, 80))
	}
	return p, at
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

// names are those of so many new pods, which the source is to know, if it is the API: every
// third is of the namespace open, the others of closed.
func (s *starts) names(n int) (names []string) {
	for i := range n {
		s.count++
		namespace := []string{"closed", "closed", "open"}[i%3]
		name := fmt.Sprintf("%s-%d", namespace, s.count)
		if s.api != nil {
			s.api.schedule(s.node, namespace, name, "")
		}
		names = append(names, namespace+"/"+name)
	}
	return names
}

// sprayPort is the peers' port at which new pods spray: the address of one that may do
// nothing was perhaps another's before, who has asked the peers at the port that they serve.
const sprayPort = 81

func (s *starts) spraysAt() (to []netip.AddrPort) {
	for _, at := range s.at {
		to = append(to, netip.AddrPortFrom(at.Addr(), sprayPort))
	}
	return to
}

// many starts pods of these names, a few at a time.
func (s *starts) many(t *testing.T, names []string, w who) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s.one(t, name, w)
		})
	}
	wg.Wait()
}

// one starts a pod, looks at it, and deletes it. One that may do nothing sprays at the peers
// from before its first device is there.
func (s *starts) one(t *testing.T, name string, w who) {
	t.Helper()
	namespace, name, _ := strings.Cut(name, "/")
	p, err := s.node.NewPod(name)
	if err != nil {
		t.Error(err)
		return
	}
	p.Namespace, p.UID = namespace, uidOf(name)
	may := namespace == "open" && w.known
	arrived := newTap(t, p.NS)
	var own *spray
	if !may {
		own = newSpray(t, p.NS, 200*time.Microsecond, s.spraysAt()...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.attach(ctx, p); err != nil {
		t.Error(err)
		return
	}
	s.aim(p)
	if may {
		s.firstSYN(t, p, w.told)
	} else {
		s.silent(t, p, arrived, own)
	}
	if err := p.Detach(ctx); err != nil {
		t.Error(err)
	}
	if s.api != nil {
		s.api.unschedule(s.node, namespace, name)
	}
	arrived.close()
	if err := p.NS.Close(); err != nil {
		t.Error(err)
	}
}

// firstSYN wants the pod's first SYN to each peer, and to the guard of its node, to be
// answered: the second would be sent after a second. The guard on the other node lets it in
// as soon as that has been told.
func (s *starts) firstSYN(t *testing.T, p *cluster.Pod, told bool) {
	t.Helper()
	begin := time.Now()
	for _, at := range slices.Concat(s.near, s.at) {
		if _, err := traffic.Ask(p.NS, at, 900*time.Millisecond); err != nil {
			t.Errorf("first SYN of %s, which may: %v", p.Name, err)
		}
	}
	if !told {
		return
	}
	for _, at := range s.far {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := testnet.Wait(ctx, func() error {
			_, err := traffic.Ask(p.NS, at, 200*time.Millisecond)
			return err
		})
		cancel()
		if err != nil {
			t.Errorf("%s, which may, does not reach the guard on the other node: %v", p.Name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = max(s.latest, time.Since(begin))
}

// silent watches a pod for a while, in which both sides spray, and wants nothing to have
// arrived at either.
func (s *starts) silent(t *testing.T, p *cluster.Pod, arrived *tap, own *spray) {
	t.Helper()
	began := own.sent.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := testnet.Wait(ctx, func() error {
		if n := own.sent.Load() - began; n < 200 {
			return fmt.Errorf("%s has sent %d packets", p.Name, n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	own.stop(t)
	s.mu.Lock()
	s.sent += own.sent.Load()
	s.mu.Unlock()
	if n := arrived.seen(netip.Addr{}, 0); n > 0 {
		t.Errorf("%d packets have come into %s (%s), which nothing may reach: %s", n, p.Name, p.Addrs(), arrived)
	}
	for i, peer := range s.taps {
		for _, a := range p.Addrs() {
			if n := peer.seen(a, sprayPort); n > 0 {
				t.Errorf("%d packets of %s (%s) have come to %s, to which nothing of it may go", n, p.Name, a, s.peers[i].Node.Name)
			}
		}
	}
}

// late adds a pod that may reach the peers, while the source is away: nothing passes it until
// that is back. The result waits until something does.
func (s *starts) late(t *testing.T) (opens func()) {
	t.Helper()
	p, err := s.node.NewPod("late")
	if err != nil {
		t.Fatal(err)
	}
	p.Namespace, p.UID = "open", uidOf("late")
	if s.api != nil {
		s.api.schedule(s.node, "open", "late", "")
	}
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := traffic.Ask(p.NS, s.at[0], 500*time.Millisecond); err == nil {
		t.Error("a pod of which it is not known what applies is not closed")
	}
	return func() {
		t.Helper()
		testnet.Until(t, 30*time.Second, func() error {
			_, err := traffic.Ask(p.NS, s.at[0], 200*time.Millisecond)
			return err
		})
	}
}

// end wants the peers to have sprayed.
func (s *starts) end(t *testing.T) {
	t.Helper()
	for _, y := range s.sprays {
		if n := y.sent.Load(); n < 1000 {
			t.Errorf("a peer has sprayed %d packets: too few to prove anything", n)
		}
	}
	t.Logf("%d pods, which sprayed %d packets; %d ADDs repeated; the guard on the other node let each in within %s of its start",
		s.count, s.sent, s.retries, s.latest.Round(time.Millisecond))
}
