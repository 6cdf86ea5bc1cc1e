package deploy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func TestUninstallRemovesEverythingInOrder(t *testing.T) {
	l := newLab(t, "a", "b")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.Do(func() { // what Helm notes
		ds := as[appsv1.DaemonSet](l, daemonPath)
		ds.Annotations = map[string]string{"meta.helm.sh/release-name": "net"}
		l.Put(daemonPath, ds)
	})
	before := len(l.Calls())
	must(t, l.uninstall(time.Minute).Run(t.Context()))
	if left := l.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	want := []string{
		"DELETE " + daemonPath,
		"DELETE " + podsPath,
		"POST " + podsPath,
		"POST " + podsPath,
		"DELETE " + podsPath,
		"DELETE /api/v1/namespaces/kube-system/configmaps/weft",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/pod-ips.weft.dev",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/balancer.weft.dev",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/account.weft.dev",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/pod-ips.weft.dev",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/balancer.weft.dev",
		"DELETE /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/account.weft.dev",
		"DELETE /apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/weft",
		"DELETE /apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/weft",
		"DELETE /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/weft-load-balancer",
		"DELETE /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/weft",
		"DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/weft",
		"DELETE /api/v1/namespaces/kube-system/serviceaccounts/weft",
	}
	if diff := cmp.Diff(want, l.Calls()[before:]); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	l.says("node a: clean", "node b: clean", "helm uninstall net -n kube-system", "pods that ran have lost their network")

	// Again, where nothing is left: it is made sure of, by the settings.
	must(t, l.uninstall(time.Minute).Run(t.Context()))
	if left := l.left(); len(left) > 0 {
		t.Errorf("left after the second time: %v", left)
	}
	l.says("there is no DaemonSet kube-system/weft")
}

// The pods of the clean-up have what the daemon had, and more rights.
func TestCleanUpHasTheDaemonsVolumes(t *testing.T) {
	l := newLab(t, "a")
	i := l.install(time.Minute)
	must(t, i.Values.Set("cniBinDir=/usr/libexec/cni"))
	must(t, i.Values.Set("image=example.org/weft:v7"))
	must(t, i.Run(t.Context()))
	var pod corev1.Pod
	l.clean = func(_ string, p *corev1.Pod) { p.DeepCopyInto(&pod); p.Status.Phase = corev1.PodSucceeded }
	must(t, l.uninstall(time.Minute).Run(t.Context()))

	s := pod.Spec
	if s.NodeName != "a" || !s.HostNetwork || s.RestartPolicy != corev1.RestartPolicyNever || *s.AutomountServiceAccountToken || len(s.Tolerations) != 1 {
		t.Errorf("pod: %+v", s)
	}
	containers := slices.Concat(s.InitContainers, s.Containers)
	var verbs []string
	for _, c := range containers {
		verbs = append(verbs, c.Command[1])
		if c.Image != "example.org/weft:v7" || !*c.SecurityContext.Privileged || c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil {
			t.Errorf("container %s: %+v", c.Name, c)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(s.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("container %s mounts volume %s, which is not there", c.Name, m.Name)
			}
			if m.Name == kubeletVolume {
				t.Errorf("container %s needs the kubelet's kubeconfig, which may be gone", c.Name)
			}
		}
	}
	if want := []string{"prepare", "uninstall", "unprepare"}; !slices.Equal(verbs, want) {
		t.Errorf("the containers run %v, want %v", verbs, want)
	}
	if !slices.ContainsFunc(containers[1].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/usr/libexec/cni" }) {
		t.Error("the folder of CNI binaries is not mounted")
	}
}

