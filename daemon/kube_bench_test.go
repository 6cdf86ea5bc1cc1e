package daemon

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// BenchmarkKube is a daemon in a cluster of 1,000 nodes with Services of five endpoints
// each, of 30,000 of them 250,000 in all, as the Kubernetes API has them: how long it takes from its start until all is in
// the kernel, what it holds when it has settled (proportional set size), how long a change
// takes from the API's event to the kernel at 50 a second, and what it holds then.
func BenchmarkKube(b *testing.B) {
	for _, n := range []int{0, 100, 10000, 30000} {
		ends := 5 * n
		if n == 30000 {
			ends = 250000
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			a := l.add()
			a.cfg.MetricsAddress = "127.0.0.1:9087"
			c := testkube.NewCluster(b)
			l.underKube(c, a)
			for i := range 999 {
				c.Put(farNode(i))
			}
			var slices []*discoveryv1.EndpointSlice
			for i := range n {
				v, e := fullService(i, n, (i+1)*ends/n-i*ends/n)
				c.Put(v, e)
				slices = append(slices, e)
			}
			runtime.GC() // ours, so that it does not disturb the daemon
			for b.Loop() {
				begin := time.Now()
				a.start()
				a.loaded(b, n)
				b.ReportMetric(time.Since(begin).Seconds(), "cold-s")
				b.ReportMetric(a.cpu().Seconds(), "cold-cpu-s")
				b.ReportMetric(a.metric("weft_first_sync_seconds "), "first-sync-s")
				time.Sleep(2*lookEvery + time.Second) // what is measured comes by itself
				b.ReportMetric(a.pss(), "PSS-MiB")
				if n > 0 {
					a.changeSlices(b, c, slices, 50, 20*time.Second)
				}
				time.Sleep(time.Minute)
				b.ReportMetric(a.pss(), "PSS-later-MiB")
				a.stop(syscall.SIGTERM)
			}
		})
	}
}

// loaded waits until the daemon has so many sets of backends in the kernel. It asks seldom:
// each question has the daemon make its lists of all objects.
func (m *machine) loaded(b *testing.B, sets int) {
	b.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		s, err := m.client().Status(b.Context())
		if err == nil && s.Ready && rowsOf(s, "sets") == sets {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d sets are not there: %+v, %v", sets, s, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// cpu is what the daemon has used of processors so far.
func (m *machine) cpu() time.Duration {
	m.lab.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	m.lab.must(err)
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int
	for _, field := range f[11:13] { // utime, stime: proc_pid_stat(5)
		n, err := strconv.Atoi(field)
		m.lab.must(err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

func rowsOf(s api.Status, table string) int {
	i := slices.IndexFunc(s.Tables, func(t api.Table) bool { return t.Name == table })
	return s.Tables[i].Rows
}

// changeSlices has one slice after the other lose or win an endpoint, so many a second.
func (m *machine) changeSlices(b *testing.B, c *testkube.Cluster, all []*discoveryv1.EndpointSlice, rate int, d time.Duration) {
	b.Helper()
	before := m.metric(weftMetric + "_count ")
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	sent := 0
	for end := time.After(d); ; sent++ {
		select {
		case <-end:
		case <-tick.C:
			e := all[sent*7919%len(all)].DeepCopy()
			e.Endpoints[0].Addresses[0] = fmt.Sprintf("10.%d.%d.%d", 200+sent/65536, sent/256%256, sent%256)
			c.Put(e)
			continue
		}
		break
	}
	testnet.Until(b, 10*time.Second, func() error {
		if now := m.metric(weftMetric+"_count ") - before; now < float64(sent)/2 { // some come together
			return fmt.Errorf("%v changes of %d", now, sent)
		}
		return nil
	})
	b.ReportMetric(1000*m.metric(weftMetric+"_sum ")/m.metric(weftMetric+"_count "), "mean-change-ms")
	total := m.metric(weftMetric + "_count ")
	for _, bound := range []string{"0.002", "0.004", "0.008", "0.016", "0.032", "0.064"} {
		b.ReportMetric(100*m.metric(weftMetric+`_bucket{le="`+bound+`"} `)/total, "%-in-"+bound+"s")
	}
}

// farNode is a node as a kubelet shows it, with what Weft does not read.
func farNode(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("far-%03d", i),
		UID:  types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)),
		Labels: map[string]string{
			"kubernetes.io/hostname": fmt.Sprintf("far-%03d", i), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"node.kubernetes.io/instance-type": "m5.large", "topology.kubernetes.io/zone": fmt.Sprintf("zone-%d", i%3), "topology.kubernetes.io/region": "region",
		},
	}}
	n.Spec.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", 100+i/256, i%256), fmt.Sprintf("fd00:%x::/64", 0x1000+i)}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", 20+i%200)}}
	for j := range 30 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names: []string{fmt.Sprintf("registry.example.com/team/image-%d@sha256:%064d", j, i), fmt.Sprintf("registry.example.com/team/image-%d:v1.%d", j, i)}, SizeBytes: 12345678,
		})
	}
	return n
}

// fullService is the i-th of n Services, of so many endpoints on as many nodes; 2,500 of
// them, or every tenth if there are fewer, have a node port.
func fullService(i, n, ends int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	name, ip := fmt.Sprintf("service-%05d", i), fmt.Sprintf("10.96.%d.%d", i/256, i%256)
	objects := kubeService(name, ip)
	v, e := objects[0].(*corev1.Service), objects[1].(*discoveryv1.EndpointSlice)
	if every := max(10, n/2500); i%every == 0 {
		v.Spec.Type, v.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, int32(30000+i/every)
	}
	for j := range ends {
		node, zone, yes := fmt.Sprintf("far-%03d", (i*ends+j)%999), fmt.Sprintf("zone-%d", j%3), true
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+j, i/256, i%256)}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-7d4b9c-%d", name, j),
				UID: types.UID(fmt.Sprintf("11111111-0000-%04d-0000-%012d", j, i)),
			},
		})
	}
	return v, e
}
