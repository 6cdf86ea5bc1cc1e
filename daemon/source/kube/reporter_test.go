package kube

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

const namesSpec = `{"tier":"Admin","priority":7,"subject":{"namespaces":{}},"egress":[{"action":"Accept","to":[{"domainNames":["example.com"]}]}]}`

// mkNames is a policy by domain names, with the condition of somebody else.
func mkNames(name string) *testkube.ClusterPolicy {
	p := mkClusterPolicy(name, namesSpec)
	p.UID = "uid-1"
	p.Status.Conditions = []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue}}
	return p
}

const notDone = enforcedCondition + "=False NotWholly: spec.egress[0].to[0].domainNames: names are not supported; nothing is accepted for their sake"

func TestWhatCannotBeDoneIsInThePolicysStatus(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{ClusterPolicies: true})
	p.servers(p.Serve().Addr)
	p.Put(mkNode("node-a", 1), mkNode("node-b", 2), mkNames("names"), mkClusterPolicy("well", adminSpec))
	p.start()
	if got := p.patched(1); len(got) != 1 || got[0].Name != "names" || got[0].UID != "uid-1" || got[0].Annotations != notDone {
		t.Fatalf("patches: %+v", got)
	}
	if s := p.Snapshot(); !hasProblem(s, source.ProblemPolicy, "cluster network policy names", "domainNames") {
		t.Errorf("problems:\n%s", text(s))
	}
	p.settle()
	if got := p.Patches(); len(got) != 1 { // settle's
		t.Errorf("what has been said is said again: %+v", got)
	}
	// It was mended.
	now := mkClusterPolicy("names", adminSpec)
	now.UID, now.Generation = "uid-1", 2
	now.Status.Conditions = []metav1.Condition{{Type: enforcedCondition, Status: metav1.ConditionFalse, Reason: reasonNotWholly, ObservedGeneration: 1}}
	p.Put(now)
	if got := p.patched(1); len(got) != 1 || got[0].Annotations != enforcedCondition+"=True Wholly: " {
		t.Errorf("patches: %+v", got)
	}
}

func TestStatusIsTriedAgain(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{ClusterPolicies: true})
	p.servers(p.Serve().Addr)
	tried := make(chan bool, 100)
	p.Fail(func(r *http.Request) int {
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/status") {
			tried <- true
			return http.StatusForbidden
		}
		return 0
	})
	p.Put(mkNode("node-a", 1), mkNames("names"))
	p.start()
	<-tried
	p.Fail(nil)
	p.until("it is put off", func(source.State) bool {
		n, _, wait := p.reporter.next(time.Now())
		return n == "" && wait > 0
	})
	if n, one, _ := p.reporter.next(time.Now().Add(3 * rankWait)); n != "names" || one.want.Message == "" {
		t.Errorf("after a while: %q is due", n)
	}
	p.Delete(mkNames("names"))
	p.until("there is nothing to say", func(source.State) bool {
		_, _, wait := p.reporter.next(time.Now())
		return wait < 0
	})
}

// A policy may go while nobody watches. Then each of a thousand daemons would try to write its
// status for ever.
func TestStatusOfAPolicyThatIsGoneIsNotTriedAgain(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusConflict} { // Conflict: another has its name
		p := newPlace(t)
		p.Set(testkube.Options{ClusterPolicies: true})
		p.servers(p.Serve().Addr)
		tried := make(chan bool, 100)
		p.Fail(func(r *http.Request) int {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/status") {
				tried <- true
				return code
			}
			return 0
		})
		p.Put(mkNode("node-a", 1), mkNames("names"))
		p.start()
		<-tried
		p.until("there is nothing to say", func(source.State) bool {
			_, _, wait := p.reporter.next(time.Now())
			return wait < 0
		})
	}
}

// A thousand daemons see the same policy, and one writes.
func TestNodesWriteAStatusInTheOrderOfTheirNames(t *testing.T) {
	begun := time.Now()
	rank := 0
	r := newReporter(nil, nil, func() int { return rank })
	o := &clusterPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "1", Generation: 1}}
	bad := &source.ClusterPolicy{Name: "p", Problem: "names"}
	r.see(o, bad)
	for rank = range 3 {
		early := begun.Add(time.Duration(rank)*rankWait - time.Nanosecond)
		if n, _, wait := r.next(early); n != "" || wait <= 0 || wait > rankWait {
			t.Errorf("node %d writes early: %q, wait %v", rank, n, wait)
		}
		if n, _, _ := r.next(time.Now().Add(time.Duration(rank) * rankWait)); n != "p" {
			t.Errorf("node %d does not write in time", rank)
		}
	}
	said := *o
	said.Status.Conditions = []metav1.Condition{r.due["p"].want}
	r.see(&said, bad)
	if len(r.due) != 0 {
		t.Errorf("what another node has said is due: %+v", r.due)
	}
	said.Generation = 2
	if r.see(&said, bad); len(r.due) != 1 {
		t.Error("a condition of a former generation is taken for one of now")
	}
	if r.see(&said, nil); len(r.due) != 0 {
		t.Errorf("a policy that could not be read at all is due: %+v", r.due)
	}
}
