package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/load"
	"github.com/weftnet/weft/e2e/rival"
)

// sizes are the numbers of Services, each Service of one endpoint.
var sizes = []int{10, 1000, 30000}

// mostServices is how many each peer gets at most: the time to load them grows with the
// square, and 30,000 take minutes.
var mostServices = map[rival.ProxyMode]int{rival.IPTables: 10000, rival.NFTables: 10000}

// usualSize is where the metrics without a size in their names are measured.
const usualSize = 1000

// serviceShape is one metric of traffic to a Service.
type serviceShape struct {
	name  string
	size  int
	kind  load.Kind
	weft  func(*serviceLabs) load.Path
	limit func(*serviceLabs) load.Path
	peer  func(*rival.KubeProxy, int) load.Path // to the last of so many Services, or another
}

func serviceShapes() (all []serviceShape) {
	direct := func(l *serviceLabs) load.Path { return l.direct }
	samePeer := func(k *rival.KubeProxy, n int) load.Path { return through(k.Same4, n-1) }
	for _, n := range sizes {
		socket := func(l *serviceLabs) load.Path { return l.joined(through(l.direct, n-1)) }
		packet := func(l *serviceLabs) load.Path { return through(l.direct, n-2) }
		all = append(all,
			serviceShape{fmt.Sprintf("service_crr_%d", n), n, load.CRR, socket, direct, samePeer},
			serviceShape{fmt.Sprintf("service_crr_packet_%d", n), n, load.CRR, packet, direct, samePeer})
		if n != usualSize {
			continue
		}
		all = append(all, serviceShape{"service_rr", n, load.RR, socket, direct, samePeer},
			serviceShape{"service_crr_cross_node", n, load.CRR,
				func(l *serviceLabs) load.Path { return l.joined(through(l.cross, outer)) },
				func(l *serviceLabs) load.Path { return l.limits.Cross4 },
				func(k *rival.KubeProxy, _ int) load.Path { return through(k.Cross4, outer) }},
			outerShape("nodeport_pps", load.UDP, 1), outerShape("nodeport_crr", load.CRR, 0))
	}
	return all
}

// outerShape goes from outside to a node port of the first node, whose backend is on the
// second.
func outerShape(name string, kind load.Kind, which int) serviceShape {
	to := func(p load.Path, node netip.Addr) load.Path {
		p = through(p, outer+which)
		p.Service = netip.AddrPortFrom(node, uint16(nodePort+which))
		return p
	}
	return serviceShape{name, usualSize, kind,
		func(l *serviceLabs) load.Path { return to(l.outside, mustHost(1)) },
		func(l *serviceLabs) load.Path { return l.limits.Outside4 },
		func(k *rival.KubeProxy, _ int) load.Path { return to(k.Outside4, k.Node) }}
}

func mustHost(number int) netip.Addr {
	a, _ := cluster.HostAddrs(number)
	return a
}

// through makes a path to a backend one to the i-th Service, which has that backend.
func through(p load.Path, i int) load.Path {
	p.Port, p.Service = backendPort(i), netip.AddrPortFrom(clusterIP(i), 80)
	return p
}

// serviceLabs is all parties. Weft's paths are to the pods themselves.
type serviceLabs struct {
	c                      *cluster.Cluster
	direct, cross, outside load.Path
	limits                 *rival.Lab
	peers                  map[rival.ProxyMode]*rival.KubeProxy
	loaded                 map[rival.ProxyMode]int
	undo                   []func() error
}

// joined makes the client a process of the first node, whose sockets are translated.
func (l *serviceLabs) joined(p load.Path) load.Path {
	p.Join = l.c.Nodes[0].Join
	return p
}

