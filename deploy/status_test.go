package deploy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/internal/api"
)

func TestStatusAsksEveryNode(t *testing.T) {
	l := newLab(t, "a", "b", "c", "d", "e")
	daemons := map[string]api.Status{
		"weft-a": {Node: "a", Version: "v1", Ready: true, Peers: 4, Reach: []api.Reach{{State: "no answer", Nodes: 1, Names: []string{"c"}}, {State: "ok", Nodes: 3}}},
		"weft-b": {Node: "b", Version: "v2", Problems: []api.Problem{{What: "no-pod-cidr", Text: "none"}}},
	}
	l.run = func(node string, p *corev1.Pod) {
		switch node {
		case "c":
			notReady(p, corev1.ContainerStatus{Name: "weftd", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}})
		case "e":
			p.Spec.NodeName = "elsewhere"
		}
	}
	l.Exec = func(pod string, _ []string) (string, string, int) {
		s, ok := daemons[pod]
		if !ok {
			return "", "weft: no answer from the daemon", 3
		}
		b, err := json.Marshal(s)
		if err != nil {
			return "", err.Error(), 1
		}
		if s.Ready {
			return string(b), "", 0
		}
		return string(b), "", 1
	}
	if err := l.install(soon).Run(t.Context()); err == nil {
		t.Fatal("the install succeeded")
	}
	got, err := l.connect().Status(t.Context())
	must(t, err)
	a, b := daemons["weft-a"], daemons["weft-b"]
	want := Status{
		Server: l.URL(), Namespace: "kube-system", Installed: true,
		Nodes: []NodeStatus{
			{Name: "a", Ready: true, Pod: "weft-a", Kubelet: "v1.37.2", Daemon: &a},
			// The kubelet's probe has not seen it yet.
			{Name: "b", Why: "its daemon is not ready", Pod: "weft-b", Kubelet: "v1.37.2", Daemon: &b},
			{Name: "c", Why: "weftd: CrashLoopBackOff", Pod: "weft-c", Kubelet: "v1.37.2"},
			{Name: "d", Ready: true, Pod: "weft-d", Kubelet: "v1.37.2"},
			{Name: "e", Why: "it has no pod of Weft", Kubelet: "v1.37.2"},
		},
	}
	if reply := got.Nodes[3].NoReply; !strings.Contains(reply, "exit code 3") || !strings.Contains(reply, "no answer from the daemon") {
		t.Errorf("node d: no reply because %q, want what the command said", reply)
	}
	want.Nodes[3].NoReply = got.Nodes[3].NoReply
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestStatusOfAWellCluster(t *testing.T) {
	l := newLab(t, "a")
	l.Exec = func(string, []string) (string, string, int) { return `{"node":"a","ready":true}`, "", 0 }
	got, err := l.connect().Status(t.Context())
	must(t, err)
	if got.Installed || got.Ready || len(got.Nodes) != 1 {
		t.Errorf("before the install: %+v", got)
	}
	must(t, l.install(time.Minute).Run(t.Context()))
	got, err = l.connect().Status(t.Context())
	must(t, err)
	if !got.Installed || !got.Ready || !got.Nodes[0].Ready {
		t.Errorf("after the install: %+v", got)
	}
}

// Without the right to run commands in pods the rest is shown nevertheless.
func TestStatusWithoutTheRightToAskDaemons(t *testing.T) {
	l := newLab(t, "a")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.Refuse = refuseWhen(http.MethodGet, "/exec", 403, "cannot create pods/exec")
	got, err := l.connect().Status(t.Context())
	must(t, err)
	if n := got.Nodes[0]; !n.Ready || n.Daemon != nil || !strings.Contains(n.NoReply, "cannot create pods/exec") {
		t.Errorf("node: %+v", n)
	}
}
