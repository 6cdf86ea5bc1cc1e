package deploy

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/daemon/source/kube"
)

func TestGeneratedFilesAreWhatTheChartMakes(t *testing.T) {
	files, err := Generated()
	must(t, err)
	for path, want := range files {
		got, err := os.ReadFile(path)
		must(t, err)
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not what the chart makes: run make manifest (-want +got):\n%s", path, diff)
		}
	}
}

// decode reads an object as Kubernetes' own type; what that does not know is an error.
func decode[T any](t *testing.T, o Object) T {
	t.Helper()
	var out T
	if err := yaml.UnmarshalStrict(o.YAML, &out); err != nil {
		t.Errorf("%s: %v", o, err)
	}
	return out
}

// object renders and returns one object.
func object(t *testing.T, v Values, kind string) Object {
	t.Helper()
	objects, err := Render(v, DefaultNamespace)
	must(t, err)
	for _, o := range objects {
		if o.Kind == kind {
			return o
		}
	}
	t.Fatalf("there is no %s", kind)
	return Object{}
}

func TestObjectsAreWhatKubernetesKnows(t *testing.T) {
	objects, err := Render(Defaults(), "net")
	must(t, err)
	var got []string
	for _, o := range objects {
		got = append(got, o.APIVersion+" "+o.String())
		switch o.Kind {
		case "ServiceAccount":
			decode[corev1.ServiceAccount](t, o)
		case "ClusterRole":
			decode[rbacv1.ClusterRole](t, o)
		case "ClusterRoleBinding":
			if b := decode[rbacv1.ClusterRoleBinding](t, o); b.Subjects[0].Namespace != "net" {
				t.Errorf("the rights are those of an account in %s", b.Subjects[0].Namespace)
			}
		case "Lease":
			if l := decode[coordinationv1.Lease](t, o); l.Name != kube.LeaseName {
				t.Errorf("%s is not that of the daemons, %s", o, kube.LeaseName)
			}
		case "Role":
			decode[rbacv1.Role](t, o)
		case "RoleBinding":
			if b := decode[rbacv1.RoleBinding](t, o); b.Subjects[0].Namespace != "net" {
				t.Errorf("the rights are those of an account in %s", b.Subjects[0].Namespace)
			}
		case "ValidatingAdmissionPolicy":
			decode[admissionv1.ValidatingAdmissionPolicy](t, o)
			if !bytes.Contains(o.YAML, []byte("'system:serviceaccount:net:weft'")) {
				t.Errorf("%s is not about our account", o)
			}
		case "ValidatingAdmissionPolicyBinding":
			decode[admissionv1.ValidatingAdmissionPolicyBinding](t, o)
		case "ConfigMap":
			decode[corev1.ConfigMap](t, o)
		case "DaemonSet":
			decode[appsv1.DaemonSet](t, o)
		default:
			t.Errorf("%s: not decoded", o)
		}
	}
	want := []string{
		"v1 ServiceAccount net/weft",
		"rbac.authorization.k8s.io/v1 ClusterRole weft",
		"rbac.authorization.k8s.io/v1 ClusterRoleBinding weft",
		"coordination.k8s.io/v1 Lease net/weft-load-balancer",
		"rbac.authorization.k8s.io/v1 Role net/weft",
		"rbac.authorization.k8s.io/v1 RoleBinding net/weft",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy account.weft.dev",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy balancer.weft.dev",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy pod-ips.weft.dev",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding account.weft.dev",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding balancer.weft.dev",
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding pod-ips.weft.dev",
		"v1 ConfigMap net/weft",
		"apps/v1 DaemonSet net/weft",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// What the node may rely on: it is neither starved nor evicted, one node at a time is
// restarted, and no more than one short container is privileged.
func TestDaemonSetIsFitForEveryNode(t *testing.T) {
	ds := decode[appsv1.DaemonSet](t, object(t, Defaults(), "DaemonSet"))
	s := ds.Spec.Template.Spec
	if !s.HostNetwork || s.DNSPolicy != corev1.DNSDefault || s.PriorityClassName != "system-node-critical" || s.HostPID {
		t.Errorf("pod: hostNetwork %v, dnsPolicy %s, priority %s, hostPID %v", s.HostNetwork, s.DNSPolicy, s.PriorityClassName, s.HostPID)
	}
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, s.Tolerations); diff != "" {
		t.Errorf("tolerations (-want +got):\n%s", diff)
	}
	if u := ds.Spec.UpdateStrategy; u.Type != appsv1.RollingUpdateDaemonSetStrategyType || u.RollingUpdate.MaxUnavailable.IntValue() != 1 {
		t.Errorf("update: %+v", u)
	}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		if len(c.Resources.Limits) > 0 {
			t.Errorf("%s has limits %v", c.Name, c.Resources.Limits)
		}
		cpu, memory := c.Resources.Requests[corev1.ResourceCPU], c.Resources.Requests[corev1.ResourceMemory]
		if cpu.Cmp(resource.MustParse("10m")) != 0 || memory.Cmp(resource.MustParse("40Mi")) != 0 {
			t.Errorf("%s requests %v", c.Name, c.Resources.Requests)
		}
		privileged := c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if privileged != (c.Name == "prepare") || !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: privileged %v, security %+v", c.Name, privileged, c.SecurityContext)
		}
	}
	weftd := s.Containers[0]
	if drop := weftd.SecurityContext.Capabilities.Drop; !slices.Equal(drop, []corev1.Capability{"ALL"}) {
		t.Errorf("dropped capabilities: %v", drop)
	}
	for _, p := range []*corev1.Probe{weftd.StartupProbe, weftd.LivenessProbe, weftd.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Host != "127.0.0.1" || p.HTTPGet.Port.IntValue() != 9088 {
			t.Errorf("probe %+v does not ask the loopback address", p)
		}
	}
	// A folder that the kubelet made would not be known as ours (weftd prepare).
	for _, v := range s.Volumes {
		if v.HostPath != nil && v.HostPath.Type != nil && v.Name != kubeletVolume {
			t.Errorf("volume %s has the type %s", v.Name, *v.HostPath.Type)
		}
	}
	for _, m := range weftd.VolumeMounts {
		shared := m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer
		if shared != (m.Name == "netns") {
			t.Errorf("volume %s: mount propagation %v", m.Name, m.MountPropagation)
		}
	}
}

