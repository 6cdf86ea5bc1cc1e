package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/internal/testnet"
)

// balanced are Weft's Services; number i has the address 172.18.0.(100+i).
var balanced = [...]struct {
	party int
	far   bool // the backend is on the second node; else on the first, which is asked
}{{bySNAT, true}, {bySNAT, false}, {byDSR, true}, {byDSR, false}}

func balancer(i int) netip.Addr { return mustHost(100 + i) }

// outsideLabs is all parties. Of each two ways, the first is to a pod of the second node, the
// second to one of the first.
type outsideLabs struct {
	ways  [outsideParties][2]load.Path
	links []rival.Device
	undo  []func() error
}

func (l *outsideLabs) close() error {
	var errs []error
	for _, f := range slices.Backward(l.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// be makes the nodes of all parties like that.
func (l *outsideLabs) be(as outsideAs) error {
	most, queue := "65535", []string{"qdisc", "replace", "dev", "", "root", "noqueue"}
	if as == asFrames {
		most = "1"
	}
	if as == asLinks {
		queue = append(queue[:5], "tbf", "rate", linkRate, "burst", "128k", "limit", "512k")
	}
	var errs []error
	for _, d := range l.links {
		queue[3] = d.Name
		_, err := d.NS.Output("tc", queue...)
		errs = append(errs, err)
	}
	for _, ways := range l.ways {
		for _, p := range ways {
			errs = append(errs, p.To.IP("link", "set", "eth0", "gso_max_segs", most))
		}
	}
	return errors.Join(errs...)
}

func newOutsideLabs(ctx context.Context, o options) (l *outsideLabs, err error) {
	l = &outsideLabs{}
	if err := l.weft(ctx, o); err != nil {
		return l, err
	}
	limits, err := rival.Limits()
	if err != nil {
		return l, err
	}
	l.undo = append(l.undo, limits.Close)
	l.links = append(l.links, limits.Links()...)
	l.ways[byLimit] = [2]load.Path{limits.Direct4, limits.Near4}
	return l, l.kubeProxy()
}

// kubeProxy is the peer: its address is there, as if MetalLB had chosen the first node.
func (l *outsideLabs) kubeProxy() error {
	k, err := rival.NewKubeProxy(rival.NFTables)
	if err != nil {
		return err
	}
	l.undo = append(l.undo, k.Close)
	l.links = append(l.links, k.Links()...)
	var services []rival.Service
	for i, p := range []load.Path{k.Outside4, k.Near4} {
		if err := k.Announce(balancer(i)); err != nil {
			return err
		}
		for _, protocol := range []string{"tcp", "udp"} {
			services = append(services, rival.Service{
				Name: fmt.Sprintf("outside-%s-%d", protocol, i), Protocol: protocol, IP: clusterIP(len(services)), Port: 80,
				Balancer: balancer(i), Endpoint: netip.AddrPortFrom(p.Addr, backendPort(i)),
			})
		}
		p.Port, p.Service = backendPort(i), netip.AddrPortFrom(balancer(i), 80)
		l.ways[byPeer][i] = p
	}
	return k.Load(services)
}

// weft is a cluster whose first node announces all addresses.
func (l *outsideLabs) weft(ctx context.Context, o options) error {
	c, err := cluster.New(cluster.Spec{Nodes: 2, Bin: o.bin})
	if err != nil {
		return err
	}
	l.undo = append(l.undo, c.Close)
	for _, n := range c.Nodes {
		l.links = append(l.links, rival.Device{NS: n.NS, Name: "eth0"}, rival.Device{NS: c.Bridge, Name: n.Name})
	}
	second := c.Nodes[1]
	node := strings.Replace(cluster.NodeYAML(second.Name, second.PodCIDRs, second.Addrs), "metadata: {name:",
		`metadata: {labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}, name:`, 1)
	if err := c.WriteObject(second.Name, node); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		return err
	}
	var pods [2]*cluster.Pod
	for i, n := range c.Nodes {
		if pods[i], err = n.AddPod(ctx, fmt.Sprint("bench-", i)); err != nil {
			return err
		}
	}
	var objects strings.Builder
	for i, b := range balanced {
		pod, way := pods[0], &l.ways[b.party][1]
		if b.far {
			pod, way = pods[1], &l.ways[b.party][0]
		}
		*way = load.Path{From: c.Outside, To: pod.NS, Addr: pod.IP4, Port: backendPort(i), Service: netip.AddrPortFrom(balancer(i), 80)}
		objects.WriteString(balancedService(i, map[bool]string{true: "dsr", false: "snat"}[b.party == byDSR], pod.IP4))
	}
	if err := c.WriteObject("outside", objects.String()); err != nil {
		return err
	}
	return testnet.Wait(ctx, func() error {
		s, err := c.Nodes[0].Client().Status(ctx)
		if err == nil && s.Announce.Own != len(balanced) {
			err = fmt.Errorf("%d addresses are announced: %v", s.Announce.Own, s.Problems)
		}
		return err
	})
}

// balancedService has the same backend for TCP and UDP.
func balancedService(i int, forwarding string, backend netip.Addr) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: outside-%[1]d, namespace: default, annotations: {weft.dev/forwarding: %[2]s}}
spec:
  type: LoadBalancer
  loadBalancerClass: weft.dev/l2
  clusterIP: %[3]s
  ports: [{name: t, port: 80, protocol: TCP}, {name: u, port: 80, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: %[4]s}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-%[1]d-1, namespace: default, labels: {kubernetes.io/service-name: outside-%[1]d}}
addressType: IPv4
ports: [{name: t, port: %[5]d, protocol: TCP}, {name: u, port: %[5]d, protocol: UDP}]
endpoints: [{addresses: [%[6]s]}]
`, i, forwarding, clusterIP(i), balancer(i), backendPort(i), backend)
}
