package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// called gives a pod a name, in the namespace default.
func called(name string) func(*api.Attach) {
	return func(a *api.Attach) { a.PodNamespace, a.PodName = "default", name }
}

// labelled gives a pod a name and, by the runtime, labels.
func labelled(name string, labels map[string]string) func(*api.Attach) {
	return func(a *api.Attach) { called(name)(a); a.Labels = labels }
}

const defaultNamespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n"

// denyText is a policy that isolates pods of an app and lets nobody in.
func denyText(name, app string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: default}\n"+
		"spec: {podSelector: {matchLabels: {app: %q}}, policyTypes: [Ingress]}\n", name, app)
}

// allowText is one that lets some app reach UDP port 7 of another.
func allowText(name, app, from string) string {
	return denyText(name, app) + fmt.Sprintf("  ingress: [{from: [{podSelector: {matchLabels: {app: %q}}}], ports: [{protocol: UDP, port: 7}]}]\n", from)
}

// flat turns the last line of a policy into block style, so that rules can follow.
func flat(text string) string {
	return strings.NewReplacer("spec: {podSelector", "spec:\n  podSelector", ", policyTypes: [Ingress]}", "\n  policyTypes: [Ingress]").Replace(text)
}

// TestPolicyIsInForceOnTheNode is the way of a policy from the folder to a packet.
func TestPolicyIsInForceOnTheNode(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	for _, m := range []*machine{a, b} {
		m.usual()
		m.start()
	}
	a.ready()
	b.ready()
	l.file("namespace.yaml", defaultNamespace)
	server := a.attach(labelled("server", map[string]string{"app": "server"}))
	friend := a.attach(labelled("friend", map[string]string{"app": "friend"}))
	stranger := a.attach(labelled("stranger", nil))
	far := b.attach(labelled("far", map[string]string{"app": "friend"}))
	everybody := map[*pod]string{friend: "friend", stranger: "stranger", far: "friend on another node"}
	for p := range everybody {
		l.reach(converge, p.NS, server)
	}
	reached := func(p *pod, want bool) {
		t.Helper()
		testnet.Until(t, soon, func() error {
			if err := ask(p.NS, server.addrs...); (err == nil) != want {
				return fmt.Errorf("%s asks: %v, want an answer: %v", everybody[p], err, want)
			}
			return nil
		})
	}
	l.file("policy.yaml", flat(denyText("none", "server")))
	for p := range everybody {
		reached(p, false)
	}
	if err := askOnce(server.NS, friend.addrs...); err != nil {
		t.Errorf("a pod that is isolated against what comes in cannot ask others: %v", err)
	}
	if err := askOnce(a.NS, server.addrs...); err != nil {
		t.Errorf("the node cannot reach its own pod: %v", err)
	}
	l.file("policy.yaml", flat(denyText("none", "server"))+"---\n"+flat(allowText("some", "server", "friend")))
	reached(friend, true)
	reached(far, true)
	if err := ask(stranger.NS, server.addrs[0]); err == nil {
		t.Error("a stranger is let in")
	}
	for _, m := range []*machine{a, b} {
		if s, err := m.client().Status(context.Background()); err != nil || len(s.Problems) > 0 {
			t.Errorf("%s has problems: %+v, %v", m.name(), s.Problems, err)
		}
	}
	l.droppedBecause(a, server, stranger, "policy-ingress", "default/none")

	l.explains(a, "default/stranger", "default/server:7/udp", "denied", "none: no policy is about the egress of default/stranger", "denied: default deny by default/none, default/some")
	l.explains(a, "friend", "server:7/udp", "allowed", "none: no policy is about the egress of default/friend", "allowed: NetworkPolicy default/some, ingress rule 0")
	l.explains(a, "friend", "server:8/udp", "denied", "none: no policy is about the egress of default/friend", "denied: default deny by default/none, default/some")
	l.explains(a, "far", "server:7/udp", "unknown", "unknown: default/far is on node node-2, which knows: run the same command there", "allowed: NetworkPolicy default/some, ingress rule 0")
	l.explains(b, "far", "server", "unknown", "none: no policy is about the egress of default/far", "unknown: default/server is on node node-1, which knows: run the same command there")
	l.explains(a, "192.0.2.1", "server", "allowed", "none: the node itself always reaches its pods, and no policy isolates it", "none: the node itself always reaches its pods, and no policy isolates it")

	// A new daemon finds all as it is; meanwhile nothing changes.
	a.stop(9)
	if err := askOnce(friend.NS, server.addrs...); err != nil {
		t.Errorf("without a daemon a friend cannot ask: %v", err)
	}
	if err := ask(stranger.NS, server.addrs[0]); err == nil {
		t.Error("without a daemon a stranger is let in")
	}
	a.start()
	a.ready()
	if err := askOnce(friend.NS, server.addrs...); err != nil {
		t.Errorf("with a new daemon a friend cannot ask: %v", err)
	}
	if err := ask(stranger.NS, server.addrs[0]); err == nil {
		t.Error("with a new daemon a stranger is let in")
	}

	// A pod that comes is isolated from the first packet on.
	late := a.attach(labelled("late", map[string]string{"app": "server"}))
	if err := ask(stranger.NS, late.addrs[0]); err == nil {
		t.Error("a stranger reaches a new pod")
	}
	if err := askOnce(friend.NS, late.addrs...); err != nil {
		t.Errorf("a friend does not reach a new pod at once: %v", err)
	}

	l.file("policy.yaml", "")
	reached(stranger, true)
	a.until("nothing is left of policies", func(s api.Status) bool {
		return rowsOf(s, "rules") == 0 && rowsOf(s, "classes") == 0
	})
}

// droppedBecause waits for the record of a drop between two pods.
func (l *lab) droppedBecause(m *machine, to, from *pod, reason, policy string) {
	l.t.Helper()
	testnet.Until(l.t, 20*time.Second, func() error {
		drops, err := m.client().Drops(context.Background())
		if err != nil {
			return err
		}
		for _, d := range drops {
			if d.Src.Addr == from.addrs[0] && d.Dst.Addr == to.addrs[0] && d.Reason == reason && strings.Contains(d.Why, policy) {
				return nil
			}
		}
		return fmt.Errorf("no record of %s by %s from %s to %s in %+v", reason, policy, from.addrs[0], to.addrs[0], drops)
	})
}

// explains compares what a node says of a packet, in both families.
func (l *lab) explains(m *machine, from, to, verdict, egress, ingress string) {
	l.t.Helper()
	e, err := m.client().Explain(context.Background(), api.ExplainRequest{From: from, To: to})
	if err != nil {
		l.t.Errorf("explain %s %s: %v", from, to, err)
		return
	}
	families := 2
	if _, err := netip.ParseAddr(from); err == nil {
		families = 1
	}
	if len(e.Ways) != families {
		l.t.Errorf("explain %s %s: %d ways, want %d", from, to, len(e.Ways), families)
	}
	want := []string{verdict, egress, ingress}
	for _, w := range e.Ways {
		got := []string{w.Verdict, sayJudgement(w.Egress), sayJudgement(w.Ingress)}
		if diff := cmp.Diff(want, got); diff != "" {
			l.t.Errorf("explain %s %s (-want +got):\n%s", from, to, diff)
		}
	}
}
