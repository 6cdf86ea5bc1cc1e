package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/daemon/policy/oracle"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/e2e/cluster"
)

// policyProbe is one question of the truth table.
type policyProbe struct {
	from, to string // a pod, a node, or outside
	via      string // "", "service", or the node whose node port is asked
	// tcp, udp, sctp; fragments: udp, in several; closed: udp, to a port that nobody serves;
	// icmp: an error about such a datagram, which has gone the other way
	protocol string
	port     uint16 // of the backend
	v4       bool
}

func (p policyProbe) String() string {
	way := map[bool]string{true: "v4", false: "v6"}[p.v4]
	text := fmt.Sprintf("%s > %s %s:%d", p.from, p.to, p.protocol, p.port)
	if p.via != "" {
		text = p.via + " " + text
	}
	return text + " " + way
}

// questions are the probes of a case: each pod asks each pod on each port over TCP and UDP,
// both nodes and the host outside; each node asks each pod. also adds: sctp, service (each
// pod asks each through its ClusterIP), nodeport (each pod and the host outside ask each
// pod through both nodes' ports), fragments (as over UDP, and through ClusterIPs), errors
// (each pod asks each other at a closed port, and gets an error by hand about it).
func (w *policyWorld) questions(also string) (all []policyProbe) {
	add := func(p policyProbe) {
		for _, v4 := range []bool{true, false} {
			p.v4 = v4
			all = append(all, p)
		}
	}
	for _, from := range policyNames {
		for _, to := range policyNames {
			for _, port := range policyPorts {
				add(policyProbe{from: from, to: to, protocol: "tcp", port: port})
				add(policyProbe{from: from, to: to, protocol: "udp", port: port})
			}
			if strings.Contains(also, "sctp") {
				add(policyProbe{from: from, to: to, protocol: "sctp", port: 80})
			}
			if strings.Contains(also, "service") {
				add(policyProbe{from: from, to: to, via: "service", protocol: "tcp", port: 80})
				add(policyProbe{from: from, to: to, via: "service", protocol: "udp", port: 80})
			}
			if strings.Contains(also, "nodeport") {
				for _, n := range w.c.Nodes {
					add(policyProbe{from: from, to: to, via: n.Name, protocol: "tcp", port: 80})
				}
			}
			if strings.Contains(also, "fragments") && from != to {
				for _, port := range policyPorts {
					add(policyProbe{from: from, to: to, protocol: "fragments", port: port})
				}
				add(policyProbe{from: from, to: to, via: "service", protocol: "fragments", port: 80})
			}
			if strings.Contains(also, "errors") && from != to {
				add(policyProbe{from: from, to: to, protocol: "closed", port: closedPort})
				add(policyProbe{from: to, to: from, protocol: "icmp", port: closedPort})
			}
		}
		for _, to := range []string{"node-1", "node-2", "outside"} {
			add(policyProbe{from: from, to: to, protocol: "tcp", port: 80})
			add(policyProbe{from: from, to: to, protocol: "udp", port: 81})
			if strings.Contains(also, "fragments") {
				add(policyProbe{from: from, to: to, protocol: "fragments", port: 81})
			}
		}
	}
	for _, to := range policyNames {
		for _, n := range w.c.Nodes {
			add(policyProbe{from: n.Name, to: to, protocol: "tcp", port: 80})
			add(policyProbe{from: n.Name, to: to, protocol: "udp", port: 81})
			if strings.Contains(also, "fragments") {
				add(policyProbe{from: n.Name, to: to, protocol: "fragments", port: 81})
			}
			if strings.Contains(also, "nodeport") {
				add(policyProbe{from: "outside", to: to, via: n.Name, protocol: "tcp", port: 80})
				add(policyProbe{from: "outside", to: to, via: n.Name, protocol: "udp", port: 80})
			}
		}
	}
	return all
}

