package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func sel(t testing.TB, s string) labels.Selector {
	t.Helper()
	out, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shop is a namespace with a pod here, and another elsewhere that may reach it.
func shop(t testing.TB) (source.State, []Local) {
	s := source.State{
		PoliciesComplete: true,
		Namespaces:       []*source.Namespace{{Name: "shop", Labels: map[string]string{"team": "blue"}}},
		Pods: []*source.Pod{
			{Namespace: "shop", Name: "cart", UID: "1", Labels: map[string]string{"app": "cart"}, IPs: []netip.Addr{addr("10.1.0.1")}},
			{Namespace: "shop", Name: "web", UID: "2", Labels: map[string]string{"app": "web"}},
		},
		Policies: []*source.NetworkPolicy{{
			Namespace: "shop", Name: "from-cart", Pods: sel(t, "app=web"),
			Ingress: &source.PolicyRules{Rules: []source.PolicyRule{{Peers: []source.PolicyPeer{{Pods: sel(t, "app=cart")}}}}},
		}},
	}
	return s, []Local{{Ref: api.Ref{ContainerID: "c1", IfName: "eth0"}, Namespace: "shop", Name: "web", Addrs: []netip.Addr{addr("10.0.0.1")}}}
}

func TestNothingIsKnownBeforeTheSourceIsComplete(t *testing.T) {
	s, locals := shop(t)
	c, rows := New("n"), newTable(t)
	early := s
	early.PoliciesComplete = false
	ref := locals[0].Ref
	if got := c.Update(early, locals, rows); !slices.Equal(got.Pods, []api.Ref{ref}) || rows.calls > 0 {
		t.Errorf("got %+v and %d rows, want the pod as changed and no rows", got, rows.calls)
	}
	if i, known := c.Isolation(ref); known || i != Closed {
		t.Errorf("got %v, known %t", i, known)
	}
	if got := c.Update(early, locals, rows); len(got.Pods) > 0 {
		t.Errorf("told again: %+v", got)
	}
	if got := c.Update(s, locals, rows); !slices.Equal(got.Pods, []api.Ref{ref}) || !got.Rejudge {
		t.Errorf("complete: got %+v, want the pod, and to judge again", got)
	}
	before, known := c.Isolation(ref)
	if !known || before.Ingress < 2 || before.Egress != 0 {
		t.Errorf("got %v, known %t", before, known)
	}

	// What was known stays in force while the source is not sure any more.
	early.Policies, early.Pods = nil, nil
	second := Local{Ref: api.Ref{ContainerID: "c2", IfName: "eth0"}, Namespace: "shop", Name: "cart", Addrs: []netip.Addr{addr("10.0.0.2")}}
	both := append(slices.Clone(locals), second)
	if got := c.Update(early, both, rows); !slices.Equal(got.Pods, []api.Ref{second.Ref}) || got.Rejudge {
		t.Errorf("not complete any more: got %+v, want the new pod alone", got)
	}
	if i, known := c.Isolation(ref); i != before || !known {
		t.Errorf("got %v, known %t, want %v", i, known, before)
	}
	if i, known := c.Isolation(second.Ref); known || i != Closed {
		t.Errorf("of the new pod: got %v, known %t", i, known)
	}
	if got := c.Update(s, both, rows); !slices.Contains(got.Pods, second.Ref) {
		t.Errorf("complete again: got %+v, want the new pod", got)
	}
	if i, known := c.Isolation(second.Ref); !known || i != (Isolation{}) {
		t.Errorf("of the new pod: got %v, known %t, want open", i, known)
	}
}

func TestWhatIsNotKnownIsClosed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		with  func(*source.State, *Local)
		known bool
	}{
		{"a pod that the source has", func(*source.State, *Local) {}, true},
		{"one that it lacks", func(s *source.State, _ *Local) { s.Pods = s.Pods[:1] }, false},
		{"one that it lacks, with labels", func(s *source.State, l *Local) { s.Pods, l.Labels = s.Pods[:1], map[string]string{} }, true},
		{"without its namespace", func(s *source.State, _ *Local) { s.Namespaces = nil }, true},
		{"without its namespace, when policies may choose by it", func(s *source.State, _ *Local) {
			s.Namespaces, s.ClusterPolicies = nil, []*source.ClusterPolicy{{Name: "p", Namespaces: labels.Everything()}}
		}, false},
	} {
		s, locals := shop(t)
		tc.with(&s, &locals[0])
		c := New("n")
		c.Update(s, locals, newTable(t))
		if i, known := c.Isolation(locals[0].Ref); known != tc.known || !known && i != Closed {
			t.Errorf("%s: got %v, known %t, want %t", tc.name, i, known, tc.known)
		}
	}
}

