package kube

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/testkube"
)

const adminSpec = `{"tier":"Admin","priority":7,"subject":{"namespaces":{}},"egress":[{"action":"Deny","to":[{"networks":["10.0.0.0/8"]}]}]}`

// withIP is the Pod as it is when the kubelet has reported its address.
func withIP(p *corev1.Pod, ip string) *corev1.Pod {
	p.Status.PodIPs = []corev1.PodIP{{IP: ip}}
	return p
}

func announcing(p *corev1.Pod, value string) *corev1.Pod {
	p.Annotations = map[string]string{addressesAnnotation: value}
	return p
}

func TestPoliciesFollowTheAPI(t *testing.T) {
	for name, options := range map[string]testkube.Options{
		"protocol buffers":       {ClusterPolicies: true},
		"JSON":                   {ClusterPolicies: true, JSON: true},
		"without streamed lists": {ClusterPolicies: true, NoStream: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.Set(options)
			p.servers(p.Serve().Addr)
			p.Put(mkNamespace("shop", "red"), mkPolicy("b", "web"), mkPolicy("a", "db"), mkClusterPolicy("c", adminSpec),
				withIP(mkPod("one", "node-a"), "10.0.1.2"), withIP(mkPod("far", "node-b"), "10.0.2.2"))
			p.start()
			before := p.shows(`
pod shop/far elsewhere [10.0.2.2]
pod shop/one uid-one [10.0.1.2]
namespace shop red
policy shop/a of {app=db}
policy shop/b of {app=web}
cluster policy c 7`)
			p.Put(mkNamespace("shop", "blue"), mkPolicy("a", "db"), mkPolicy("b", "new"))
			p.Delete(mkClusterPolicy("c", adminSpec), mkPod("far", "node-b"))
			after := p.shows(`
pod shop/one uid-one [10.0.1.2]
namespace shop blue
policy shop/a of {app=db}
policy shop/b of {app=new}`)
			if before.Policies[0] != after.Policies[0] || before.Pods[1] != after.Pods[0] {
				t.Error("what has not changed is another object")
			}
		})
	}
}

// A thousand nodes that watch all pods are a load for the API servers that a cluster
// without policies need not bear.
func TestPodsOfOtherNodesAreWatchedOnceThereIsAPolicy(t *testing.T) {
	for name, policy := range map[string]testkube.Object{"namespaced": mkPolicy("a", "db"), "cluster": mkClusterPolicy("a", adminSpec)} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.Set(testkube.Options{ClusterPolicies: true})
			p.servers(p.Serve().Addr)
			far := withIP(mkPod("far", "node-b"), "10.0.2.2")
			p.Put(mkPod("one", "node-a"), far)
			p.start()
			alone := p.shows("pod shop/one uid-one []")
			p.Asked()
			p.Put(policy)
			all := p.until("the pod of another node", func(s source.State) bool { return len(s.Pods) == 2 })
			if !all.PoliciesComplete || all.Pods[1] != alone.Pods[0] {
				t.Errorf("after the first policy:\n%s", text(all))
			}
			if asked := p.Asked(); !slices.Equal(asked, []string{"stream pods"}) {
				t.Errorf("for the first policy: requests %q", asked)
			}
			p.Delete(policy)
			p.Put(withIP(mkPod("late", "node-b"), "10.0.2.3"))
			p.until("the policy is gone", func(s source.State) bool { return len(s.Policies)+len(s.ClusterPolicies) == 0 })
			p.until("a later pod", func(s source.State) bool { return len(s.Pods) == 3 })
			p.Put(policy)
			p.until("the policy is there again", func(s source.State) bool { return len(s.Policies)+len(s.ClusterPolicies) == 1 })
			if asked := p.Asked(); len(asked) != 0 {
				t.Errorf("afterwards: requests %q", asked)
			}
		})
	}
}

// At the start policies wait for all that they are about; nothing else waits for them.
func TestPoliciesAreCompleteWithThePodsOfAllNodes(t *testing.T) {
	for _, refused := range []string{"pods", "namespaces", "networkpolicies", "clusternetworkpolicies"} {
		t.Run(refused, func(t *testing.T) {
			p := newPlace(t)
			p.Set(testkube.Options{ClusterPolicies: true})
			p.servers(p.Serve().Addr)
			p.Put(mkPod("one", "node-a"), withIP(mkPod("far", "node-b"), "10.0.2.2"), mkPolicy("a", "db"), mkNamespace("shop", "red"))
			p.Fail(func(r *http.Request) int {
				if strings.HasSuffix(r.URL.Path, "/"+refused) && r.URL.Query().Get("fieldSelector") == "" {
					return http.StatusServiceUnavailable
				}
				return 0
			})
			p.start()
			s := p.until("it is shown", func(s source.State) bool { return s.Complete && hasProblem(s, ProblemAPI, refused) })
			if s.PoliciesComplete {
				t.Errorf("complete without %s:\n%s", refused, text(s))
			}
			p.Fail(nil)
			s = p.until("complete", func(s source.State) bool { return s.PoliciesComplete })
			if len(s.Pods) != 2 || len(s.Namespaces) != 1 || len(s.Policies) != 1 {
				t.Errorf("complete with\n%s", text(s))
			}
		})
	}
}

