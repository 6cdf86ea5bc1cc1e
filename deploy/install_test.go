package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/internal/api"
)

// soon is how long what must not come in time is waited for: less than one look takes.
const soon = time.Nanosecond

func TestInstallAppliesEverythingAndWaits(t *testing.T) {
	l := newLab(t, "a", "b", "c")
	i := l.install(time.Minute)
	must(t, i.Values.Set("overlay=auto"))
	if err := i.Run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, l.out.String())
	}
	want := []string{
		"PATCH /api/v1/namespaces/kube-system/serviceaccounts/weft",
		"PATCH /apis/rbac.authorization.k8s.io/v1/clusterroles/weft",
		"PATCH /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/weft",
		"PATCH /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/weft-load-balancer",
		"PATCH /apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/weft",
		"PATCH /apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/weft",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/account.weft.dev",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/balancer.weft.dev",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/pod-ips.weft.dev",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/account.weft.dev",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/balancer.weft.dev",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/pod-ips.weft.dev",
		"PATCH /api/v1/namespaces/kube-system/configmaps/weft",
		"PATCH " + daemonPath,
	}
	if diff := cmp.Diff(want, l.Calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	l.says("Kubernetes v1.37.2", "applied DaemonSet kube-system/weft", "3 of 3 nodes ready")
	l.Do(func() {
		if text := as[corev1.ConfigMap](l, "/api/v1/namespaces/kube-system/configmaps/weft").Data["weftd.yaml"]; !strings.Contains(text, "overlay: \"auto\"\n") {
			t.Errorf("settings:\n%s", text)
		}
	})
}

func TestInstallUpgradesAndWaitsForTheNewPods(t *testing.T) {
	l := newLab(t, "a", "b")
	must(t, l.install(time.Minute).Run(t.Context()))
	// The controller has not come to node b yet.
	l.run = func(node string, p *corev1.Pod) {
		if node == "b" {
			p.Spec.Containers[0].Image = "former"
		}
	}
	i := l.install(soon)
	must(t, i.Values.Set("image=example.org/weft:v2"))
	if err := i.Run(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v, want %v", err, ErrNotReady)
	}
	l.says("1 of 2 nodes ready; waiting for b (its pod is of the former version)")
	l.run = nil
	must(t, i.Run(t.Context()))
	l.Do(func() {
		if image := as[appsv1.DaemonSet](l, daemonPath).Spec.Template.Spec.Containers[0].Image; image != "example.org/weft:v2" {
			t.Errorf("image is %s", image)
		}
	})
}