// target is where a probe is sent.
func (w *policyWorld) target(p policyProbe) netip.AddrPort {
	number := slices.Index(policyNames, p.to)
	switch p.via {
	case "":
		return netip.AddrPortFrom(w.addr(p.to, p.v4), p.port)
	case "service":
		text := map[bool]string{true: "10.96.1.%d", false: "fd00:96::1:%d"}[p.v4]
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(text, 1+number)), 90)
	}
	return netip.AddrPortFrom(w.addr(p.via, p.v4), uint16(30200+number))
}

// policyVerdict is what is to become of a probe, and why.
type policyVerdict struct {
	allowed  bool
	ingress  bool           // the direction that denies
	pod      string         // that is judged
	policies []string       // that isolate it in that direction
	why      oracle.Verdict // of the pod
	sees     netip.Addr     // the source that the receiver sees
	remote   netip.AddrPort // what the sender is judged by
}

func (v policyVerdict) direction() string {
	if v.ingress {
		return "ingress"
	}
	return "egress"
}

var policyProtocols = map[string]source.Protocol{
	"tcp": source.TCP, "udp": source.UDP, "fragments": source.UDP, "closed": source.UDP, "sctp": source.SCTP,
}

// expect asks the oracle. What it does not know is who a receiver sees: that is the
// table of docs/services.md.
func (w *policyWorld) expect(world oracle.World, p policyProbe) policyVerdict {
	if p.protocol == "icmp" {
		return w.expectError(world, p)
	}
	from, to := w.addr(p.from, p.v4), w.target(p)
	sees, remote := from, to
	switch {
	case p.from == p.to && (p.via == "" || p.via == "service" || p.via == w.nodeOf(p.from).Name):
		return policyVerdict{allowed: true} // a pod always reaches itself
	case w.node(p.from) != nil: // its packets have its gateway's address
		if p.from == w.nodeOf(p.to).Name {
			return policyVerdict{allowed: true} // and its own pods are always reached
		}
		sees = gatewayOf(w.node(p.from), p.v4)
	case p.from == "outside":
		a4, a6 := cluster.HostAddrs(254)
		sees = map[bool]netip.Addr{true: a4, false: a6}[p.v4]
		if p.via != w.nodeOf(p.to).Name {
			sees = gatewayOf(w.node(p.via), p.v4)
		}
	case p.via == "service" || p.via == w.nodeOf(p.from).Name:
		remote = netip.AddrPortFrom(w.addr(p.to, p.v4), p.port)
	case p.via != "": // another node's port
		sees = w.addr(w.nodeOf(p.from).Name, p.v4)
		if p.via != w.nodeOf(p.to).Name {
			sees = gatewayOf(w.node(p.via), p.v4)
		}
	}
	protocol := policyProtocols[p.protocol]
	verdict := policyVerdict{sees: sees, remote: remote}
	if pod := w.pods[p.from]; pod != nil {
		judged := world.Pod(pod.Namespace, pod.Name)
		if v := world.Judge(judged, false, remote.Addr(), protocol, remote.Port()); !v.Allowed {
			verdict.pod, verdict.why, verdict.policies = p.from, v, isolating(world, judged, false)
			verdict.sees = from
			return verdict
		}
	}
	if pod := w.pods[p.to]; pod != nil {
		judged := world.Pod(pod.Namespace, pod.Name)
		if v := world.Judge(judged, true, sees, protocol, p.port); !v.Allowed {
			verdict.pod, verdict.why, verdict.policies = p.to, v, isolating(world, judged, true)
			verdict.ingress, verdict.remote = true, netip.AddrPortFrom(w.addr(p.to, p.v4), p.port)
			return verdict
		}
	}
	verdict.allowed = true
	return verdict
}

// isolating are the NetworkPolicies that isolate a pod in a direction, as records name them.
func isolating(world oracle.World, pod *source.Pod, ingress bool) (names []string) {
	for _, p := range world.Policies {
		rules := p.Egress
		if ingress {
			rules = p.Ingress
		}
		if rules != nil && p.Namespace == pod.Namespace && p.Pods.Matches(labels.Set(pod.Labels)) {
			names = append(names, "NetworkPolicy "+p.Namespace+"/"+p.Name)
		}
	}
	slices.Sort(names)
	return names
}