// Of two pods that have an address by their status it is the one's that runs.
func TestAddressIsThatOfWhoRuns(t *testing.T) {
	s, locals := shop(t)
	other := &source.Pod{Namespace: "shop", Name: "zeta", Labels: map[string]string{"app": "zeta"}, IPs: []netip.Addr{addr("10.1.0.1")}}
	s.Pods = append(slices.Clone(s.Pods), other)
	c, rows := New("n"), newTable(t)
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	i, _ := c.Isolation(locals[0].Ref)
	passes := func() bool {
		got, _ := rows.verdict(i.Ingress, addr("10.1.0.1"), bpf.TCP, 80)
		return got
	}
	if !passes() {
		t.Fatal("the first of two is not let through")
	}
	leaving := *s.Pods[0]
	leaving.Terminating = true
	s.Pods = slices.Clone(s.Pods)
	s.Pods[0] = &leaving
	if got := c.Update(s, locals, rows); passes() || !got.Rejudge {
		t.Errorf("passes as the one that terminates; change %+v", got)
	}
	s.Pods = s.Pods[:2]
	if c.Update(s, locals, rows); !passes() {
		t.Error("does not pass, though nobody else has the address")
	}
}

// The same policies for the same labels have the same names after every start, whatever
// else there is and in whatever order it came.
func TestNamesStayTheSame(t *testing.T) {
	s, locals := shop(t)
	a, first := New("n"), newTable(t)
	a.Update(s, locals, first)
	want, _ := a.Isolation(locals[0].Ref)

	b, rows := New("other"), newTable(t)
	few := s
	few.Policies, few.Pods = nil, nil
	b.Update(few, nil, rows)
	few.Pods = s.Pods
	b.Update(few, locals, rows)
	b.Update(s, locals, rows)
	got, _ := b.Isolation(locals[0].Ref)
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if d := cmp.Diff(rows.classes, first.classes, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("classes (-got +want):\n%s", d)
	}
}

func TestDropsAreToldByTheirPolicyEvenWhenItIsGone(t *testing.T) {
	s, locals := shop(t)
	c, rows := New("n"), newTable(t)
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	i, _ := c.Isolation(locals[0].Ref)
	const want = "default deny by shop/from-cart"
	if got := c.Attribution(i.Ingress, bpf.RuleNone).String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Policies = nil
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	if got := c.Attribution(i.Ingress, bpf.RuleNone).String(); got != want {
		t.Errorf("after it went: got %q, want %q", got, want)
	}
	if got := c.Attribution(12345, 0); got.String() != "not known" {
		t.Errorf("of no set: got %q", got)
	}
	if len(rows.rules) > 0 || len(rows.classes) > 0 {
		t.Errorf("rows are left: %v %v", rows.rules, rows.classes)
	}
}

