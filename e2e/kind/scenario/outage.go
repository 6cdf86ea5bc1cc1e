package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/echo"
)

// apiManifest is what the control plane's kubelet runs the API server from.
const apiManifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"

// stopAPI ends the API server. start brings it back, and waits until it answers.
func stopAPI(ctx context.Context, c *cluster.Cluster) (start func() error, err error) {
	node := c.Nodes[0]
	start = func() error {
		ctx := context.WithoutCancel(ctx)
		if _, err := shell(ctx, c, node, "[ ! -e /kube-apiserver.yaml ] || mv /kube-apiserver.yaml "+apiManifest); err != nil {
			return err
		}
		return within(ctx, 3*time.Minute, "the API server answers", func(ctx context.Context) error {
			return kubectl(ctx, c, "get", "--raw=/readyz", "--request-timeout=5s")
		})
	}
	if _, err := shell(ctx, c, node, "mv "+apiManifest+" /kube-apiserver.yaml"); err != nil {
		return start, err
	}
	return start, within(ctx, 2*time.Minute, "the API server ends", func(ctx context.Context) error {
		out, err := shell(ctx, c, node, "crictl ps --quiet --state running --name kube-apiserver")
		if err == nil && strings.TrimSpace(out) != "" {
			err = errors.New("its container runs")
		}
		return err
	})
}

// hasProblem says whether the daemon shows a problem of a kind.
func (s status) hasProblem(what string) bool {
	for _, p := range s.Problems {
		if p.What == what {
			return true
		}
	}
	return false
}

// outage is a minute without an API server, in which daemons are killed, and pods lose
// their sandboxes and get new ones.
func outage(ctx context.Context, c *cluster.Cluster) error {
	return during(ctx, c, "outage", "a minute without an API server", func(l *load) error {
		remove, err := namespace(ctx, c, "replaced")
		if err != nil {
			return err
		}
		err = withoutAPI(ctx, c, l)
		return errors.Join(err, remove())
	})
}

