package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/echo"
)

const nodePort = 31700

// echoes are a pod of the test program on each node, and a Service of them.
func echoes(namespace string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      tolerations: [{operator: Exists}]
      containers:
      - name: echo
        image: %[2]s
        securityContext: {capabilities: {add: [NET_ADMIN]}} # for its buffers
        readinessProbe: {tcpSocket: {port: %[3]d}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: %[1]s}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  ports:
  - {name: tcp, protocol: TCP, port: %[3]d, nodePort: %[4]d}
  - {name: udp, protocol: UDP, port: %[3]d, nodePort: %[4]d}
`, namespace, echo.Image, echo.Port, nodePort)
}

// load is traffic that nothing may disturb: from a pod of each node to those of the others
// and to a Service, and from outside to its node port on each node, in each family.
type load struct {
	c         *cluster.Cluster
	namespace string
	pods      []pod
	senders   []*sender
	remove    func() error
}

// deploy makes the pods of a load, which must be stopped, also after an error.
func deploy(ctx context.Context, c *cluster.Cluster, name string) (l *load, err error) {
	l = &load{c: c, namespace: name}
	if l.remove, err = namespace(ctx, c, name); err != nil {
		return l, err
	}
	if err := apply(ctx, c, echoes(name)); err != nil {
		return l, err
	}
	if err := rolledOut(ctx, c, name, "daemonset/echo"); err != nil {
		return l, err
	}
	l.pods, err = podsOf(ctx, c, "--namespace="+name)
	return l, err
}

// startLoad makes the pods and begins. Its load must be stopped, also after an error.
func startLoad(ctx context.Context, c *cluster.Cluster, name string) (*load, error) {
	l, err := deploy(ctx, c, name)
	if err != nil {
		return l, err
	}
	service, err := serviceTargets(ctx, c, name)
	if err != nil {
		return l, err
	}
	if err := l.among(ctx, l.pods, service); err != nil {
		return l, err
	}
	outside, err := nodePortTargets(ctx, c)
	if err != nil {
		return l, err
	}
	self, err := os.Executable()
	if err != nil {
		return l, fmt.Errorf("find this program: %w", err)
	}
	s, err := send("outside", c.Command(ctx, self, echo.Send), outside)
	if err == nil {
		l.senders = append(l.senders, s)
	}
	return l, err
}

// among begins to send from each of some pods to the others, and to more.
func (l *load) among(ctx context.Context, pods []pod, more []echo.Target) error {
	for _, from := range pods {
		targets := slices.Clone(more)
		for _, to := range pods {
			if to.Metadata.UID != from.Metadata.UID {
				targets = append(targets, targetsAt("pod on "+to.Spec.NodeName, echo.Port, to.addresses())...)
			}
		}
		s, err := send(from.Spec.NodeName, l.inside(ctx, from), targets)
		if err != nil {
			return err
		}
		l.senders = append(l.senders, s)
	}
	return nil
}

func targetsAt(name string, port int, ips []string) []echo.Target {
	var out []echo.Target
	for _, ip := range ips {
		out = append(out, echo.Target{Name: name, Addr: net.JoinHostPort(ip, strconv.Itoa(port))})
	}
	return out
}

// serviceTargets are a Service's addresses, once it is served on all nodes.
func serviceTargets(ctx context.Context, c *cluster.Cluster, namespace string) ([]echo.Target, error) {
	var service struct {
		Spec struct {
			ClusterIPs []string `json:"clusterIPs"`
		} `json:"spec"`
	}
	if err := get(ctx, c, &service, "service", "echo", "--namespace="+namespace); err != nil {
		return nil, err
	}
	for _, node := range c.Nodes {
		err := within(ctx, 30*time.Second, node+" knows all backends", func(ctx context.Context) error {
			var list []struct {
				Fronts []struct {
					Ready int `json:"ready"`
				} `json:"fronts"`
			}
			if err := weft(ctx, c, node, &list, "services", namespace+"/echo"); err != nil {
				return err
			}
			for _, s := range list {
				for _, f := range s.Fronts {
					if f.Ready != len(c.Nodes) {
						return fmt.Errorf("%d are ready, want %d", f.Ready, len(c.Nodes))
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return targetsAt("Service", echo.Port, service.Spec.ClusterIPs), nil
}

// nodePortTargets are the node port on all nodes.
func nodePortTargets(ctx context.Context, c *cluster.Cluster) ([]echo.Target, error) {
	var nodes struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Status struct {
				Addresses []struct {
					Type    string `json:"type"`
					Address string `json:"address"`
				} `json:"addresses"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := get(ctx, c, &nodes, "nodes"); err != nil {
		return nil, err
	}
	var targets []echo.Target
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == "InternalIP" {
				targets = append(targets, targetsAt("node port on "+n.Metadata.Name, nodePort, []string{a.Address})...)
			}
		}
	}
	return targets, nil
}

// inside is a client in a pod of the load. It needs no API server.
func (l *load) inside(ctx context.Context, p pod) *exec.Cmd {
	script := fmt.Sprintf("exec crictl exec --interactive $(crictl ps --quiet --state running --label io.kubernetes.pod.uid=%s) /echo %s", p.Metadata.UID, echo.Send)
	return l.c.Exec(ctx, p.Spec.NodeName, "sh", "-ec", script)
}

// reach sends something from each pod of the load to other echoes.
func (l *load) reach(ctx context.Context, targets []echo.Target) error {
	var errs []error
	for _, p := range l.pods {
		s, err := send(p.Spec.NodeName, l.inside(ctx, p), targets)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		time.Sleep(500 * time.Millisecond) // for a few datagrams
		results, err := s.stop()
		var sum total
		errs = append(errs, err, sum.add(s.name, results))
	}
	return errors.Join(errs...)
}

// stop ends the load. It is an error if anything was lost or disturbed.
func (l *load) stop(what string) error {
	var errs []error
	var sum total
	for _, s := range l.senders {
		results, err := s.stop()
		errs = append(errs, err, sum.add(s.name, results))
	}
	if len(l.senders) > 0 {
		l.c.Say("%s: %s", what, sum)
	}
	if l.remove != nil {
		errs = append(errs, l.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("load during %s: %w", what, err)
	}
	return nil
}

// during plays f under load.
func during(ctx context.Context, c *cluster.Cluster, namespace, what string, f func(*load) error) (err error) {
	l, err := startLoad(ctx, c, namespace)
	if err == nil {
		err = f(l)
	}
	return errors.Join(err, l.stop(what))
}