// A policy may be heard of before the node's own pods have been listed, and the list of all
// is long: it must not be what the node's own wait for.
func TestOwnPodsComeBeforeThoseOfAllNodes(t *testing.T) {
	for name, options := range map[string]testkube.Options{"streamed": {}, "listed": {NoStream: true}} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.Set(options)
			p.servers(p.Serve().Addr)
			p.Put(mkPod("one", "node-a"), withIP(mkPod("far", "node-b"), "10.0.2.2"), mkPolicy("a", "db"))
			p.Fail(func(r *http.Request) int {
				if strings.HasSuffix(r.URL.Path, "/pods") && r.URL.Query().Get("fieldSelector") == "" {
					return http.StatusServiceUnavailable
				}
				return 0
			})
			p.Before("stream pods", func() {
				for deadline := time.Now().Add(10 * time.Second); len(p.Snapshot().Policies) == 0 && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
			})
			p.start()
			s := p.until("complete but for policies", func(s source.State) bool { return s.Complete && len(s.Policies) == 1 })
			if s.PoliciesComplete || len(s.Pods) != 1 {
				t.Errorf("while the pods of all nodes cannot be listed:\n%s", text(s))
			}
			p.Fail(nil)
			s = p.until("complete", func(s source.State) bool { return s.PoliciesComplete })
			if len(s.Pods) != 2 {
				t.Errorf("complete with\n%s", text(s))
			}
		})
	}
}

// A server that does not stream lists answers from a cache, which may be behind: then own pods
// that came just now would be gone for as long.
func TestPodsOfAllNodesAreNotOlderThanOurOwn(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{NoStream: true})
	p.servers(p.Serve().Addr)
	p.Put(mkPod("one", "node-a"))
	p.start()
	p.until("complete", func(s source.State) bool { return s.PoliciesComplete })
	p.Put(mkPod("two", "node-a"))
	p.until("the second pod", func(s source.State) bool { return len(s.Pods) == 2 })
	want := ""
	for _, pod := range p.Cluster.Pods() {
		if pod.Name == "two" {
			want = pod.ResourceVersion
		}
	}
	listed := make(chan string, 100)
	p.Fail(func(r *http.Request) int {
		if q := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/pods") && q.Get("watch") == "" {
			listed <- q.Get("resourceVersion")
		}
		return 0
	})
	p.Put(withIP(mkPod("far", "node-b"), "10.0.2.2"), mkPolicy("a", "db"))
	p.until("the pod of another node", func(s source.State) bool { return len(s.Pods) == 3 })
	if got := <-listed; got != want {
		t.Errorf("pods of all nodes are asked for as of version %q, want %q or later", got, want)
	}
}

// While the first policy of a running cluster has the other nodes' pods listed, it is in
// force, and pods that it is not about are not touched.
func TestFirstPolicyDoesNotMakePoliciesIncomplete(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPod("one", "node-a"), withIP(mkPod("far", "node-b"), "10.0.2.2"))
	p.start()
	p.until("complete", func(s source.State) bool { return s.PoliciesComplete })
	p.Fail(func(r *http.Request) int {
		if r.URL.Query().Get("fieldSelector") == "" {
			return http.StatusServiceUnavailable
		}
		return 0
	})
	p.Put(mkPolicy("a", "db"))
	s := p.until("it is shown", func(s source.State) bool { return hasProblem(s, ProblemAPI, "pods") })
	if !s.PoliciesComplete || len(s.Policies) != 1 || len(s.Pods) != 1 {
		t.Errorf("while pods cannot be listed:\n%s", text(s))
	}
	p.Fail(nil)
	p.until("the pod of another node", func(s source.State) bool { return len(s.Pods) == 2 && well(s) })
}

// The kind is there or not, and that may change at any time.
func TestClusterPoliciesComeAndGoWithTheirKind(t *testing.T) {
	p := newPlace(t)
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkClusterPolicy("c", adminSpec))
	p.start()
	p.until("complete without the kind", func(s source.State) bool { return s.PoliciesComplete && well(s) && len(s.ClusterPolicies) == 0 })
	p.Set(testkube.Options{ClusterPolicies: true})
	p.shows("cluster policy c 7")
	p.Set(testkube.Options{})
	server.Cut()
	p.shows("")
	p.Set(testkube.Options{ClusterPolicies: true})
	p.shows("cluster policy c 7")
}