func (l *serviceLabs) close() error {
	var errs []error
	for _, f := range slices.Backward(l.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func newServiceLabs(ctx context.Context, o options) (l *serviceLabs, err error) {
	l = &serviceLabs{peers: map[rival.ProxyMode]*rival.KubeProxy{}, loaded: map[rival.ProxyMode]int{}}
	if l.c, err = cluster.New(cluster.Spec{Nodes: 2, Bin: o.bin}); err != nil {
		return l, err
	}
	l.undo = append(l.undo, l.c.Close)
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := l.c.Start(ready); err != nil {
		return l, err
	}
	var pods [3]*cluster.Pod
	for i, n := range []*cluster.Node{l.c.Nodes[0], l.c.Nodes[0], l.c.Nodes[1]} {
		if pods[i], err = n.AddPod(ready, fmt.Sprint("bench-", i)); err != nil {
			return l, err
		}
	}
	l.direct = load.Path{From: pods[0].NS, To: pods[1].NS, Addr: pods[1].IP4}
	l.cross = load.Path{From: pods[0].NS, To: pods[2].NS, Addr: pods[2].IP4}
	l.outside = load.Path{From: l.c.Outside, To: pods[2].NS, Addr: pods[2].IP4}
	if l.limits, err = rival.Limits(); err != nil {
		return l, err
	}
	l.undo = append(l.undo, l.limits.Close)
	for _, mode := range []rival.ProxyMode{rival.NFTables, rival.IPTables} {
		if l.peers[mode], err = rival.NewKubeProxy(mode); err != nil {
			return l, err
		}
		l.undo = append(l.undo, l.peers[mode].Close)
	}
	return l, nil
}

// resize gives all parties n Services, or a peer as many as it gets.
func (l *serviceLabs) resize(ctx context.Context, n int) error {
	services := manyServices(n, l.direct.Addr, l.cross.Addr)
	if err := writeServices(l.c, services, 0); err != nil {
		return err
	}
	if err := programmed(ctx, l.c.Nodes, n, services[n-1].Name); err != nil {
		return fmt.Errorf("wait for %d Services: %w", n, err)
	}
	for mode, k := range l.peers {
		count := min(n, mostServices[mode])
		if l.loaded[mode] == count {
			continue
		}
		if err := k.Load(manyServices(count, k.Same4.Addr, k.Cross4.Addr)); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		l.loaded[mode] = count
	}
	return nil
}

// serviceTraffic measures service_crr* and others: a line for each peer, all of one run.
func serviceTraffic(ctx context.Context, o options, r *report) (err error) {
	shapes := slices.DeleteFunc(serviceShapes(), func(s serviceShape) bool { return !o.run.MatchString(s.name) })
	if len(shapes) == 0 {
		return nil
	}
	l, err := newServiceLabs(ctx, o)
	defer func() { err = errors.Join(err, l.close()) }()
	if err != nil {
		return err
	}
	size := 0
	for _, s := range shapes {
		if s.size != size {
			size = s.size
			if err := l.resize(ctx, size); err != nil {
				return err
			}
		}
		if err := l.measure(ctx, o, r, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (l *serviceLabs) measure(ctx context.Context, o options, r *report, s serviceShape) error {
	paths := []load.Path{s.weft(l), s.limit(l)}
	names := []string{"weft", "limit"}
	for _, mode := range []rival.ProxyMode{rival.NFTables, rival.IPTables} {
		name := string(mode)
		if n := min(s.size, mostServices[mode]); n < s.size {
			name += fmt.Sprintf(", %d Services", n)
		}
		names = append(names, name)
		paths = append(paths, s.peer(l.peers[mode], min(s.size, mostServices[mode])))
	}
	if s.name == "service_crr_cross_node" {
		names, paths = append(names, "weft, the pod directly"), append(paths, l.cross)
	}
	values, err := turns(ctx, o, s.kind, names, paths)
	if err != nil {
		return err
	}
	for j := 2; j < len(paths); j++ {
		if err := r.add(s.name, "1/s", names[j], [parties][]float64{weft: values[0], limit: values[1], peer: values[j]}); err != nil {
			return err
		}
	}
	return nil
}
