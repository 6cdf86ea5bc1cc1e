package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/internal/testnet"
)

// policySizes are the numbers of policies, all of which are about both ends of the load.
var policySizes = []int{1, 100, 10000}

// policyPort is the server's.
const policyPort = 7000

// policyLabs is all parties: two pairs of pods of one node, the first with policies, and
// the peers.
type policyLabs struct {
	c           *cluster.Cluster
	with, limit load.Path
	peers       []*rival.Policies
	names       []string
	undo        []func() error
}

func (l *policyLabs) close() error {
	var errs []error
	for _, f := range slices.Backward(l.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func newPolicyLabs(ctx context.Context, o options) (l *policyLabs, err error) {
	l = &policyLabs{}
	if l.c, err = cluster.New(cluster.Spec{Bin: o.bin}); err != nil {
		return l, err
	}
	l.undo = append(l.undo, l.c.Close)
	started, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := l.c.Start(started); err != nil {
		return l, err
	}
	pair := func(namespace string) (load.Path, error) {
		var pods [2]*cluster.Pod
		for i, name := range []string{"client", "server"} {
			if pods[i], err = l.c.Nodes[0].NewPod(name); err != nil {
				return load.Path{}, err
			}
			pods[i].Namespace = namespace
			if err := pods[i].Add(started); err != nil {
				return load.Path{}, err
			}
		}
		return load.Path{From: pods[0].NS, To: pods[1].NS, Addr: pods[1].IP4, Port: policyPort}, nil
	}
	if l.with, err = pair("bench"); err != nil {
		return l, err
	}
	if l.limit, err = pair("free"); err != nil {
		return l, err
	}
	for _, mode := range []rival.PolicyMode{rival.PolicyNFTables, rival.PolicyIPSet} {
		p, err := rival.NewPolicies(mode)
		if err != nil {
			return l, err
		}
		l.undo = append(l.undo, p.Close)
		l.peers, l.names = append(l.peers, p), append(l.names, string(mode))
	}
	return l, nil
}

// otherAddr is whom the i-th policy is about, besides the pods of the load: nobody.
func otherAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)})
}

// policyYAML is the i-th of n policies about all pods of the namespace bench: each lets
// them talk with one address; the last, with each other.
func policyYAML(i, n int) string {
	peer := fmt.Sprintf("ipBlock: {cidr: %s/32}", otherAddr(i))
	if i == n-1 {
		peer = "podSelector: {}"
	}
	rule := fmt.Sprintf("[{%s: [{%s}], ports: [{port: %d}]}]", "%s", peer, policyPort)
	return fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%05d, namespace: bench}\nspec:\n"+
		"  podSelector: {}\n  policyTypes: [Ingress, Egress]\n  ingress: %s\n  egress: %s\n", i, fmt.Sprintf(rule, "from"), fmt.Sprintf(rule, "to"))
}

// writePolicies makes the source hold n of these.
func writePolicies(c *cluster.Cluster, n int) error {
	for first := 0; first < n; first += perFile {
		var b strings.Builder
		for i := first; i < min(n, first+perFile); i++ {
			b.WriteString(policyYAML(i, n))
		}
		if err := c.WriteObject(fmt.Sprintf("policies-%05d", first), b.String()); err != nil {
			return err
		}
	}
	return nil
}

// resize gives all parties n policies, and waits until they are in force.
func (l *policyLabs) resize(ctx context.Context, n int) error {
	if err := writePolicies(l.c, n); err != nil {
		return err
	}
	if err := policiesInForce(ctx, l.c.Nodes[0], "bench/server", fmt.Sprintf("p%05d", n-1), n); err != nil {
		return err
	}
	for _, p := range l.peers {
		all := make([]rival.Allowed, n)
		for i := range all {
			all[i] = rival.Allowed{From: otherAddr(i), To: p.Same4.Addr, Port: policyPort}
		}
		all[n-1].From = netip.MustParseAddr("10.244.1.2")
		if err := p.Load(all); err != nil {
			return err
		}
	}
	return nil
}

// policiesInForce waits until a node has so many policies in its kernel, one of this name
// among them, which is about the pod.
func policiesInForce(ctx context.Context, n *cluster.Node, pod, name string, count int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return testnet.Wait(ctx, func() error {
		all, err := n.Client().Policies(ctx)
		if err != nil {
			return err
		}
		if len(all) != count {
			return fmt.Errorf("%s knows %d policies, want %d", n.Name, len(all), count)
		}
		// It answers about a pod when what it took up last is in force.
		p, err := n.Client().PodPolicy(ctx, pod)
		if err != nil {
			return err
		}
		if !strings.Contains(strings.Join(p[0].Words, "\n"), name) {
			return fmt.Errorf("%s: policy %s is not in force for pod %s", n.Name, name, pod)
		}
		s, err := n.Client().Status(ctx)
		if err == nil && len(s.Problems) > 0 {
			err = fmt.Errorf("%s has problems: %v", n.Name, s.Problems)
		}
		return err
	})
}

// policyTraffic measures policy_rr_N and policy_crr_N: two pods of a node that N policies
// isolate in both directions, beside two without any in the same cluster (the limit), and
// the peers with as many allowed addresses in their sets; a line for each peer.
func policyTraffic(ctx context.Context, o options, r *report) (err error) {
	name := func(k load.Kind, n int) string { return fmt.Sprintf("policy_%s_%d", k, n) }
	kinds := []load.Kind{load.RR, load.CRR}
	sizes := slices.DeleteFunc(slices.Clone(policySizes), func(n int) bool {
		return !slices.ContainsFunc(kinds, func(k load.Kind) bool { return o.run.MatchString(name(k, n)) })
	})
	if len(sizes) == 0 {
		return nil
	}
	l, err := newPolicyLabs(ctx, o)
	defer func() { err = errors.Join(err, l.close()) }()
	if err != nil {
		return err
	}
	for _, n := range sizes {
		if err := l.resize(ctx, n); err != nil {
			return fmt.Errorf("give %d policies: %w", n, err)
		}
		for _, k := range kinds {
			if !o.run.MatchString(name(k, n)) {
				continue
			}
			if err := l.measure(ctx, o, r, name(k, n), k); err != nil {
				return fmt.Errorf("%s: %w", name(k, n), err)
			}
		}
	}
	return nil
}

func (l *policyLabs) measure(ctx context.Context, o options, r *report, metric string, kind load.Kind) error {
	paths, names := []load.Path{l.with, l.limit}, append([]string{"weft", "limit"}, l.names...)
	for _, p := range l.peers {
		path := p.Same4
		path.Port = policyPort
		paths = append(paths, path)
	}
	values, err := turns(ctx, o, kind, names, paths)
	if err != nil {
		return err
	}
	for j := 2; j < len(paths); j++ {
		if err := r.add(metric, "1/s", names[j], [parties][]float64{weft: values[0], limit: values[1], peer: values[j]}); err != nil {
			return err
		}
	}
	return nil
}

// turns measures all paths in o.rounds, forward and backward.
func turns(ctx context.Context, o options, kind load.Kind, names []string, paths []load.Path) ([][]float64, error) {
	values := make([][]float64, len(paths))
	for i := range o.rounds {
		for j := range paths {
			if i%2 == 1 {
				j = len(paths) - 1 - j
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			v, err := load.Measure(paths[j], kind, 1, o.time)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", names[j], err)
			}
			values[j] = append(values[j], v)
		}
	}
	return values, nil
}
