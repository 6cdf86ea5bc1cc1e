package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

func TestPolicyIsWrittenInAnOrderThatIsNeverHalf(t *testing.T) {
	l := newPolicyLab(t)
	web, cart := l.pod("web", 1), l.pod("cart", 2)
	both := []string{"web", "cart"}
	l.says(clusterOf(both))
	l.add(web)
	l.add(cart)
	l.tookDone()
	l.says(clusterOf(both, lets("a", "cart", "web", 80)))
	want := []string{"write rules", "write classes", "adopt c1", "isolate c1", "adopt c1", "rejudge"}
	if diff := cmp.Diff(want, l.tookDone()); diff != "" {
		t.Errorf("a pod is isolated (-want +got):\n%s", diff)
	}
	if first := l.row(web); !l.isolated(first) || l.row(cart) != (endpoint.Isolation{}) {
		t.Errorf("rows are %v and %v", first, l.row(cart))
	}
	l.says(clusterOf(both, lets("a", "cart", "web", 81)))
	// The class is another, too, if it says which ports; else it stays.
	got := slices.DeleteFunc(l.tookDone(), func(s string) bool { return strings.HasSuffix(s, " classes") })
	if diff := cmp.Diff([]string{"write rules", "isolate c1", "rejudge", "delete rules"}, got); diff != "" {
		t.Errorf("its policy changes (-want +got):\n%s", diff)
	}
	l.says(clusterOf(both))
	want = []string{"isolate c1", "delete classes", "rejudge", "delete rules"}
	if diff := cmp.Diff(want, l.tookDone()); diff != "" {
		t.Errorf("its policy goes (-want +got):\n%s", diff)
	}
	if l.row(web) != (endpoint.Isolation{}) || len(l.policyKernel.rules) > 0 {
		t.Errorf("left are row %v and rules %v", l.row(web), l.policyKernel.rules)
	}
	l.says(clusterOf(both))
	if got := l.tookDone(); len(got) > 0 {
		t.Errorf("nothing changes, and done is %v", got)
	}
}

func TestRestartKeepsWhatTheKernelHasUntilAllIsKnown(t *testing.T) {
	l := newPolicyLab(t)
	web := l.pod("web", 1)
	l.says(clusterOf([]string{"web", "cart"}, lets("a", "cart", "web", 80)))
	was := l.add(web)
	if !l.isolated(was) {
		t.Fatalf("the pod has %v", was)
	}
	l.tookDone()
	l.start()
	l.Restore(web)
	if got := l.Isolation(web.Ref); got != was {
		t.Errorf("after a restart the pod is to have %v, had %v", got, was)
	}
	half := clusterOf(nil)
	half.PoliciesComplete = false
	l.says(half)
	if got := l.Isolation(web.Ref); got != was || len(l.tookDone()) > 0 || len(l.policyKernel.rules) == 0 {
		t.Errorf("before the source is complete it has %v, had %v", got, was)
	}
	l.says(clusterOf([]string{"web", "cart"}, lets("a", "cart", "web", 80)))
	if got := l.tookDone(); l.row(web) != was || slices.Contains(got, "isolate c1") || slices.Contains(got, "delete rules") {
		t.Errorf("all is as before, and done is %v; the row is %v, was %v", got, l.row(web), was)
	}
	// With another layout of maps the kernel has no row: nothing is in force before all is
	// known, and nobody knows the connections that there are.
	l.start()
	delete(l.rows, web.Ref)
	l.Restore(web)
	if got := l.Isolation(web.Ref); got != endpoint.Closed {
		t.Errorf("without a row in the kernel it has %v", got)
	}
	l.says(clusterOf([]string{"web", "cart"}, lets("a", "cart", "web", 80)))
	if got := l.Isolation(web.Ref); got != was || !slices.Contains(l.tookDone(), "adopt c1") {
		t.Errorf("then it has %v, had %v, and its connections are not taken up", got, was)
	}
	if got := l.Isolation(api.Ref{ContainerID: "x"}); got != endpoint.Closed {
		t.Errorf("a pod that is not known has %v", got)
	}
}

func TestNewPodWaitsUntilItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		web := l.pod("web", 1)
		l.says(clusterOf(nil, lets("a", "cart", "web", 80)))
		start := time.Now()
		got := make(chan endpoint.Isolation)
		go func() { got <- l.add(web) }()
		time.Sleep(time.Second)
		l.says(clusterOf(nil, lets("a", "cart", "web", 80))) // something else has changed
		time.Sleep(time.Second)
		l.says(clusterOf([]string{"web"}, lets("a", "cart", "web", 80)))
		if i := <-got; !l.isolated(i) || time.Since(start) != 2*time.Second {
			t.Errorf("after %s it has %v", time.Since(start), i)
		}
	})
}

func TestPodThatIsNotKnownStartsClosedAndIsOpenedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		web := l.pod("web", 1)
		l.says(clusterOf(nil, lets("a", "cart", "web", 80)))
		start := time.Now()
		if i := l.add(web); i != endpoint.Closed || time.Since(start) != admitWait {
			t.Errorf("after %s it has %v", time.Since(start), i)
		}
		if !slices.ContainsFunc(l.problems.all(), func(p api.Problem) bool {
			return p.What == problemPolicyUnknown && strings.Contains(p.Text, "shop/web")
		}) {
			t.Errorf("problems are %v", l.problems.all())
		}
		l.tookDone()
		l.says(clusterOf([]string{"web"}, lets("a", "cart", "web", 80)))
		if !l.isolated(l.row(web)) || len(l.problems.all()) > 0 {
			t.Errorf("once it is known its row is %v, problems are %v", l.row(web), l.problems.all())
		}
		if got := l.tookDone(); slices.Contains(got, "adopt c1") {
			t.Errorf("a closed pod has no connections to take up, done is %v", got)
		}
		// It is closed again when nobody knows it any more.
		l.says(clusterOf(nil, lets("a", "cart", "web", 80)))
		if l.row(web) != endpoint.Closed {
			t.Errorf("a pod that is not known any more has %v", l.row(web))
		}
	})
}

func TestPodOfWhichNoPolicyCanBeDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		start := time.Now()
		l.says(clusterOf(nil))
		if i := l.add(l.pod("web", 1)); i != (endpoint.Isolation{}) {
			t.Errorf("without policies it has %v", i)
		}
		elsewhere := lets("a", "cart", "web", 80)
		elsewhere.Namespace = "other"
		l.says(clusterOf(nil, elsewhere))
		if i := l.add(l.pod("late", 2)); i != (endpoint.Isolation{}) {
			t.Errorf("with a policy of another namespace it has %v", i)
		}
		if time.Since(start) != 0 {
			t.Errorf("it took %s", time.Since(start))
		}
	})
}

func TestSilentSourceLeavesWhatWasKnownOfNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		policy := lets("a", "cart", "web", 80)
		policy.Namespace = "other"
		l.says(clusterOf(nil, policy))
		l.start()
		l.says(source.State{})
		start := time.Now()
		if i := l.add(l.pod("web", 1)); i != (endpoint.Isolation{}) || time.Since(start) != recallAfter {
			t.Errorf("in a namespace that had none it has %v after %s", i, time.Since(start))
		}
		start = time.Now()
		closed := l.pod("web", 2)
		closed.PodNamespace = "other"
		if i := l.add(closed); i != endpoint.Closed || time.Since(start) != 0 {
			t.Errorf("in one that had some it has %v after %s", i, time.Since(start))
		}
		// What the source tells by half closes, too.
		l.says(source.State{Policies: []*source.NetworkPolicy{lets("b", "cart", "web", 80)}})
		if i := l.add(l.pod("late", 3)); i != endpoint.Closed {
			t.Errorf("in one that has some now it has %v", i)
		}
		l.dir = t.TempDir()
		l.start()
		l.says(source.State{})
		if i := l.add(l.pod("web", 4)); i != endpoint.Closed {
			t.Errorf("where nothing was known it has %v", i)
		}
	})
}

func TestPoliciesThatWentWhileNobodyLookedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicyLab(t)
		l.says(clusterOf(nil, lets("a", "cart", "web", 80)))
		l.start()
		l.says(clusterOf(nil))
		l.start()
		l.says(source.State{})
		if i := l.add(l.pod("web", 1)); i != (endpoint.Isolation{}) {
			t.Errorf("in a namespace that has none any more it has %v", i)
		}
	})
}