func TestDescribe(t *testing.T) {
	s, locals := shop(t)
	s.Policies[0].Ingress.Rules = append(s.Policies[0].Ingress.Rules, source.PolicyRule{
		Peers: []source.PolicyPeer{
			{Block: &source.PolicyBlock{CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}},
			{Namespaces: sel(t, "team=red")}, {Namespaces: labels.Everything(), Pods: sel(t, "app")},
		},
		Ports: []source.PolicyPort{{Protocol: source.TCP, First: 80, Last: 80}, {Protocol: source.UDP, First: 1, Last: 9}, {Protocol: source.SCTP, Last: 65535}, {Protocol: source.TCP, Name: "http"}},
	}, source.PolicyRule{})
	s.ClusterPolicies = []*source.ClusterPolicy{{
		Name: "walls", Namespaces: labels.Everything(),
		Ingress: []source.ClusterRule{{Name: "red", Action: source.ClusterDeny, Peers: []source.ClusterPeer{{Namespaces: sel(t, "team=red")}}}},
		Egress: []source.ClusterRule{
			{Action: source.ClusterPass, Peers: []source.ClusterPeer{{Nodes: labels.Everything()}, {Networks: []netip.Prefix{netip.MustParsePrefix("fd00::/8")}}}},
			{Action: source.ClusterAccept},
		},
	}}
	c := New("n")
	c.Update(s, locals, newTable(t))
	want := strings.TrimSpace(`
ingress:
  walls rule 0 (red) denies: from pods in namespaces with team=red, any port
  shop/from-cart rule 0 allows: from pods with app=cart in shop, any port
  shop/from-cart rule 1 allows: from 10.0.0.0/8 except 10.9.0.0/16 or pods in namespaces with team=red or pods with app in all namespaces, port 80/TCP, ports 1-9/UDP, any port/SCTP, port http/TCP
  shop/from-cart rule 2 allows: from anywhere, any port
  everything else is denied, by shop/from-cart
egress:
  walls rule 0 passes to the next tier: to nodes or fd00::/8, any port
  walls rule 1 allows: to nobody, any port
  everything else passes`)
	if d := cmp.Diff(strings.Join(c.Describe(locals[0].Ref), "\n"), want); d != "" {
		t.Errorf("(-got +want):\n%s", d)
	}
	if got := c.Describe(api.Ref{ContainerID: "x"}); len(got) != 1 || !strings.Contains(got[0], "not known") {
		t.Errorf("of no pod: got %q", got)
	}
}

// A set has no more rules than there are numbers for them; the rest is not left out
// silently, as that could be what denies.
func TestTooManyRulesClose(t *testing.T) {
	s, locals := shop(t)
	one := source.PolicyRule{Ports: []source.PolicyPort{{Protocol: source.TCP, First: 80, Last: 80}}}
	s.Policies[0].Ingress.Rules = slices.Repeat([]source.PolicyRule{one}, maxIndex+1)
	c, rows := New("n"), newTable(t)
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	if i, known := c.Isolation(locals[0].Ref); !known || i.Ingress == bpf.RuleSetClosed || len(c.Problems()) > 0 {
		t.Fatalf("with as many as there can be: got %v, known %t, problems %q", i, known, c.Problems())
	}
	more := *s.Policies[0]
	more.Ingress = &source.PolicyRules{Rules: append(slices.Clone(more.Ingress.Rules), one)}
	more.Problem = "something"
	s.Policies = []*source.NetworkPolicy{&more}
	c.Update(s, locals, rows)
	c.Sweep(none, rows)
	want := []string{
		"NetworkPolicy shop/from-cart: something",
		fmt.Sprintf("nothing passes for 1 pods (ingress): %d rules, more than the %d that a set can have; policies shop/from-cart", maxIndex+2, maxIndex+1),
	}
	if i, _ := c.Isolation(locals[0].Ref); i.Ingress != bpf.RuleSetClosed {
		t.Errorf("got %v, want closed", i)
	}
	if d := cmp.Diff(c.Problems(), want); d != "" {
		t.Errorf("problems (-got +want):\n%s", d)
	}
	if len(rows.rules) > 0 {
		t.Errorf("got %d rows", len(rows.rules))
	}
}