// An API server that has just started may not know the kind yet: one such answer must not
// open what is closed.
func TestOneAnswerDoesNotEndClusterPolicies(t *testing.T) {
	p := newPlace(t)
	p.Set(testkube.Options{ClusterPolicies: true})
	server := p.Serve()
	p.servers(server.Addr)
	p.Put(mkClusterPolicy("c", adminSpec))
	p.start()
	before := p.shows("cluster policy c 7")
	answers := make(chan bool, 100)
	p.Fail(func(r *http.Request) int {
		if len(answers) == 0 && strings.HasSuffix(r.URL.Path, "/clusternetworkpolicies") {
			answers <- true
			return http.StatusNotFound
		}
		return 0
	})
	server.Cut()
	p.until("it was said", func(source.State) bool { return len(answers) == 1 })
	p.Put(mkClusterPolicy("d", adminSpec))
	after := p.shows("cluster policy c 7\ncluster policy d 7")
	if before.ClusterPolicies[0] != after.ClusterPolicies[0] {
		t.Error("the policy was gone meanwhile")
	}
}

func TestAnnouncedAddressesAreBelievedOfTheirPodOnly(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	finished := announcing(mkPod("finished", "node-b"), "uid-finished/10.0.2.5")
	finished.Status.Phase = corev1.PodSucceeded
	host := announcing(mkPod("host", "node-b"), "uid-host/10.0.2.6")
	host.Spec.HostNetwork = true
	static := mkPod("static", "node-a")
	static.Annotations = map[string]string{configAnnotation: "hash"}
	p.Put(mkPolicy("a", "db"), static,
		announcing(mkPod("bad", "node-b"), "uid-bad/10.0.2.4,x"),
		announcing(mkPod("copy", "node-b"), "uid-one/10.0.1.2"),
		announcing(mkPod("far", "node-b"), "uid-far/10.0.2.2,fd00::2"),
		finished, host,
		announcing(mkPod("mine", "node-a"), "uid-mine/10.0.1.3"),
		announcing(withIP(mkPod("told", "node-b"), "10.0.2.3"), "uid-told/10.0.2.9"))
	p.start()
	p.shows(`
pod shop/far elsewhere [] announced [10.0.2.2 fd00::2]
pod shop/mine uid-mine [] announced [10.0.1.3]
pod shop/static hash []
pod shop/told elsewhere [10.0.2.3]
policy shop/a of {app=db}`)
	p.Put(announcing(withIP(mkPod("far", "node-b"), "10.0.2.2"), "uid-far/10.0.2.2,fd00::2"))
	p.shows(`
pod shop/far elsewhere [10.0.2.2]
pod shop/mine uid-mine [] announced [10.0.1.3]
pod shop/static hash []
pod shop/told elsewhere [10.0.2.3]
policy shop/a of {app=db}`)
}

// Whether another node's pod is ready is no matter of policies, and wakes nobody.
func TestReadinessOfOtherNodesPodsChangesNothing(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	far := withIP(mkPod("far", "node-b"), "10.0.2.2")
	p.Put(mkPolicy("a", "db"), far)
	p.start()
	before := p.until("the pod", func(s source.State) bool { return len(s.Pods) == 1 })
	far.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	p.Put(far, withIP(mkPod("next", "node-b"), "10.0.2.3")) // pods come in order
	after := p.until("the next pod", func(s source.State) bool { return len(s.Pods) == 2 })
	if before.Pods[0] != after.Pods[0] {
		t.Error("readiness made another object of the pod")
	}
}

// What is announced, and what is told of our own pods, is the same when all are watched.
func TestOwnPodsAreAnnouncedWhenAllAreWatched(t *testing.T) {
	p := newPlace(t)
	p.servers(p.Serve().Addr)
	p.Put(mkPolicy("a", "db"), mkPod("one", "node-a"), mkPod("two", "node-b"))
	p.start()
	p.until("complete", func(s source.State) bool { return s.PoliciesComplete })
	p.put(attachment("one", "uid-one", "10.0.1.2"), false)
	want := testkube.Patch{Namespace: "shop", Name: "one", UID: "uid-one", Annotations: said + "uid-one/10.0.1.2"}
	if got := p.patched(1); len(got) != 1 || got[0] != want {
		t.Errorf("patches: got %+v, want %+v", got, want)
	}
	p.until("the announcement comes back", func(s source.State) bool { return len(s.Pods) == 1 && len(s.Pods[0].Announced) == 1 })
	p.Put(mkPod("one", "node-a")) // somebody removes it
	if got := p.patched(1); got[0] != want {
		t.Errorf("patches: got %+v, want %+v", got, want)
	}
}

func TestPodsWithTheSameLabelsShareThem(t *testing.T) {
	var shared sharedLabels
	a := shared.share(map[string]string{"a": "b", "c": "d"})
	same := shared.share(map[string]string{"c": "d", "a": "b"})
	same["probe"] = "x"
	if a["probe"] != "x" {
		t.Error("the same labels are two maps")
	}
	delete(a, "probe")
	for _, other := range []map[string]string{{"a": "bc", "": "d"}, {"a": "b"}, {"ab": "", "c": "d"}, nil} {
		if got := shared.share(maps.Clone(other)); !maps.Equal(got, other) {
			t.Errorf("got %v, want %v", got, other)
		}
	}
	for i := range 3 * maxShared {
		shared.share(map[string]string{"n": string(rune(i + 1<<16))})
	}
	if len(shared) > maxShared {
		t.Errorf("%d sets are remembered", len(shared))
	}
}
