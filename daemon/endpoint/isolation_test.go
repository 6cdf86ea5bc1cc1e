package endpoint

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// fakePolicies says of each attachment that is known what the test says.
type fakePolicies struct {
	mu    sync.Mutex
	say   Isolation
	known map[api.Ref]Pod
	told  []string
	admit func(Pod) // called by Admit, if set
}

func (f *fakePolicies) note(verb string, r api.Ref, p *Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, verb+" "+r.String())
	if p != nil {
		f.known[r] = *p
	} else {
		delete(f.known, r)
	}
}

func (f *fakePolicies) Admit(_ context.Context, p Pod) {
	if f.admit != nil {
		f.admit(p)
	}
	f.note("admit", p.Ref, &p)
}

func (f *fakePolicies) Restore(p Pod)      { f.note("restore", p.Ref, &p) }
func (f *fakePolicies) Forget(ref api.Ref) { f.note("forget", ref, nil) }

func (f *fakePolicies) Isolation(r api.Ref) Isolation {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.known[r]; !ok {
		return Closed
	}
	return f.say
}

func (f *fakePolicies) set(i Isolation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say = i
}

func newIsolated(t *testing.T, say Isolation) (*node, *fakePolicies) {
	t.Helper()
	testnet.Require(t)
	n := newNode(t)
	f := &fakePolicies{say: say, known: map[api.Ref]Pod{}}
	n.policies = f
	n.start(pools...)
	return n, f
}

// sets is what the rows of addresses say in the kernel; of one that is missing, nothing.
func (n *node) sets(addrs ...netip.Addr) (out []Isolation) {
	n.t.Helper()
	for _, a := range addrs {
		if row, ok, _ := n.rows.Get(a); ok {
			out = append(out, Isolation{row.Ingress, row.Egress})
		}
	}
	return out
}

func TestRowsHaveTheirSetsBeforeProgramsRun(t *testing.T) {
	n, f := newIsolated(t, Isolation{7, 8})
	f.admit = func(p Pod) {
		if len(p.Addrs) != 2 || p.PodNamespace != "default" {
			t.Errorf("admitted %+v", p)
		}
		if rows, _ := n.rows.Dump(); len(rows) > 0 {
			t.Errorf("rows are there before the pod is admitted: %v", rows)
		}
	}
	n.link.hook = func() {
		rows, _ := n.rows.Dump()
		if len(rows) != 2 {
			t.Errorf("a program is attached when there are the rows %v", rows)
		}
		for a, r := range rows {
			if r.Ingress != 7 || r.Egress != 8 {
				t.Errorf("a program is attached when the row of %s is %+v", a, r)
			}
		}
	}
	a := attach(t)
	addrs := n.mustAdd(a)
	if diff := cmp.Diff([]Isolation{{7, 8}, {7, 8}}, n.sets(addrs...)); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
}

func TestIsolationOfALivePodChangesItsRowsAlone(t *testing.T) {
	n, f := newIsolated(t, Isolation{})
	one, other := attach(t), attach(t)
	addrs, others := n.mustAdd(one), n.mustAdd(other)
	before, _ := n.rows.Dump()
	f.set(Isolation{Ingress: 5})
	if err := n.Isolate(ref(one)); err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]bpf.Endpoint{}
	for a, r := range before {
		if slices.Contains(addrs, a) {
			r.Ingress = 5
		}
		want[a] = r
	}
	after, _ := n.rows.Dump()
	if diff := cmp.Diff(want, after, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if len(others) == 0 {
		t.Error("the other pod has no address")
	}
}

func TestCheckComparesSets(t *testing.T) {
	n, f := newIsolated(t, Isolation{Ingress: 5})
	a := attach(t)
	addrs := n.mustAdd(a)
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("check of what is right: %v", err)
	}
	// What policies say is not yet in force: the rows are as they are to be.
	f.set(Isolation{Ingress: 6})
	if err := n.Check(context.Background(), a); err != nil {
		t.Errorf("check before the change is in force: %v", err)
	}
	row, _, _ := n.rows.Get(addrs[0])
	row.Ingress = 0
	_ = n.rows.Set(addrs[0], row)
	if err := n.Check(context.Background(), a); err == nil {
		t.Error("check does not see that a row is open")
	}
	if err := n.Repair(context.Background(), n.all()[0]); err != nil {
		t.Fatal(err)
	}
	if got := n.sets(addrs[0]); len(got) != 1 || got[0] != (Isolation{Ingress: 6}) {
		t.Errorf("sets after the repair: %v", got)
	}
}

func TestRowsThatAreGoneDoNotComeBack(t *testing.T) {
	n, f := newIsolated(t, Isolation{})
	a := attach(t)
	addrs := n.mustAdd(a)
	if err := n.Del(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	f.set(Isolation{Ingress: 5})
	if err := n.Isolate(ref(a)); err != nil {
		t.Fatal(err)
	}
	if got := n.sets(addrs...); len(got) > 0 {
		t.Errorf("sets of a pod that is gone: %v", got)
	}
	name := ref(a).String()
	if want := []string{"admit " + name, "forget " + name}; !slices.Equal(f.told, want) {
		t.Errorf("policies were told %v, want %v", f.told, want)
	}
}

func TestRestoreTellsPoliciesOfAllPods(t *testing.T) {
	n, f := newIsolated(t, Isolation{})
	a, lost := attach(t), attach(t)
	n.mustAdd(a)
	n.mustAdd(lost)
	run(t, "ip link delete "+hostName(n.all()[1]))
	f.told, f.known = nil, map[api.Ref]Pod{}
	n.start(pools...)
	if err := n.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"restore " + ref(a).String(), "restore " + ref(lost).String()}; !slices.Equal(slices.Sorted(slices.Values(f.told)), want) {
		t.Errorf("policies were told %v, want %v", f.told, want)
	}
}

func ref(a api.Attach) api.Ref { return api.Ref{ContainerID: a.ContainerID, IfName: a.IfName} }

// Until a pod's device is gone its rows and filters stay: who deletes them first lets in what
// the stack still sends to the device.
func TestDyingPodsStayIsolated(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	a := attach(t)
	n.mustAdd(a)
	device := hostName(ownerOfAttach(a))
	deleted := 0
	gone := func() {
		deleted++
		if _, err := os.Stat("/sys/class/net/" + device); err == nil {
			t.Error("a row or filter is deleted while the device is there")
		}
	}
	n.rows.hookDelete, n.link.hookDelete = gone, gone
	if err := n.Del(ctx, a); err != nil {
		t.Fatal(err)
	}
	if deleted != 4 {
		t.Errorf("%d rows and filters were deleted, want 4", deleted)
	}
}
