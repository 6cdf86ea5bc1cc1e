package policy

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/policy/oracle"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

const icmp = 1

// agree compares what the rows say with what the objects say: for every attachment, every
// address and port, in both directions; and the rule that is named for it.
func agree(t *testing.T, w *world, c *Compiler, rows *table) {
	t.Helper()
	o := w.oracle()
	remotes := w.remotes()
	classes := map[bpf.Class]bool{}
	for _, l := range w.locals {
		i, known := c.Isolation(l.Ref)
		pod := o.Pod(l.Namespace, l.Name)
		if pod != nil && l.Labels != nil && !contains(w.state.Pods, pod) { // each attachment has its own
			pod = &source.Pod{Namespace: l.Namespace, Name: l.Name, Labels: l.Labels}
		} else if pod != nil && l.Labels == nil && !contains(w.state.Pods, pod) {
			pod = nil
		}
		space := false
		for _, n := range w.state.Namespaces {
			space = space || n.Name == l.Namespace
		}
		if want := pod != nil && (space || len(w.state.ClusterPolicies) == 0); known != want {
			t.Errorf("%s/%s: known = %t, want %t", l.Namespace, l.Name, known, want)
		}
		if !known {
			if i != Closed {
				t.Errorf("%s/%s is not known, but has %v", l.Namespace, l.Name, i)
			}
			continue
		}
		for _, remote := range remotes {
			classes[rows.class(remote)] = true
			for _, protocol := range []source.Protocol{source.TCP, source.UDP, source.SCTP, icmp} {
				for _, port := range []uint16{0, 1, 53, 54, 80, 81, 90, 8080, 8081, 65535} {
					if (protocol == icmp) != (port == 0) {
						continue
					}
					for d, set := range [...]bpf.RuleSet{i.Ingress, i.Egress} {
						want := o.Judge(pod, d == 0, remote, protocol, port)
						got, index := rows.verdict(set, remote, bpf.Protocol(protocol), port)
						if by := attributed(c, set, got, index); got != want.Allowed || by != by2(want) {
							t.Fatalf("%s %s/%s with %s, protocol %d port %d: got %t by %q, want %t by %q",
								direction(d), l.Namespace, l.Name, remote, protocol, port, got, by, want.Allowed, by2(want))
						}
					}
				}
			}
		}
	}
}

func contains(all []*source.Pod, p *source.Pod) bool {
	for _, q := range all {
		if p == q {
			return true
		}
	}
	return false
}

// attributed is Attribution in the oracle's words.
func attributed(c *Compiler, set bpf.RuleSet, allowed bool, index uint16) string {
	if set == 0 {
		return ""
	}
	a := c.Attribution(set, index)
	switch {
	case a.Policy != "":
		return fmt.Sprintf("%s %s %s %d", a.Kind, a.Policy, a.Direction, a.Rule)
	case !allowed && len(a.Isolating) > 0:
		return "default"
	case allowed:
		return ""
	}
	return "nothing"
}

func by2(v oracle.Verdict) string {
	if !v.Allowed && v.By == "" {
		return "default"
	}
	return v.By
}

// live runs a world through changes, and checks after each that the rows are those of a
// fresh compiler, and those that the objects want.
func live(t *testing.T, seed uint64, changes int) {
	w := newWorld(seed)
	c, rows := New("node0"), newTable(t)
	told := map[api.Ref]Isolation{}
	onlyPolicies := false
	for step := range changes + 1 {
		if step > 0 {
			if onlyPolicies = w.yes(2); onlyPolicies {
				w.changePolicies()
			} else {
				for range 1 + w.IntN(3) {
					w.change()
				}
			}
		}
		before := maps.Clone(rows.classes)
		inForce := verdicts(w, told, rows)
		change := c.Update(w.state, w.locals, rows)
		if !maps.Equal(before, rows.classes) && !change.Rejudge {
			t.Error("classes changed, but nothing is to be judged again")
		}
		agree(t, w, c, rows)
		if onlyPolicies {
			if d := cmp.Diff(verdicts(w, told, rows), inForce); d != "" {
				t.Errorf("verdicts of the sets that are still in force (-got +want):\n%s", d)
			}
		}
		if swept := c.Sweep(none, rows); len(swept.Pods) > 0 || swept.Rejudge {
			t.Errorf("the sweep changes %+v", swept)
		}
		fresh, want := New("node0"), newTable(t)
		fresh.Update(w.state, w.locals, want)
		if d := cmp.Diff(rows.classes, want.classes, cmp.Comparer(func(a, b bpf.Class) bool { return a == b })); d != "" {
			t.Errorf("classes (-got +fresh):\n%s", d)
		}
		if d := cmp.Diff(rows.rules, want.rules); d != "" {
			t.Errorf("rules (-got +fresh):\n%s", d)
		}
		if got, want := c.Stats(), fresh.Stats(); got != want {
			t.Errorf("got stats %+v, fresh %+v", got, want)
		}
		if c.rows != len(rows.rules) {
			t.Errorf("counts %d rows, has %d", c.rows, len(rows.rules))
		}
		agree(t, w, c, rows)
		now := map[api.Ref]Isolation{}
		var changed []api.Ref
		for _, l := range w.locals {
			i, _ := c.Isolation(l.Ref)
			now[l.Ref] = i
			if f, _ := fresh.Isolation(l.Ref); f != i {
				t.Errorf("%s: got %v, fresh %v", l.Ref, i, f)
			}
			if was, had := told[l.Ref]; !had || was != i {
				changed = append(changed, l.Ref)
			}
		}
		for _, ref := range changed {
			if !containsRef(change.Pods, ref) {
				t.Errorf("%s has another isolation, but was not told", ref)
			}
		}
		told = now
		calls := rows.calls
		if again := c.Update(w.state, w.locals, rows); len(again.Pods) > 0 || again.Rejudge || rows.calls != calls {
			t.Errorf("the same again changes %+v, with %d calls", again, rows.calls-calls)
		}
		if t.Failed() {
			t.Fatalf("seed %d, step %d", seed, step)
		}
	}
}

func none(bpf.RuleSet) bool { return false }

// verdicts is what the data path does while the pods' rows still have these sets.
func verdicts(w *world, sets map[api.Ref]Isolation, rows *table) map[string]bool {
	out := map[string]bool{}
	for ref, i := range sets {
		for _, remote := range w.remotes() {
			for _, port := range []uint16{53, 80, 8080} {
				in, _ := rows.verdict(i.Ingress, remote, bpf.TCP, port)
				e, _ := rows.verdict(i.Egress, remote, bpf.TCP, port)
				out[fmt.Sprint(ref, " ingress ", remote, port)], out[fmt.Sprint(ref, " egress ", remote, port)] = in, e
			}
		}
	}
	return out
}

func containsRef(all []api.Ref, ref api.Ref) bool {
	for _, r := range all {
		if r == ref {
			return true
		}
	}
	return false
}

func TestRowsSayWhatTheObjectsSay(t *testing.T) {
	for seed := range uint64(60) {
		live(t, seed, 12)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint64(0))
	f.Fuzz(func(t *testing.T, seed uint64) { live(t, seed, 6) })
}