const (
	// denied is how long nobody may answer: shorter than it takes TCP to try again.
	denied = 600 * time.Millisecond
	// apart is between two probes that are denied: fewer are recorded of more a second.
	apart = 1500 * time.Microsecond
)

// sweep asks all questions of a case at once, and returns how many there were.
func (w *policyWorld) sweep(t *testing.T, k policyCase, world oracle.World) int {
	t.Helper()
	all := w.questions(k.also)
	expected := make(map[policyProbe]policyVerdict, len(all))
	var wg sync.WaitGroup
	for _, p := range all {
		expected[p] = w.expect(world, p)
	}
	w.handWritten(t, k, expected)
	w.records.begin(t)
	slots := make(chan struct{}, 200)
	tick := time.NewTicker(apart)
	defer tick.Stop()
	for _, p := range all {
		about := policyProbe{from: p.to, to: p.from, protocol: "icmp", port: p.port, v4: p.v4}
		drops := 0 // packets
		for _, q := range []policyProbe{p, about} {
			if v, asked := expected[q]; asked && !v.allowed && (q == p || p.protocol == "closed") {
				drops += q.weight()
			}
		}
		if p.protocol == "icmp" { // it goes with what it is about
			continue
		}
		for range drops {
			<-tick.C
		}
		if drops == 0 {
			slots <- struct{}{}
		}
		wg.Go(func() {
			if drops == 0 {
				defer func() { <-slots }()
			}
			if p.protocol == "closed" {
				w.errors.ask(t, p, expected[p], expected[about])
			} else {
				w.probe(t, p, expected[p].allowed)
			}
		})
	}
	wg.Wait()
	w.records.compare(t, w, expected)
	return len(all)
}

// probe asks. What should be answered may be lost on a busy machine; what should not be
// must not be once.
func (w *policyWorld) probe(t *testing.T, p policyProbe, want bool) {
	mode := map[string]cluster.Mode{"tcp": cluster.TCP, "udp": cluster.Once, "fragments": cluster.Fragments, "sctp": cluster.SCTP}[p.protocol]
	to := w.target(p)
	wait := denied
	if p.protocol == "sctp" && !want {
		wait = time.Millisecond // it waits longer than that for its only packet
	}
	got := w.askers[p.from].Ask(mode, to, wait)
	for range 3 {
		if !want || got.Seen.IsValid() {
			break
		}
		got = w.askers[p.from].Ask(mode, to, 3*time.Second)
	}
	switch {
	case want && !got.Seen.IsValid():
		t.Errorf("%s: %s, want an answer", p, got)
	case !want && got.Failure != "dropped":
		t.Errorf("%s: %s, want no answer", p, got)
	}
}

// handWritten compares what a case says with what the oracle does.
func (w *policyWorld) handWritten(t *testing.T, k policyCase, expected map[policyProbe]policyVerdict) {
	t.Helper()
	byText := make(map[string]policyProbe, len(expected))
	for p := range maps.Keys(expected) {
		byText[p.String()] = p
	}
	for _, line := range k.want {
		families := []string{" v4", " v6"}
		text := line
		for _, f := range families {
			if cut, ok := strings.CutSuffix(line, f); ok {
				text, families = cut, []string{f}
			}
		}
		question, answer := text[:strings.LastIndex(text, " ")], text[strings.LastIndex(text, " ")+1:]
		for _, f := range families {
			p, ok := byText[question+f]
			if !ok || answer != "yes" && answer != "no" {
				t.Errorf("%q is no question of this case, or has no answer", line)
				continue
			}
			if got := expected[p].allowed; got != (answer == "yes") {
				t.Errorf("%s: the oracle says %t, want %s", p, got, answer)
			}
		}
	}
}
