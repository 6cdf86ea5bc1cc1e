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
	"github.com/weftnet/weft/e2e/traffic"
	"github.com/weftnet/weft/internal/testnet"
)

// The cluster of the daemon's metrics: pods of 100 namespaces, of 50 applications in each,
// spread over nodes that are nowhere; 250 of them on the node. Each policy is about one
// application of a namespace, and lets another one, of a namespace or of all, reach it. (A
// folder is taken up as a whole at each change; with ten times the pods, as only the API is
// used, see BenchmarkKubePolicies of package daemon.)
const (
	policySpaces  = 100
	policyApps    = 50
	policyCount   = 10000
	policyPods    = 10000
	policyChanges = 100 // a second
)

func spaceName(i int) string { return fmt.Sprintf("space-%02d", i%policySpaces) }

// farPod is the i-th pod, on a node that is nowhere.
func farPod(i int) string { return farPodOf(i, i/policySpaces%policyApps) }

// farPodOf is the same with another application.
func farPodOf(i, app int) string {
	a6 := netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x33, 0, byte(i / 100 >> 8), byte(i / 100), 15: byte(i%100 + 2)})
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: pod-%d, namespace: %s, labels: {app: app-%d}}
spec: {nodeName: far-%d}
status: {podIPs: [{ip: 10.%d.%d.%d}, {ip: "%s"}]}
`, i, spaceName(i), app, i/100, 40+i>>16, i>>8&255, i&255, a6)
}

// scalePolicy is the i-th policy.
func scalePolicy(i int) string {
	app := i / policySpaces % policyApps
	from := fmt.Sprintf("podSelector: {matchLabels: {app: app-%d}}", (app+1+i/policySpaces/policyApps)%policyApps)
	if i%10 == 0 {
		from += fmt.Sprintf(", namespaceSelector: {matchLabels: {name: %s}}", spaceName(i+1))
	}
	return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: policy-%d, namespace: %s}
spec:
  podSelector: {matchLabels: {app: app-%d}}
  ingress: [{from: [{%s}], ports: [{port: %d}]}]
`, i, spaceName(i), app, from, 8000+i%10)
}

// inFiles writes n objects, many to a file.
func inFiles(c *cluster.Cluster, name string, n int, object func(int) string) error {
	for first := 0; first < n; first += perFile {
		var b strings.Builder
		for i := first; i < min(n, first+perFile); i++ {
			b.WriteString(object(i))
		}
		if err := c.WriteObject(fmt.Sprintf("%s-%06d", name, first), b.String()); err != nil {
			return err
		}
	}
	return nil
}

