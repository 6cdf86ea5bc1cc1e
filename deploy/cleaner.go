package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// cleanerName is the label of the pods of the clean-up, and the beginning of their names.
const cleanerName = "weft-uninstall"

func parseDaemonSet(o Object) (appsv1.DaemonSet, error) {
	var ds appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(o.YAML, &ds); err != nil {
		return ds, fmt.Errorf("read %s: %w", o, err)
	}
	return ds, nil
}

// cleaner is a pod that removes Weft from one node, once. It has the volumes of the
// daemon's, where the daemon left things, and three containers, one after the other:
//
//   - prepare makes and notes what the others' mounts would make without noting it;
//   - uninstall removes what the daemon has made;
//   - unprepare removes what prepare has made, now and before.
//
// It is bound to its node by name, so that it runs also where nothing can be scheduled.
func cleaner(node, namespace string, daemon corev1.PodSpec) corev1.Pod {
	spec := daemon.DeepCopy()
	prepare, work := spec.InitContainers[0], spec.Containers[0]
	sum := sha256.Sum256([]byte(node)) // a node's name may be too long for what it is a part of
	yes, no := true, false

	plain := func(c corev1.Container, name, verb string) corev1.Container {
		c.Name = name
		c.Command = []string{"/usr/bin/weftd", verb, "--node-name=$(NODE_NAME)"}
		c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = nil, nil, nil
		c.SecurityContext = &corev1.SecurityContext{Privileged: &yes, ReadOnlyRootFilesystem: &yes}
		return c
	}
	uninstall := plain(work, "uninstall", "uninstall")
	// The kubelet's kubeconfig may be gone, and is not needed.
	uninstall.VolumeMounts = slices.DeleteFunc(uninstall.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == kubeletVolume })
	volumes := slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == kubeletVolume })
	unprepare := plain(prepare, "unprepare", "unprepare")
	unprepare.Command = append(unprepare.Command, "--proc=/host/proc")

	return corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: cleanerName + "-" + hex.EncodeToString(sum[:5]), Namespace: namespace,
			Labels: map[string]string{nameLabel: cleanerName},
		},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, DNSPolicy: corev1.DNSDefault, PriorityClassName: spec.PriorityClassName,
			Tolerations: spec.Tolerations, ImagePullSecrets: spec.ImagePullSecrets,
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no,
			InitContainers: []corev1.Container{prepare, uninstall}, Containers: []corev1.Container{unprepare},
			Volumes: volumes,
		},
	}
}

// kubeletVolume is the chart's name of the volume with the kubelet's kubeconfig.
const kubeletVolume = "kubelet-kubeconfig"