func withoutAPI(ctx context.Context, c *cluster.Cluster, l *load) error {
	if err := apply(ctx, c, strings.NewReplacer("type: NodePort", "type: ClusterIP", fmt.Sprintf(", nodePort: %d", nodePort), "").Replace(echoes("replaced"))); err != nil {
		return err
	}
	if err := rolledOut(ctx, c, "replaced", "daemonset/echo"); err != nil {
		return err
	}
	start, err := stopAPI(ctx, c)
	ended := time.Now()
	if err == nil {
		err = whileAway(ctx, c, l)
	}
	if rest := time.Until(ended.Add(time.Minute)); err == nil && rest > 0 {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	if err := errors.Join(err, start()); err != nil {
		return err
	}
	c.Say("without an API server for %s", time.Since(ended).Round(time.Second))
	if err := allWell(ctx, c, time.Minute); err != nil {
		return err
	}
	return errors.Join(apiAgrees(ctx, c), controlled(ctx, c))
}

// controlled waits until Kubernetes' controllers work. Without an API server they end, and the
// kubelet waits up to five minutes before it starts them again; so long no pod is replaced.
func controlled(ctx context.Context, c *cluster.Cluster) error {
	const name = "controlled"
	remove, err := namespace(ctx, c, name)
	if err != nil {
		return err
	}
	err = within(ctx, 6*time.Minute, "the controllers work again", func(ctx context.Context) error {
		return kubectl(ctx, c, "get", "serviceaccount", "default", "--namespace="+name)
	})
	return errors.Join(err, remove())
}

// whileAway kills each daemon and each pod of the namespace while there is no API.
func whileAway(ctx context.Context, c *cluster.Cluster, l *load) error {
	for _, node := range c.Nodes {
		before, err := statusOf(ctx, c, node)
		if err != nil {
			return err
		}
		if _, err := shell(ctx, c, node, "kill -9 $(pidof weftd)"); err != nil {
			return err
		}
		err = within(ctx, 2*time.Minute, node+"'s daemon serves again, without an API", func(ctx context.Context) error {
			s, err := statusOf(ctx, c, node)
			if err == nil && (!s.Since.After(before.Since) || !s.Ready || s.Synced || !s.hasProblem("source-api")) {
				err = fmt.Errorf("it began at %s, ready %v, synced %v, problems %v", s.Since, s.Ready, s.Synced, s.Problems)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var addrs []string
	for _, node := range c.Nodes {
		addr, err := replaceSandbox(ctx, c, node)
		if err == nil {
			err = listens(ctx, c, node, addr)
		}
		if err != nil {
			return err
		}
		addrs = append(addrs, addr...)
	}
	return l.reach(ctx, targetsAt("replaced pod", echo.Port, addrs))
}

// listens waits until the echo of a pod of this node does at all of its addresses.
func listens(ctx context.Context, c *cluster.Cluster, node string, addrs []string) error {
	return within(ctx, time.Minute, node+"'s pod listens again, without an API", func(ctx context.Context) error {
		for _, a := range addrs {
			if _, err := shell(ctx, c, node, fmt.Sprintf("timeout 1 bash -c '</dev/tcp/%s/%d'", a, echo.Port)); err != nil {
				return err
			}
		}
		return nil
	})
}

// replaceSandbox takes the sandbox of a node's pod away, as after a crash of it, and waits
// until the kubelet has made another; addrs are the pod's new addresses.
func replaceSandbox(ctx context.Context, c *cluster.Cluster, node string) (addrs []string, err error) {
	const find = "crictl pods --quiet --state ready --namespace replaced"
	old, err := shell(ctx, c, node, find)
	if err != nil {
		return nil, err
	}
	old = strings.TrimSpace(old)
	began := time.Now()
	if _, err := shell(ctx, c, node, "crictl --timeout=1m rmp --force "+old); err != nil { // DEL
		return nil, err
	}
	if took := time.Since(began); took > 15*time.Second {
		return nil, fmt.Errorf("on %s: a pod was removed after %s, want less", node, took)
	}
	err = within(ctx, time.Minute, node+"'s pod has a network again, without an API", func(ctx context.Context) error {
		endpoints, err := endpointsOf(ctx, c, node)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(endpoints, func(e endpoint) bool { return e.PodNamespace == "replaced" && e.ContainerID != old })
		if i < 0 {
			return errors.New("it has none")
		}
		if slices.ContainsFunc(endpoints, func(e endpoint) bool { return e.ContainerID == old }) {
			return errors.New("the former sandbox has an endpoint")
		}
		addrs = endpoints[i].IPs
		return nil
	})
	return addrs, err
}

// apiAgrees waits until the API says of each pod the addresses that it has.
func apiAgrees(ctx context.Context, c *cluster.Cluster) error {
	return within(ctx, time.Minute, "the API says all pods' addresses", func(ctx context.Context) error {
		pods, err := podsOf(ctx, c, "--all-namespaces")
		if err != nil {
			return err
		}
		for _, node := range c.Nodes {
			endpoints, err := endpointsOf(ctx, c, node)
			if err != nil {
				return err
			}
			if err := agree(node, pods, endpoints); err != nil {
				return err
			}
		}
		return nil
	})
}

// agree is nil if the API and a node's daemon say the same of the node's pods.
func agree(node string, pods []pod, endpoints []endpoint) error {
	daemons := map[string]string{}
	for _, e := range endpoints {
		daemons[e.PodNamespace+"/"+e.PodName] = strings.Join(e.IPs, " ")
	}
	for _, p := range pods {
		if p.Spec.NodeName != node || p.Spec.HostNetwork || p.Metadata.DeletionTimestamp != nil {
			continue
		}
		name := p.Metadata.Namespace + "/" + p.Metadata.Name
		status := strings.Join(p.addresses(), " ")
		announced, _ := strings.CutPrefix(p.Metadata.Annotations["weft.dev/pod-ips"], p.Metadata.UID+"/")
		announced = strings.ReplaceAll(announced, ",", " ")
		if status == "" || daemons[name] != status || announced != status {
			return fmt.Errorf("%s has the addresses %q by its status, %q by its annotation, and %q by its node's daemon", name, status, announced, daemons[name])
		}
		delete(daemons, name)
	}
	if len(daemons) > 0 {
		return fmt.Errorf("%s's daemon knows pods that the API does not: %v", node, daemons)
	}
	return nil
}
