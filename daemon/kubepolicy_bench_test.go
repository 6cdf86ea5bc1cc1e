package daemon

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// The pods of [BenchmarkKubePolicies] are of so many namespaces and applications.
const benchSpaces, benchApps = 100, 50

// benchPod is the i-th pod of a cluster, with the application of its number or another.
func benchPod(i, app int, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("pod-%06d", i), Namespace: fmt.Sprintf("space-%02d", i%benchSpaces),
		Labels: map[string]string{"app": fmt.Sprintf("app-%d", app), "pod-template-hash": fmt.Sprint(app)},
	}}
	p.Spec.NodeName = node
	if node == "" {
		p.Spec.NodeName = fmt.Sprintf("far-%03d", i%999)
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.%d", 150+i>>16, i>>8&255, i&255)}, {IP: fmt.Sprintf("fd00:ff::%x:%x", i>>16, i&0xffff)}}
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	return p
}

func benchApp(i int) int { return i / benchSpaces % benchApps }

// benchPolicy is the i-th policy: about one application of a namespace, which another one
// may reach.
func benchPolicy(i int) *networkingv1.NetworkPolicy {
	app := func(n int) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", n%benchApps)}}
	}
	from, port := app(benchApp(i)+1+i/benchSpaces/benchApps), intstr.FromInt(8000+i%10)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("policy-%05d", i), Namespace: fmt.Sprintf("space-%02d", i%benchSpaces)}}
	p.Spec.PodSelector = app(benchApp(i))
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &from}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	return p
}

// BenchmarkKubePolicies is a daemon with 250 pods in a cluster of 1,000 nodes, with policies
// and pods as the Kubernetes API has them: how long it takes from its start until all is in
// force, what it holds then, and how long a change of a pod's label takes from the API's
// event to the kernel at 100 a second.
func BenchmarkKubePolicies(b *testing.B) {
	for _, n := range []struct{ policies, pods int }{{100, 1000}, {10000, 100000}} {
		b.Run(fmt.Sprint(n.policies), func(b *testing.B) {
			const here = 250
			l := newLab(b)
			a := l.add()
			a.cfg.MetricsAddress = "127.0.0.1:9087"
			c := testkube.NewCluster(b)
			l.underKube(c, a)
			for i := range 999 {
				c.Put(farNode(i))
			}
			for i := range benchSpaces {
				c.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("space-%02d", i)}})
			}
			a.start()
			a.ready()
			for i := range here {
				p := benchPod(n.pods+i, benchApp(i), a.name())
				c.Put(p)
				a.attach(func(r *api.Attach) { r.PodNamespace, r.PodName = p.Namespace, p.Name })
			}
			a.stop(syscall.SIGTERM)
			for i := range n.pods {
				c.Put(benchPod(i, benchApp(i), ""))
			}
			for i := range n.policies {
				c.Put(benchPolicy(i))
			}
			runtime.GC() // ours, so that it does not disturb the daemon
			last := fmt.Sprintf("space-%02d/pod-%06d", 99, n.pods+99)
			for b.Loop() {
				begin := time.Now()
				a.start()
				testnet.Until(b, time.Minute, func() error {
					p, err := a.client().PodPolicy(context.Background(), last)
					if err == nil && p[0].Ingress.State != api.PodIsolated {
						err = fmt.Errorf("%s is %s", last, p[0].Ingress.State)
					}
					return err
				})
				b.ReportMetric(time.Since(begin).Seconds(), "cold-s")
				time.Sleep(2*lookEvery + time.Second) // what is measured comes by itself
				b.ReportMetric(a.pss(), "PSS-MiB")
				a.changeLabels(b, c, n.pods, 20*time.Second)
				b.ReportMetric(a.pss(), "PSS-later-MiB")
				a.stop(syscall.SIGTERM)
			}
		})
	}
}

// changeLabels gives 100 pods a second, of other nodes, an application that policies of
// this node's pods name, or takes it from them.
func (m *machine) changeLabels(b *testing.B, c *testkube.Cluster, pods int, d time.Duration) {
	b.Helper()
	const metric = "weft_policy_change_seconds"
	count, sum := m.metric(metric+"_count "), m.metric(metric+"_sum ")
	bounds := []string{"0.002", "0.004", "0.008", "0.016", "0.032", "0.064"}
	before := map[string]float64{}
	for _, bound := range bounds {
		before[bound] = m.metric(metric + `_bucket{le="` + bound + `"} `)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	sent := 0
	for end := time.After(d); ; sent++ {
		select {
		case <-end:
		case <-tick.C:
			c.Put(benchPod(pods+1000+sent%100, []int{1, benchApps - 1}[sent/100%2], ""))
			continue
		}
		break
	}
	testnet.Until(b, 10*time.Second, func() error {
		if now := m.metric(metric+"_count ") - count; now < float64(sent)/4 { // some come together
			return fmt.Errorf("%v changes of %d", now, sent)
		}
		return nil
	})
	total := m.metric(metric+"_count ") - count
	b.ReportMetric(1000*(m.metric(metric+"_sum ")-sum)/total, "mean-change-ms")
	for _, bound := range bounds {
		b.ReportMetric(100*(m.metric(metric+`_bucket{le="`+bound+`"} `)-before[bound])/total, "%-in-"+bound+"s")
	}
}
