package kube

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const manyPods = 100_000

// benchPod is the nth of a cluster with 250 pods on each node and 20 in each ReplicaSet.
// With own labels it is that of a StatefulSet.
func benchPod(n int, own bool) *corev1.Pod {
	app := fmt.Sprintf("app-%04d", n/20)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%03d", n/500), Name: fmt.Sprintf("%s-7d4b9c6f58-%05d", app, n),
			UID:    types.UID(fmt.Sprintf("11111111-2222-3333-4444-%012d", n)),
			Labels: map[string]string{"app.kubernetes.io/name": app, "pod-template-hash": "7d4b9c6f58", "tier": "backend"},
		},
		Spec: corev1.PodSpec{
			NodeName:   fmt.Sprintf("node-%04d", n*7919%manyPods/250),
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}},
		},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{
			{IP: fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255)}, {IP: fmt.Sprintf("fd00::%x:%x", n>>16, n&0xffff)},
		}},
	}
	if own {
		p.Labels["statefulset.kubernetes.io/pod-name"] = p.Name
	}
	return p
}

// BenchmarkPods has a source with the pods of all nodes: how much of the heap each takes,
// with the tables, and what it costs to take up a change and make a state of it.
func BenchmarkPods(b *testing.B) {
	for name, own := range map[string]bool{"shared-labels": false, "own-labels": true} {
		b.Run(name, func(b *testing.B) {
			s, err := Open(Options{Node: "node-0001"})
			if err != nil {
				b.Fatal(err)
			}
			before := heap()
			to := s.podFeed.sink
			s.police()
			s.podFeed.using = nil
			to.begin()
			for n := range manyPods {
				to.put(benchPod(n, own))
			}
			to.end()
			if got := len(s.Snapshot().Pods); got != manyPods {
				b.Fatal(got)
			}
			kept := heap() - before
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				p := benchPod(n*7919%manyPods, own)
				p.Labels["tier"] = fmt.Sprint(n)
				to.put(p)
				s.Snapshot()
			}
			b.ReportMetric(float64(kept)/manyPods, "B/pod")
		})
	}
}