// policyDaemon measures policy_cold_s, policy_pss_mib and policy_change_*: a node of a
// cluster with 10,000 policies and 10,000 pods. Cold is from the process's start, with pods
// from before, until all is in force, reading the folder included. They have no peer and no
// limit.
func policyDaemon(ctx context.Context, o options, r *report) (err error) {
	const cold, pss, p50, p99 = "policy_cold_s", "policy_pss_mib", "policy_change_p50_ms", "policy_change_p99_ms"
	if !slices.ContainsFunc([]string{cold, pss, p50, p99}, o.run.MatchString) {
		return nil
	}
	add := func(name, unit string, v float64) error {
		if !o.run.MatchString(name) {
			return nil
		}
		return r.add(name, unit, "", [parties][]float64{weft: {v}})
	}
	c, err := cluster.New(cluster.Spec{Bin: o.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	n := c.Nodes[0]
	started, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := errors.Join(n.Start(), n.WaitReady(started)); err != nil {
		return err
	}
	for i := range o.pods {
		p, err := n.NewPod(fmt.Sprintf("pod-%d", policyPods+i))
		if err != nil {
			return err
		}
		p.Namespace = spaceName(i)
		if err := p.Add(ctx); err != nil {
			return err
		}
	}
	if err := n.Kill(); err != nil {
		return err
	}
	err = errors.Join(
		c.WriteObject("far-nodes", cluster.FarNodes(policyPods/100)),
		inFiles(c, "spaces", policySpaces, func(i int) string {
			return fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {name: %[1]s}}\n", spaceName(i))
		}),
		inFiles(c, "pods", policyPods, farPod),
		inFiles(c, "own", o.pods, func(i int) string {
			return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: pod-%d, namespace: %s, labels: {app: app-%d}}\nspec: {nodeName: %s}\n",
				policyPods+i, spaceName(i), i/policySpaces%policyApps, n.Name)
		}),
		inFiles(c, "policies", policyCount, scalePolicy))
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := n.Start(); err != nil {
		return err
	}
	if err := policiesInForce(ctx, n, fmt.Sprintf("%s/pod-%d", spaceName(0), policyPods), "policy-0", policyCount); err != nil {
		return err
	}
	if err := add(cold, "s", time.Since(begin).Seconds()); err != nil {
		return err
	}
	if o.run.MatchString(pss) {
		if err := pause(ctx, 15*time.Second); err != nil { // as in daemonMetrics
			return err
		}
		mib, err := n.PSS()
		if err != nil {
			return err
		}
		if err := add(pss, "MiB", mib); err != nil {
			return err
		}
	}
	if !o.run.MatchString(p50) && !o.run.MatchString(p99) {
		return nil
	}
	before, err := metrics(ctx, n)
	if err != nil {
		return err
	}
	if err := changeLabels(ctx, c, 10*time.Second); err != nil {
		return err
	}
	after, err := metrics(ctx, n)
	if err != nil {
		return err
	}
	for name, q := range map[string]float64{p50: 0.5, p99: 0.99} {
		seconds, err := between(before, after, "weft_policy_change_seconds", q)
		if err != nil {
			return err
		}
		if err := add(name, "ms", 1000*seconds); err != nil {
			return err
		}
	}
	return nil
}

// changeLabels gives 100 pods a second another application, each in a file of its own: one
// that policies of this node's pods name, or one that none does.
func changeLabels(ctx context.Context, c *cluster.Cluster, d time.Duration) error {
	tick := time.NewTicker(time.Second / policyChanges)
	defer tick.Stop()
	for i, end := 0, time.After(d); ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
		}
		pod, app := i%policyChanges, []int{1, policyApps - 1}[i/policyChanges%2]
		if err := c.WriteObject(fmt.Sprintf("changing-%03d", pod), farPodOf(policyPods+1000+pod, app)); err != nil {
			return err
		}
	}
}

// policyPeer measures policy_peer_ready_p99_ms: from when ADD returns on one node until an
// isolated pod of another, which the new one may reach, answers it.
func policyPeer(ctx context.Context, o options, r *report) (err error) {
	const name = "policy_peer_ready_p99_ms"
	if !o.run.MatchString(name) {
		return nil
	}
	c, err := cluster.New(cluster.Spec{Nodes: 2, Bin: o.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	started, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.Start(started); err != nil {
		return err
	}
	if err := writePolicies(c, 1); err != nil {
		return err
	}
	add := func(n *cluster.Node, name string) (*cluster.Pod, error) {
		p, err := n.NewPod(name)
		if err != nil {
			return nil, err
		}
		p.Namespace = "bench"
		return p, p.Add(ctx)
	}
	server, err := add(c.Nodes[1], "server")
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(server.IP4, policyPort)
	answers, err := traffic.Serve(server.NS, at)
	if err != nil {
		return err
	}
	defer answers.Close()
	if err := policiesInForce(ctx, c.Nodes[1], "bench/server", "p00000", 1); err != nil {
		return err
	}
	var took []float64
	for i := range 100 {
		p, err := add(c.Nodes[0], fmt.Sprintf("client-%d", i))
		if err != nil {
			return err
		}
		begin := time.Now()
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		err = firstAnswer(wait, p.NS, at)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		if err := p.Del(ctx); err != nil {
			return err
		}
	}
	return r.add(name, "ms", "", [parties][]float64{weft: {*quantile(took, 0.99)}})
}

// firstAnswer asks by TCP, anew every few milliseconds, until there is an answer.
func firstAnswer(ctx context.Context, from *testnet.NS, to netip.AddrPort) error {
	for {
		_, err := traffic.Ask(from, to, 5*time.Millisecond)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}
