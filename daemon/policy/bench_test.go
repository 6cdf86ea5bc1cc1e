package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// large is a cluster of 1,000 namespaces with 10 policies and 100 pods each, of which 250
// pods are here.
func large() (source.State, []Local) {
	s := source.State{Complete: true, PoliciesComplete: true}
	sel := func(kv ...string) labels.Selector {
		set := labels.Set{}
		for i := 0; i < len(kv); i += 2 {
			set[kv[i]] = kv[i+1]
		}
		return set.AsSelector()
	}
	for i := range 400 {
		s.Nodes = append(s.Nodes, &source.Node{
			Name:        fmt.Sprintf("node%04d", i),
			InternalIPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})},
			PodCIDRs:    []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		})
	}
	var locals []Local
	for n := range 1000 {
		ns := fmt.Sprintf("team%04d", n)
		s.Namespaces = append(s.Namespaces, &source.Namespace{Name: ns, Labels: map[string]string{
			"kubernetes.io/metadata.name": ns, "stage": []string{"dev", "test", "prod"}[n%3],
		}})
		for i := range 10 {
			app := fmt.Sprintf("app%d", i)
			s.Policies = append(s.Policies, &source.NetworkPolicy{
				Namespace: ns, Name: app, Pods: sel("app", app),
				Ingress: &source.PolicyRules{Rules: []source.PolicyRule{
					{
						Peers: []source.PolicyPeer{{Pods: sel("app", fmt.Sprintf("app%d", (i+1)%10))}, {Pods: sel("app", fmt.Sprintf("app%d", (i+2)%10))}},
						Ports: []source.PolicyPort{{Protocol: source.TCP, First: 8080, Last: 8080}, {Protocol: source.TCP, First: 9090, Last: 9090}},
					},
					{Peers: []source.PolicyPeer{{Namespaces: sel("kubernetes.io/metadata.name", fmt.Sprintf("team%04d", (n+1)%1000)), Pods: sel("app", "app3")}}},
					{Peers: []source.PolicyPeer{{Block: &source.PolicyBlock{CIDR: netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", n%256))}}}},
				}},
				Egress: &source.PolicyRules{Rules: []source.PolicyRule{
					{
						Peers: []source.PolicyPeer{{Namespaces: sel("stage", "prod"), Pods: sel("app", "app0")}},
						Ports: []source.PolicyPort{{Protocol: source.UDP, First: 53, Last: 53}, {Protocol: source.TCP, Name: "http"}},
					},
					{Peers: []source.PolicyPeer{{Pods: sel()}}},
				}},
			})
		}
		for i := range 100 {
			at := n*100 + i
			node := at % 400
			p := &source.Pod{
				Namespace: ns, Name: fmt.Sprintf("pod%03d", i), UID: fmt.Sprint(at), Node: s.Nodes[node].Name,
				Labels: map[string]string{"app": fmt.Sprintf("app%d", i%10), "pod-template-hash": fmt.Sprint(n*10 + i%10)},
				IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, byte(node >> 8), byte(node), byte(2 + at/400)})},
				Ports:  []source.SlicePort{{Name: "http", Protocol: source.TCP, Port: 8080}},
			}
			s.Pods = append(s.Pods, p)
			if node == 0 {
				locals = append(locals, Local{
					Ref: api.Ref{ContainerID: fmt.Sprint("c", at), IfName: "eth0"}, Namespace: ns, Name: p.Name, Addrs: p.IPs,
				})
			}
		}
	}
	return s, locals
}

// count is a Sink that counts.
type count struct{ rules, classes int }

func (c *count) WantRule(bpf.RuleKey, bpf.RuleRow)     { c.rules++ }
func (c *count) UnwantRule(bpf.RuleKey)                { c.rules-- }
func (c *count) WantClass(_ netip.Prefix, k bpf.Class) { c.classes++ }
func (c *count) UnwantClass(netip.Prefix)              { c.classes-- }

func BenchmarkFirst(b *testing.B) {
	s, locals := large()
	for b.Loop() {
		c, n := New("node0000"), &count{}
		c.Update(s, locals, n)
		c.Sweep(none, n)
		b.ReportMetric(float64(n.rules), "rules")
		b.ReportMetric(float64(n.classes), "prefixes")
		b.ReportMetric(float64(len(locals)), "locals")
	}
}

// Memory is what the compiler keeps, without the objects.
func BenchmarkMemory(b *testing.B) {
	s, locals := large()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		c := New("node0000")
		c.Update(s, locals, &count{})
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		runtime.KeepAlive(c)
	}
	runtime.KeepAlive(s)
}

func BenchmarkOnePod(b *testing.B) {
	s, locals := large()
	for _, tc := range []struct {
		name string
		at   int
	}{{"elsewhere", 12345}, {"here", 400 * 100}} {
		c, n := New("node0000"), &count{}
		c.Update(s, locals, n)
		c.Sweep(none, n)
		pods := [2][]*source.Pod{slices.Clone(s.Pods), slices.Clone(s.Pods)}
		for i := range pods {
			p := *s.Pods[tc.at]
			p.Labels = map[string]string{"app": fmt.Sprint("app", 3+i)}
			pods[i][tc.at] = &p
		}
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.Pods = pods[i%2]
				c.Update(s, locals, n)
				c.Sweep(none, n)
			}
		})
	}
}

func BenchmarkOnePolicy(b *testing.B) {
	s, locals := large()
	c, n := New("node0000"), &count{}
	c.Update(s, locals, n)
	c.Sweep(none, n)
	lists := [2][]*source.NetworkPolicy{slices.Clone(s.Policies), slices.Clone(s.Policies)}
	for i, p := range s.Policies {
		if p.Namespace == locals[0].Namespace {
			q := *p
			q.Egress = nil
			q.Ingress = &source.PolicyRules{Rules: []source.PolicyRule{{Peers: []source.PolicyPeer{{Namespaces: labels.Everything(), Pods: labels.Set{"app": "app7"}.AsSelector()}}}}}
			lists[1][i] = &q
		}
	}
	for i := 0; b.Loop(); i++ {
		s.Policies = lists[i%2]
		c.Update(s, locals, n)
		c.Sweep(none, n)
	}
}
