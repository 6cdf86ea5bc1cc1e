package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// With too little room nothing passes that the objects deny, there are never more rows than
// may be, and once there is room the rows are those of a fresh compiler.
func TestTooManyRowsDeny(t *testing.T) {
	closed, short := 0, 0
	for seed := range uint64(60) {
		w := newWorld(seed)
		c, rows := New("node0"), newTable(t)
		c.MaxRows = 16 + int(seed%5)*32
		for step := range 12 {
			w.change()
			c.Update(w.state, w.locals, rows)
			c.Sweep(none, rows)
			if len(rows.rules) > c.MaxRows || c.rows != len(rows.rules) {
				t.Fatalf("seed %d, step %d: got %d rows (it counts %d), may be %d", seed, step, len(rows.rules), c.rows, c.MaxRows)
			}
			closed += strings.Count(strings.Join(c.Problems(), "\n"), "nothing passes")
			short += strings.Count(strings.Join(c.Problems(), "\n"), "are denied, for lack of room")
			stricter(t, w, c, rows)
		}
		c.MaxRows = 0
		c.Update(w.state, w.locals, rows)
		c.Sweep(none, rows)
		fresh, want := New("node0"), newTable(t)
		fresh.Update(w.state, w.locals, want)
		if d := cmp.Diff(rows.rules, want.rules); d != "" {
			t.Fatalf("seed %d: with room (-got +fresh):\n%s", seed, d)
		}
		if p := c.Problems(); len(p) > 0 {
			t.Errorf("seed %d: with room: problems %q", seed, p)
		}
	}
	if closed == 0 || short == 0 {
		t.Errorf("%d times nothing passed, %d times peers were denied: the test is of no use", closed, short)
	}
}

// stricter checks that no verdict is looser than the objects'.
func stricter(t *testing.T, w *world, c *Compiler, rows *table) {
	t.Helper()
	o := w.oracle()
	for _, l := range w.locals {
		i, known := c.Isolation(l.Ref)
		pod := o.Pod(l.Namespace, l.Name)
		if !known || !contains(w.state.Pods, pod) {
			continue
		}
		for _, remote := range w.remotes() {
			for _, port := range []uint16{53, 80, 8080, 65535} {
				for d, set := range [...]bpf.RuleSet{i.Ingress, i.Egress} {
					got, _ := rows.verdict(set, remote, bpf.TCP, port)
					if got && !o.Judge(pod, d == 0, remote, source.TCP, port).Allowed {
						t.Fatalf("%s %s/%s with %s port %d passes", direction(d), l.Namespace, l.Name, remote, port)
					}
				}
			}
		}
	}
}

// Every pod has its own labels, and every policy its own selector: a namespace that wants
// more than its part is denied the rest, and the other has what it wants.
func TestExplosionStaysWhereItIs(t *testing.T) {
	s := source.State{PoliciesComplete: true}
	s.Namespaces = []*source.Namespace{{Name: "calm"}, {Name: "wild"}}
	s.Pods = append(s.Pods, &source.Pod{Namespace: "calm", Name: "here", Labels: map[string]string{"app": "calm"}})
	const pods = 2000
	for i := range pods {
		s.Pods = append(s.Pods, &source.Pod{
			Namespace: "wild", Name: fmt.Sprintf("p%04d", i), Labels: map[string]string{fmt.Sprint("own", i): "x"},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		})
	}
	allow := func(namespace, name, selector string) {
		sel, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		s.Policies = append(s.Policies, &source.NetworkPolicy{
			Namespace: namespace, Name: name, Pods: labels.Everything(),
			Ingress: &source.PolicyRules{Rules: []source.PolicyRule{{Peers: []source.PolicyPeer{{Namespaces: labels.Everything(), Pods: sel}}}}},
		})
	}
	allow("calm", "from-one", "own7")
	for i := range pods {
		allow("wild", fmt.Sprintf("from-%04d", i), fmt.Sprint("own", i))
	}
	locals := []Local{
		{Ref: api.Ref{ContainerID: "calm"}, Namespace: "calm", Name: "here", Addrs: []netip.Addr{netip.MustParseAddr("10.2.0.1")}},
		{Ref: api.Ref{ContainerID: "wild"}, Namespace: "wild", Name: "p0000", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.0")}},
	}
	c, rows := New("n"), newTable(t)
	c.MaxRows = 1600
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	calm, _ := c.Isolation(locals[0].Ref)
	wild, _ := c.Isolation(locals[1].Ref)
	passes := func(set bpf.RuleSet, i int) bool {
		got, _ := rows.verdict(set, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), bpf.TCP, 80)
		return got
	}
	if !passes(calm.Ingress, 7) || passes(calm.Ingress, 8) {
		t.Error("the calm namespace does not get what it wants")
	}
	n := 0
	for i := range pods {
		if passes(wild.Ingress, i) {
			n++
		}
	}
	if n != 1600/setShare {
		t.Errorf("got %d peers of the wild namespace that pass, want %d", n, 1600/setShare)
	}
	want := "1900 kinds of peers of 1 pods (ingress) are denied, for lack of room; policies wild/from-0000, wild/from-0001,"
	if p := c.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], want) {
		t.Errorf("got problems %q, want %q…", p, want)
	}

	s.Pods = s.Pods[:51] // there is room again
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	for i := range 50 {
		if !passes(wild.Ingress, i) {
			t.Errorf("peer %d does not pass, though there is room", i)
		}
	}
	if p := c.Problems(); len(p) > 0 {
		t.Errorf("got problems %q, want none", p)
	}
}