// Whatever keeps a node from being ready is said, with what is on record.
func TestInstallSaysWhatIsWrong(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	crashed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error",
		Message: "time=x level=INFO msg=\"weftd starts\"\nweftd: settings: port: 0 is no UDP port\n"}}
	for _, tc := range []struct {
		name    string
		prepare func(*lab)
		run     func(*corev1.Pod)
		want    []string
	}{
		{"image", nil, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "prepare", State: waiting("ImagePullBackOff", `Back-off pulling image "x"`)})
		}, []string{`node b: prepare: ImagePullBackOff: Back-off pulling image "x"`}},
		{"crash", nil, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "weftd", State: waiting("CrashLoopBackOff", "back-off 5m0s"), LastTerminationState: crashed})
		}, []string{`node b: weftd: CrashLoopBackOff: ended with code 1: time=x level=INFO msg="weftd starts" | weftd: settings: port: 0 is no UDP port`}},
		{"prepare fails", nil, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "prepare", State: crashed})
		}, []string{"node b: prepare: ended with code 1"}},
		{"killed", nil, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "weftd", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}})
		}, []string{"node b: weftd: ended with code 137 (OOMKilled)"}},
		{"daemon has a problem", func(l *lab) {
			l.Exec = func(pod string, command []string) (string, string, int) {
				b, err := json.Marshal(api.Status{Node: "b", Problems: []api.Problem{{What: "no-pod-cidr", Text: `node "b" has no spec.podCIDRs`}}})
				if err != nil || pod != "weft-b" || strings.Join(command, " ") != "/usr/bin/weft status -o json" {
					return "", "unexpected", 2
				}
				return string(b), "", 1
			}
		}, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "weftd", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, []string{"node b: weftd: not ready yet", `weftd says: no-pod-cidr: node "b" has no spec.podCIDRs`}},
		{"restarted", nil, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "weftd", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, LastTerminationState: crashed})
		}, []string{"weftd: not ready; before, it ended with code 1"}},
		{"events", func(l *lab) {
			l.event("Pod", "weft-b", "FailedMount", `MountVolume.SetUp failed for volume "kubelet-kubeconfig" : hostPath type check failed: /etc/kubernetes/kubelet.conf is not a file`)
			l.event("Pod", "weft-b", "Unhealthy", "second")
			l.event("Pod", "weft-b", "Unhealthy", "second")
			l.event("Pod", "weft-a", "Other", "of another pod")
		}, func(p *corev1.Pod) {
			notReady(p, corev1.ContainerStatus{Name: "prepare", State: waiting("PodInitializing", "")})
		}, []string{"node b: its pod is pending", "event: FailedMount: MountVolume.SetUp failed", "kubelet.conf is not a file", "event: Unhealthy: second"}},
		{"cannot be placed", nil, func(p *corev1.Pod) {
			p.Spec.NodeName = ""
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
					{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Insufficient memory"}}
		}, []string{"node b: its pod cannot be placed: Insufficient memory"}},
		{"evicted", nil, func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory"}
		}, []string{"node b: Evicted The node was low on resource: memory"}},
		{"node is not ready", func(l *lab) {
			l.node("b", corev1.ConditionFalse, "container runtime network not ready: cni plugin not initialized")
		}, nil, []string{"node b: Weft is ready, the node is not: container runtime network not ready: cni plugin not initialized"}},
		{"kubelet is silent", func(l *lab) { l.node("b", corev1.ConditionUnknown, "Kubelet stopped posting node status.") }, nil,
			[]string{"node b: its kubelet is silent: Kubelet stopped posting node status."}},
		{"pods are refused", func(l *lab) {
			l.event("DaemonSet", "weft", "FailedCreate", "violates PodSecurity \"restricted:latest\"")
		}, func(p *corev1.Pod) { p.Spec.NodeName = "elsewhere" },
			[]string{"node b: it has no pod of Weft", `DaemonSet event: FailedCreate: violates PodSecurity "restricted:latest"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, "a", "b")
			if tc.prepare != nil {
				tc.prepare(l)
			}
			l.run = func(node string, p *corev1.Pod) {
				if node == "b" && tc.run != nil {
					tc.run(p)
				}
			}
			err := l.install(soon).Run(t.Context())
			if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "1 of 2 are not") {
				t.Errorf("error: got %v, want %v with the count", err, ErrNotReady)
			}
			l.says(append(tc.want, "1 of 2 nodes ready; waiting for b")...)
			if strings.Contains(l.out.String(), "node a:") {
				t.Errorf("node a is well, and is complained of:\n%s", l.out.String())
			}
		})
	}
}

func TestInstallFailsWithWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(*lab, *Install)
		want    []string
		changes int // calls that change something
	}{
		{"no permission", func(l *lab, _ *Install) {
			l.Refuse = refuseWhen(http.MethodPatch, "clusterroles", 403, `clusterroles is forbidden: User "joe" cannot patch`)
		}, []string{"apply ClusterRole weft: no permission", `User "joe" cannot patch`, "administrator"}, 1},
		{"unknown user", func(l *lab, _ *Install) {
			l.Refuse = refuseWhen(http.MethodGet, "/version", 401, "Unauthorized")
		}, []string{"does not know you", "expired"}, 0},
		{"old cluster", func(l *lab, _ *Install) { l.Version = "v1.29.3" },
			[]string{"the cluster is Kubernetes v1.29.3; Weft needs 1.30 or later"}, 0},
		{"no API server", func(l *lab, _ *Install) {
			l.Refuse = func(*http.Request) (int, string) { return 503, "no backend" }
		}, []string{"reach http://", "no backend"}, 0},
		{"somebody else's fields", func(l *lab, _ *Install) {
			l.Refuse = func(r *http.Request) (int, string) {
				if strings.Contains(r.URL.Path, "daemonsets") && r.Method == http.MethodPatch && r.URL.Query().Get("force") != "true" {
					return 409, `Apply failed with 1 conflict: conflict with "helm"`
				}
				return 0, ""
			}
		}, []string{`conflict with "helm"`, "--force takes them over"}, 13},
		{"no namespace", func(l *lab, i *Install) {
			i.Namespace = "weft"
			l.Refuse = refuseWhen(http.MethodPatch, "/namespaces/weft/", 404, `namespaces "weft" not found`)
		}, []string{`namespaces "weft" not found`, "does the namespace exist?"}, 0},
		{"rights end while waiting", func(l *lab, _ *Install) {
			l.Refuse = refuseWhen(http.MethodGet, "/nodes", 403, "nodes is forbidden")
		}, []string{"list nodes: no permission"}, 14},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, "a")
			i := l.install(time.Minute)
			tc.prepare(l, &i)
			err := i.Run(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if got := len(l.Calls()); got != tc.changes {
				t.Errorf("%d calls changed something, want %d: %v", got, tc.changes, l.Calls())
			}
		})
	}
}

func TestForceTakesFieldsOver(t *testing.T) {
	l := newLab(t, "a")
	l.Refuse = func(r *http.Request) (int, string) {
		if r.Method == http.MethodPatch && r.URL.Query().Get("force") != "true" {
			return 409, "conflict"
		}
		return 0, ""
	}
	i := l.install(time.Minute)
	i.Force = true
	must(t, i.Run(t.Context()))
}

func TestConnectSaysWhatIsWrongWithTheKubeconfig(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	l := newLab(t)
	for _, tc := range []struct{ name, kubeconfig, context, want string }{
		{"none", "", "", "no kubeconfig: there is none at " + filepath.Join(dir, "none") + "; name one with --kubeconfig"},
		{"named and not there", filepath.Join(dir, "typo"), "", "typo: no such file"},
		{"named and empty", write("empty", ""), "", "empty names no cluster"},
		{"no YAML", write("bad", "clusters: ["), "", "read kubeconfig"},
		{"unknown context", l.Kubeconfig(), "y", `context "y" does not exist`},
		{"no server", write("server", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"http://[\"}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n"), "",
			"read kubeconfig"},
	} {
		_, err := Connect(tc.kubeconfig, tc.context, "")
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v does not say %q", tc.name, err, tc.want)
		}
	}
	if HasKubeconfig() {
		t.Error("HasKubeconfig() = true without one")
	}
	t.Setenv("KUBECONFIG", l.Kubeconfig())
	if !HasKubeconfig() {
		t.Error("HasKubeconfig() = false with one")
	}

	// A cluster that is down.
	down := write("down", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n")
	c, err := Connect(down, "", "")
	must(t, err)
	err = Install{Cluster: c, Out: &l.out, Values: Defaults(), Timeout: time.Minute}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "is the cluster up") {
		t.Errorf("error %v does not say that nobody is there", err)
	}
}

func TestInstallCanBeInterrupted(t *testing.T) {
	l := newLab(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	l.run = func(_ string, p *corev1.Pod) {
		notReady(p, corev1.ContainerStatus{Name: "weftd"})
		cancel() // as soon as it has something to wait for
	}
	err := l.install(time.Hour).Run(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "what was applied stays") {
		t.Errorf("got %v, want what an interrupt means", err)
	}
	if left := l.left(); len(left) != 15 {
		t.Errorf("after the interrupt there is %v, want all 14 objects and a pod", left)
	}

	l = newLab(t, "a")
	ctx, cancel = context.WithCancel(t.Context())
	l.Refuse = func(r *http.Request) (int, string) {
		if strings.Contains(r.URL.Path, "configmaps") {
			cancel()
		}
		return 0, ""
	}
	err = l.install(time.Hour).Run(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "what was applied stays") {
		t.Errorf("in the middle of applying: got %v, want what an interrupt means", err)
	}
}

// An API server that is away for a moment is waited for.
func TestInstallOutlastsAnAPIServersPause(t *testing.T) {
	l := newLab(t, "a", "b")
	failures := 0
	l.Refuse = func(r *http.Request) (int, string) {
		if strings.HasPrefix(r.URL.Path, "/api/v1/nodes") && failures < 5 {
			failures++
			return 500, "etcd leader changed"
		}
		return 0, ""
	}
	must(t, l.install(time.Minute).Run(t.Context()))
	if failures != 5 {
		t.Errorf("the API server failed %d times, want 5", failures)
	}
}

func TestInstallNotesKubeProxy(t *testing.T) {
	l := newLab(t, "a")
	l.Do(func() { l.Put("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy", appsv1.DaemonSet{}) })
	must(t, l.install(time.Minute).Run(t.Context()))
	l.says("note: kube-proxy runs, too")

	l.out = safeBuffer{}
	i := l.install(time.Minute)
	must(t, i.Values.Set("services=false"))
	must(t, i.Run(t.Context()))
	if strings.Contains(l.out.String(), "kube-proxy") {
		t.Errorf("Weft serves no Services, and kube-proxy is noted:\n%s", l.out.String())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A cluster has one Weft: another one's rights would be its, and its daemons' locks in the way.
func TestThereIsOneWeft(t *testing.T) {
	l := newLab(t, "a")
	must(t, l.install(time.Minute).Run(t.Context()))
	before := len(l.Calls())
	i, u := l.install(soon), l.uninstall(soon)
	i.Namespace, u.Namespace = "net", "net"
	i.Force, u.Force = true, true
	for verb, run := range map[string]func(context.Context) error{"install": i.Run, "uninstall": u.Run} {
		if err := run(t.Context()); err == nil || !strings.Contains(err.Error(), "use --namespace kube-system") {
			t.Errorf("%s in another namespace: %v", verb, err)
		}
	}
	if calls := l.Calls()[before:]; len(calls) > 0 {
		t.Errorf("changed all the same: %v", calls)
	}

	// What is left where there is no DaemonSet any more keeps nobody from installing.
	l.Do(func() { l.Put(daemonPath, nil) })
	must(t, i.alone(t.Context()))
}