func TestSetWithoutRoomIsNotInForce(t *testing.T) {
	l := newPolicyLab(t)
	web, cart := l.pod("web", 1), l.pod("cart", 2)
	both := []string{"web", "cart"}
	l.says(clusterOf(both, lets("a", "cart", "web", 80)))
	was := l.add(web)
	l.add(cart)
	l.full = fmt.Errorf("write map rules: %w", bpf.ErrFull)
	l.says(clusterOf(both, lets("a", "cart", "web", 81), lets("b", "web", "cart", 80)))
	if got := l.row(web); got != was || len(l.policyKernel.rules) == 0 {
		t.Errorf("a pod that was isolated has %v, had %v; rules are %v", got, was, l.policyKernel.rules)
	}
	if got := l.row(cart); got != (endpoint.Isolation{Ingress: bpf.RuleSetClosed}) {
		t.Errorf("a pod that was open has %v", got)
	}
	text := fmt.Sprint(l.problems.all())
	if !strings.Contains(text, "shop/a") || !strings.Contains(text, "shop/b") || !l.unfinished() {
		t.Errorf("problems do not name the policies: %s", text)
	}
	l.full = nil
	if _, err := l.follow(); err != nil {
		t.Fatal(err)
	}
	if !l.isolated(l.row(web)) || l.row(web) == was || !l.isolated(l.row(cart)) || l.unfinished() || len(l.problems.all()) > 0 {
		t.Errorf("with room the pods have %v and %v; problems are %v", l.row(web), l.row(cart), l.problems.all())
	}
}

// An address without its class counts as of the block around it: that may be one that does
// not except it, or one of IPv6 only.
func TestExceptionsWithoutRoomCloseTheSet(t *testing.T) {
	for _, block := range []source.PolicyBlock{
		{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/29")}},
		{CIDR: netip.MustParsePrefix("::/0")},
	} {
		l := newPolicyLab(t)
		open := lets("a", "cart", "web", 80)
		open.Ingress.Rules[0].Peers = []source.PolicyPeer{{Block: &block}}
		l.says(clusterOf([]string{"web"}))
		web := l.pod("web", 1)
		l.add(web)
		l.classless = fmt.Errorf("write map classes: %w", bpf.ErrFull)
		l.says(clusterOf([]string{"web"}, open))
		if got := l.row(web); got != (endpoint.Isolation{Ingress: bpf.RuleSetClosed}) {
			t.Errorf("%v: without classes the pod has %v", block, got)
		}
		l.classless = nil
		if _, err := l.follow(); err != nil || !l.isolated(l.row(web)) {
			t.Errorf("%v: with room the pod has %v, error %v", block, l.row(web), err)
		}
	}
}

func TestFlowsAreJudgedAgainEvenIfThatFails(t *testing.T) {
	l := newPolicyLab(t)
	l.says(clusterOf([]string{"web"}))
	l.add(l.pod("web", 1))
	l.bad = errors.New("the kernel is away")
	l.says(clusterOf([]string{"web"}, lets("a", "cart", "web", 80)))
	if !l.unfinished() {
		t.Error("flows were not judged again, and all is well")
	}
	l.tookDone()
	l.bad = nil
	if _, err := l.follow(); err != nil || l.unfinished() || !slices.Contains(l.tookDone(), "rejudge") {
		t.Errorf("it is not tried again: %v", err)
	}
}

func TestPodThatLeavesTakesItsRowsAlong(t *testing.T) {
	l := newPolicyLab(t)
	web := l.pod("web", 1)
	l.says(clusterOf([]string{"web"}, lets("a", "cart", "web", 80)))
	l.add(web)
	l.Forget(web.Ref)
	select {
	case <-l.due:
	default:
		t.Error("nobody is told that something is to be done")
	}
	if _, err := l.follow(); err != nil || len(l.policyKernel.rules) > 0 {
		t.Errorf("left are %v, %v", l.policyKernel.rules, err)
	}
	l.Forget(web.Ref)
	select {
	case <-l.due:
		t.Error("a pod that was never there is news")
	default:
	}
}
