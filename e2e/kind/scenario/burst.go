package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
)

// crowd is as many pods as a kubelet takes by default, all on one node.
type crowd struct {
	c         *cluster.Cluster
	namespace string
	node      string
	size      int
	before    traces // of the node
	remove    func() error
}

// assemble starts pods on the last node at once, and waits until all run.
func assemble(ctx context.Context, c *cluster.Cluster, namespaceName string, size int) (*crowd, error) {
	w := &crowd{c: c, namespace: namespaceName, node: c.Nodes[len(c.Nodes)-1], size: size}
	err := noneRests(ctx, c, w.node)
	if err != nil {
		return nil, err
	}
	if w.before, err = look(ctx, c, w.node); err != nil {
		return nil, err
	}
	adds, err := histogramOf(ctx, c, w.node, "add")
	if err != nil {
		return nil, err
	}
	if w.remove, err = namespace(ctx, c, w.namespace); err != nil {
		return w, err
	}
	began := time.Now()
	err = apply(ctx, c, fmt.Sprintf(`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: crowd, namespace: %s}
spec:
  replicas: %d
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %s}
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      enableServiceLinks: false
      containers:
      - {name: pause, image: "%s"}
`, w.namespace, size, w.node, build.Tests().Pause))
	if err != nil {
		return w, err
	}
	err = within(ctx, 8*time.Minute, fmt.Sprintf("%d pods run on %s", size, w.node), func(ctx context.Context) error {
		pods, err := podsOf(ctx, c, "--namespace="+w.namespace)
		if err != nil {
			return err
		}
		ready := len(slices.DeleteFunc(pods, func(p pod) bool { return !p.ready() }))
		if ready != size {
			return fmt.Errorf("%d of %d do", ready, size)
		}
		return nil
	})
	if err != nil {
		return w, err
	}
	took := time.Since(began)
	now, err := histogramOf(ctx, c, w.node, "add")
	if err != nil {
		return w, err
	}
	adds = now.less(adds)
	if adds.count < size {
		return w, fmt.Errorf("the daemon counts %d ADDs for %d pods", adds.count, size)
	}
	c.Say("%d pods on one node run after %.1fs; ADD in the daemon: p50 %s, p99 %s", size, took.Seconds(), adds.quantile(0.5), adds.quantile(0.99))
	return w, w.oneAddressEach(ctx)
}

// oneAddressEach compares what the API, the daemon and the crowd's size say.
func (w *crowd) oneAddressEach(ctx context.Context) error {
	pods, err := podsOf(ctx, w.c, "--namespace="+w.namespace)
	if err != nil {
		return err
	}
	endpoints, err := endpointsOf(ctx, w.c, w.node)
	if err != nil {
		return err
	}
	owners := map[string]string{}
	for _, e := range endpoints {
		for _, ip := range e.IPs {
			if other, twice := owners[ip]; twice {
				return fmt.Errorf("%s and %s have the address %s", other, e.PodName, ip)
			}
			owners[ip] = e.PodName
		}
	}
	for _, p := range pods {
		addrs := p.addresses()
		if len(addrs) != w.c.Spec.Families() {
			return fmt.Errorf("pod %s has the addresses %v, want %d", p.Metadata.Name, addrs, w.c.Spec.Families())
		}
		for _, ip := range addrs {
			if owners[ip] != p.Metadata.Name {
				return fmt.Errorf("the API says that %s has the address %s, weft endpoints that %q has it", p.Metadata.Name, ip, owners[ip])
			}
		}
	}
	return nil
}

// scatter deletes the pods by the API and waits until they are gone there. It may be
// repeated.
func (w *crowd) scatter() error {
	if w == nil || w.remove == nil {
		return nil
	}
	began := time.Now()
	if err := w.remove(); err != nil {
		return err
	}
	w.remove = nil
	w.c.Say("%d pods are gone after %.1fs", w.size, time.Since(began).Seconds())
	return nil
}

// burst is a pod's life, many times at once.
func burst(ctx context.Context, c *cluster.Cluster) error {
	w, err := assemble(ctx, c, "burst", 110)
	if err = errors.Join(err, w.scatter()); err != nil {
		return err
	}
	return sameAs(ctx, c, w.node, w.before, settled)
}

// noneRests waits until no address of a node rests, as one does of a pod that is gone, or
// whose first sandbox failed: it would be one trace less, a little later.
func noneRests(ctx context.Context, c *cluster.Cluster, node string) error {
	return within(ctx, 2*time.Minute, "no address of "+node+" rests", func(ctx context.Context) error {
		s, err := statusOf(ctx, c, node)
		for _, p := range s.Pools {
			if p.Cooling > 0 {
				err = errors.Join(err, fmt.Errorf("%d of %s do", p.Cooling, p.Prefix))
			}
		}
		if err == nil { // their notes go a little later
			_, err = shell(ctx, c, node, "[ -z \"$(ls /var/lib/weft/released)\" ]")
		}
		return err
	})
}

// settled is how long a node may take to forget: a released address rests for 30 s, and
// every 10 s the daemon looks what is dead.
const settled = 90 * time.Second