func TestSettingsChangeThePods(t *testing.T) {
	pods := func(assignments ...string) appsv1.DaemonSet {
		v := Defaults()
		for _, a := range assignments {
			must(t, v.Set(a))
		}
		return decode[appsv1.DaemonSet](t, object(t, v, "DaemonSet"))
	}
	usual := pods()
	if got := pods("logLevel=debug").Spec.Template.Annotations[settingsKey]; got == usual.Spec.Template.Annotations[settingsKey] {
		t.Error("other settings do not make other pods")
	}
	if p := pods("healthPort=0").Spec.Template.Spec.Containers[0]; p.LivenessProbe != nil || p.ReadinessProbe != nil || p.StartupProbe != nil {
		t.Errorf("probes without a port: %+v", p)
	}
	if s := pods("kubeletKubeconfig=").Spec.Template.Spec; len(s.Volumes) != len(usual.Spec.Template.Spec.Volumes)-1 {
		t.Errorf("volumes without the kubelet's kubeconfig: %+v", s.Volumes)
	}
	s := pods("image=example.org/weft:v9").Spec.Template.Spec
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		if c.Image != "example.org/weft:v9" {
			t.Errorf("%s: image %s", c.Name, c.Image)
		}
	}
}

func TestSettingsAreRefusedWithWhatIsRight(t *testing.T) {
	for assignment, want := range map[string]string{
		"image":          "want NAME=VALUE",
		"imgae=x":        `there is no setting "imgae"; there are apiServers, cgroup,`,
		"masquerade=yes": "want true or false",
		"port=-1":        "want a number in 0…4294967295",
		"port=vxlan":     "want a number",
		"port=1e3":       "want a number",
	} {
		if err := Defaults().Set(assignment); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not say %q", assignment, err, want)
		}
	}
}

// A template that uses what only Helm has is found here, not by a user of weft install.
func TestTemplatesAreParsedStrictly(t *testing.T) {
	v := Defaults()
	delete(v, "overlay")
	if _, err := Render(v, DefaultNamespace); err == nil {
		t.Error("a setting that is not there is rendered")
	}
}
