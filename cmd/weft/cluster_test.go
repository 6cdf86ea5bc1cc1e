package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/deploy/fake"
	"github.com/weftnet/weft/internal/api"
)

// installed is a cluster with Weft on its nodes, of which one's daemon has a problem and
// one's does not answer.
func installed(t *testing.T, nodes ...string) *fake.Server {
	t.Helper()
	s := fake.New(t)
	s.Do(func() {
		s.Put("/apis/apps/v1/namespaces/kube-system/daemonsets/weft", appsv1.DaemonSet{
			Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: int32(len(nodes)), UpdatedNumberScheduled: int32(len(nodes)), NumberAvailable: int32(len(nodes))},
		})
		for _, n := range nodes {
			s.Put("/api/v1/nodes/"+n, corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
				Status: corev1.NodeStatus{
					NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"},
					Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				},
			})
			s.Put("/api/v1/namespaces/kube-system/pods/weft-"+n, corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "weft-" + n, Labels: map[string]string{"app.kubernetes.io/name": "weft"}},
				Spec:       corev1.PodSpec{NodeName: n},
				Status: corev1.PodStatus{
					Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
					ContainerStatuses: []corev1.ContainerStatus{{Name: "weftd", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
				},
			})
		}
	})
	s.Exec = func(pod string, _ []string) (string, string, int) {
		status := api.Status{Node: strings.TrimPrefix(pod, "weft-"), Version: "v1", Since: time.Now().Add(-time.Hour), Ready: true, Peers: 2, Pods: 5,
			Reach: []api.Reach{{State: "ok", Nodes: 2}}}
		switch pod {
		case "weft-b":
			status.Reach = []api.Reach{{State: "no answer", Nodes: 1, Names: []string{"c"}}, {State: "ok", Nodes: 1}}
			status.Problems = []api.Problem{{What: "no-answer", Text: "no answer through the overlay from c"}}
		case "weft-c":
			return "", "weft: the Weft daemon does not run", 3
		}
		b, err := json.Marshal(status)
		if err != nil {
			return "", err.Error(), 1
		}
		return string(b), "", 0
	}
	return s
}

func TestStatusOfACluster(t *testing.T) {
	s := installed(t, "a", "b", "c")
	code, out, errs := weft("status", "--kubeconfig", s.Kubeconfig())
	want := "Cluster " + s.URL() + `: 3 of 3 nodes ready

NODE   STATE   VERSION   UP   PODS   PEERS                   PROBLEMS   KUBELET
a      ready   v1        60m   5      2 ok                    0          v1.37.2
b      ready   v1        60m   5      1 no answer (c), 1 ok   1          v1.37.2
c      ready   -         -    -      -                       -          v1.37.2

NODE   PROBLEM     SINCE   WHAT TO KNOW
b      no-answer   -       no answer through the overlay from c
c      no-reply    -       run /usr/bin/weft in pod weft-c: command terminated with exit code 3 weft: the Weft daemon does not run
`
	squeeze := func(s string) string {
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return strings.Join(lines, "\n")
	}
	if diff := cmp.Diff(squeeze(want), squeeze(out)); diff != "" || code != 0 || errs != "" {
		t.Errorf("exit code %d, %s; output (-want +got):\n%s", code, errs, diff)
	}

	s.Do(func() { s.Put("/api/v1/namespaces/kube-system/pods/weft-a", nil) })
	code, out, _ = weft("status", "--kubeconfig", s.Kubeconfig())
	if code != exitNotReady || !strings.Contains(out, "2 of 3 nodes ready") || !strings.Contains(out, "it has no pod of Weft") {
		t.Errorf("a node without pod: exit code %d:\n%s", code, out)
	}
	code, out, _ = weft("status", "--kubeconfig", s.Kubeconfig(), "-o", "json")
	var decoded struct {
		Ready bool
		Nodes []struct {
			Name   string
			Why    string
			Daemon *api.Status
		}
	}
	if err := json.Unmarshal([]byte(out), &decoded); err != nil || code != exitNotReady || len(decoded.Nodes) != 3 || decoded.Nodes[1].Daemon.Node != "b" {
		t.Errorf("as JSON: exit code %d, %v, %+v", code, err, decoded)
	}
	code, out, _ = weft("status", "--kubeconfig", s.Kubeconfig(), "--namespace", "elsewhere")
	if code != exitNotReady || !strings.Contains(out, "no DaemonSet weft in the namespace elsewhere") || !strings.Contains(out, "weft install") {
		t.Errorf("in another namespace: exit code %d:\n%s", code, out)
	}
}