func TestUninstallKeepsWhatIsNeededToTryAgain(t *testing.T) {
	failing := func(node string, p *corev1.Pod) {
		if node == "b" {
			p.Status.Phase = corev1.PodFailed
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "uninstall", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "weftd: remove routes: operation not permitted"}}}}
		}
	}
	pulling := func(node string, p *corev1.Pod) {
		if node == "b" {
			p.Status.Phase = corev1.PodPending
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "prepare", State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}}}
		}
	}
	for _, tc := range []struct {
		name    string
		clean   func(string, *corev1.Pod)
		prepare func(*lab)
		want    []string
	}{
		{"clean-up fails", failing, nil, []string{"node a: clean", "node b: not clean: uninstall: ended with code 1: weftd: remove routes: operation not permitted"}},
		{"clean-up does not start", pulling, nil, []string{"node a: clean", "node b: not clean: prepare: ErrImagePull: not found"}},
		{"kubelet is silent", nil, func(l *lab) { l.node("b", corev1.ConditionUnknown, "") }, []string{"node a: clean", "node b: its kubelet is silent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, "a", "b")
			must(t, l.install(time.Minute).Run(t.Context()))
			if tc.prepare != nil {
				tc.prepare(l)
			}
			l.clean = tc.clean
			err := l.uninstall(soon).Run(t.Context())
			if !errors.Is(err, ErrNotClean) || !strings.Contains(err.Error(), "--force") {
				t.Errorf("got %v, want %v and what can be done", err, ErrNotClean)
			}
			l.says(tc.want...)
			// All but the DaemonSet and the pods.
			if left := l.left(); len(left) != 13 || strings.Contains(strings.Join(left, " "), "Pod ") {
				t.Errorf("left: %v", left)
			}

			u := l.uninstall(soon)
			u.Force = true
			if err := u.Run(t.Context()); !errors.Is(err, ErrNotClean) {
				t.Errorf("with force: got %v, want %v", err, ErrNotClean)
			}
			if left := l.left(); len(left) > 0 {
				t.Errorf("left with force: %v", left)
			}

			l.clean = nil
			l.node("b", corev1.ConditionTrue, "")
			must(t, l.uninstall(time.Minute).Run(t.Context()))
			if left := l.left(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// No node is cleaned while a daemon could make everything anew.
func TestUninstallWaitsForTheDaemonsEnd(t *testing.T) {
	l := newLab(t, "a", "b")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.slow = true
	err := l.uninstall(soon).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "wait for the daemons' end") {
		t.Errorf("got %v, want that it waited for the daemons", err)
	}
	l.says("waiting for the daemons' end on a, b")
	if l.index("POST") >= 0 {
		t.Errorf("a clean-up was started beside a daemon: %v", l.Calls())
	}
	// A node that does not answer is not waited for.
	l.node("b", corev1.ConditionUnknown, "")
	l.Do(func() { l.Put(podsPath+"/weft-a", nil) })
	if err := l.uninstall(soon).Run(t.Context()); !errors.Is(err, ErrNotClean) {
		t.Errorf("got %v, want %v", err, ErrNotClean)
	}
	l.says("node a: clean")
}

// An interrupt leaves no privileged pod behind.
func TestUninstallCanBeInterrupted(t *testing.T) {
	l := newLab(t, "a", "b")
	must(t, l.install(time.Minute).Run(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	l.clean = func(node string, p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		if node == "b" {
			cancel()
		}
	}
	err := l.uninstall(time.Hour).Run(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "goes on where it was") {
		t.Errorf("got %v, want what an interrupt means", err)
	}
	for _, o := range l.left() {
		if strings.HasPrefix(o, "Pod ") {
			t.Errorf("%s stays", o)
		}
	}
	l.clean = nil
	must(t, l.uninstall(time.Minute).Run(t.Context()))
}

// The pods of the clean-up mount the settings: a kubelet starts none while these are gone.
func TestUninstallWithoutSettings(t *testing.T) {
	const settings = "/api/v1/namespaces/kube-system/configmaps/weft"
	l := newLab(t, "a")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.Do(func() { l.Put(settings, nil) })
	var text string
	l.clean = func(_ string, p *corev1.Pod) {
		p.Status.Phase = corev1.PodPending
		if l.Get(settings) != nil {
			p.Status.Phase = corev1.PodSucceeded
			text = as[corev1.ConfigMap](l, settings).Data["weftd.yaml"]
		}
	}
	u := l.uninstall(time.Minute)
	must(t, u.Values.Set("cniBinDir=/usr/libexec/cni"))
	must(t, u.Run(t.Context()))
	l.says("there is no ConfigMap kube-system/weft: the nodes are cleaned as the settings here say", "node a: clean")
	if !strings.Contains(text, "/usr/libexec/cni") {
		t.Errorf("the clean-up had the settings\n%s\nwant those of the call", text)
	}
	if left := l.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What cannot be read is not gone, and nothing is removed before that is known.
func TestUninstallDoesNotReplaceSettings(t *testing.T) {
	l := newLab(t, "a")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.Refuse = refuseWhen(http.MethodGet, "/configmaps/", 403, "configmaps is forbidden")
	before := len(l.Calls())
	if err := l.uninstall(time.Minute).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "read ConfigMap kube-system/weft: no permission") {
		t.Errorf("got %v, want that the right is missing", err)
	}
	if calls := l.Calls()[before:]; len(calls) > 0 {
		t.Errorf("it did %v", calls)
	}
}

func TestUninstallFailsWithWhatToDo(t *testing.T) {
	l := newLab(t, "a")
	must(t, l.install(time.Minute).Run(t.Context()))
	l.Refuse = refuseWhen(http.MethodPost, "/pods", 403, "pods is forbidden")
	if err := l.uninstall(time.Minute).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "start the clean-up of node a: no permission") {
		t.Errorf("got %v, want that the right is missing", err)
	}
	l.Refuse = nil
	l.Do(func() { l.Put(daemonPath, appsv1.DaemonSet{}) })
	if err := l.uninstall(time.Minute).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is it Weft's?") {
		t.Errorf("got %v, want that the DaemonSet is not ours", err)
	}
}