// Beside a daemon it is this node that is meant, elsewhere the cluster, unless somebody
// says which.
func TestStatusFindsOutWhatIsMeant(t *testing.T) {
	s := installed(t, "a")
	t.Setenv("KUBECONFIG", s.Kubeconfig())
	if _, err := os.Stat(api.DefaultSocket); err == nil {
		t.Fatalf("there is a daemon on this machine (%s): the test cannot tell", api.DefaultSocket)
	}
	if code, out, errs := weft("status"); code != 0 || !strings.HasPrefix(out, "Cluster ") {
		t.Errorf("no daemon, a kubeconfig: exit code %d: %s%s", code, out, errs)
	}
	if code, out, _ := weft("status", "--cluster"); code != 0 || !strings.HasPrefix(out, "Cluster ") {
		t.Errorf("--cluster: exit code %d: %s", code, out)
	}
	none := filepath.Join(t.TempDir(), "s")
	if code, _, errs := weft("status", "--socket", none); code != exitNoDaemon || !strings.Contains(errs, none) {
		t.Errorf("--socket: exit code %d: %s", code, errs)
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	if code, _, errs := weft("status"); code != exitNoDaemon || !strings.Contains(errs, "there is no socket") || !strings.Contains(errs, "--kubeconfig") {
		t.Errorf("nothing there: exit code %d: %s", code, errs)
	}
	if code, _, errs := weft("status", "--cluster"); code != exitNotReady || !strings.Contains(errs, "no kubeconfig") {
		t.Errorf("--cluster without kubeconfig: exit code %d: %s", code, errs)
	}
}

func TestDryRunPrintsTheManifest(t *testing.T) {
	file, err := os.ReadFile("../../deploy/weft.yaml")
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := weft("install", "--dry-run")
	if code != 0 || !strings.HasSuffix(string(file), "\n"+out) || len(out) < 1000 {
		t.Errorf("exit code %d, %s: not the manifest:\n%s", code, errs, out)
	}
	code, out, _ = weft("install", "--dry-run", "--image", "example.org/weft:v9", "--set", "port=4789", "--namespace", "net")
	for _, part := range []string{`image: "example.org/weft:v9"`, "port: 4789\n", "namespace: net\n", "serviceaccount:net:weft"} {
		if code != 0 || !strings.Contains(out, part) {
			t.Errorf("exit code %d: no %q in the output", code, part)
		}
	}
	for _, verb := range []string{"install", "uninstall"} {
		if code, _, errs := weft(verb, "--set", "imgae=x"); code != exitUsage || !strings.Contains(errs, `there is no setting "imgae"`) {
			t.Errorf("%s: exit code %d: %s", verb, code, errs)
		}
	}
}

func TestInstallAndUninstallEndWithTheirCodes(t *testing.T) {
	s := installed(t)
	kubeconfig := s.Kubeconfig()
	code, out, errs := weft("install", "--kubeconfig", kubeconfig, "--timeout", "50ms")
	if code != exitNotReady || !strings.Contains(out, "applied DaemonSet kube-system/weft") || !strings.Contains(errs, "not all nodes are ready") {
		t.Errorf("install: exit code %d: %s%s", code, out, errs)
	}
	code, out, errs = weft("uninstall", "--kubeconfig", kubeconfig)
	if code != 0 || !strings.Contains(out, "removed ServiceAccount kube-system/weft") {
		t.Errorf("uninstall: exit code %d: %s%s", code, out, errs)
	}
	s.Refuse = func(r *http.Request) (int, string) {
		if r.Method == http.MethodPatch {
			return 403, "serviceaccounts is forbidden"
		}
		return 0, ""
	}
	code, _, errs = weft("install", "--kubeconfig", kubeconfig)
	if code != exitNotReady || !strings.Contains(errs, "no permission") {
		t.Errorf("install without rights: exit code %d: %s", code, errs)
	}
}
