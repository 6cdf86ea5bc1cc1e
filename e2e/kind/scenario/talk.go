package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/internal/testnet"
)

const talkPort = 8080

// talkers are a pod that answers HTTP on each node, also the control plane, and a Service.
func talkers(namespace string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: talker, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: talker}}
  template:
    metadata: {labels: {app: talker}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
      - name: talker
        image: %[2]s
        args: [netexec, --http-port=%[3]d]
        readinessProbe: {httpGet: {path: /healthz, port: %[3]d}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: talkers, namespace: %[1]s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: talker}
  ports: [{port: 80, targetPort: %[3]d}]
`, namespace, build.Tests().Agnhost, talkPort)
}

// talk asks from each node's pod each other's, the Service's addresses and its name.
func talk(ctx context.Context, c *cluster.Cluster) (err error) {
	const namespace = "talk"
	if err := apply(ctx, c, talkers(namespace)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, proc.Run(c.Kubectl(context.WithoutCancel(ctx), "delete", "namespace", namespace, "--timeout=2m")))
	}()
	if err := proc.Run(c.Kubectl(ctx, "rollout", "status", "--namespace="+namespace, "daemonset/talker", "--timeout=2m")); err != nil {
		return err
	}
	pods, err := podsOf(ctx, c, "--namespace="+namespace)
	if err != nil {
		return err
	}
	var service struct {
		Spec struct {
			ClusterIPs []string `json:"clusterIPs"`
		} `json:"spec"`
	}
	if err := get(ctx, c, &service, "service", "talkers", "--namespace="+namespace); err != nil {
		return err
	}
	families := c.Spec.Families()
	if len(pods) != len(c.Nodes) || len(service.Spec.ClusterIPs) != families {
		return fmt.Errorf("got %d pods and Service addresses %v, want %d pods and addresses of %d families",
			len(pods), service.Spec.ClusterIPs, len(c.Nodes), families)
	}
	targets := []string{"talkers." + namespace + ".svc.cluster.local:80"}
	for _, ip := range service.Spec.ClusterIPs {
		targets = append(targets, net.JoinHostPort(ip, "80"))
	}
	for _, pod := range pods {
		if len(pod.Status.PodIPs) != families {
			return fmt.Errorf("pod %s has the addresses %v, want %d", pod.Metadata.Name, pod.Status.PodIPs, families)
		}
		for _, ip := range pod.Status.PodIPs {
			targets = append(targets, net.JoinHostPort(ip.IP, strconv.Itoa(talkPort)))
		}
	}
	for _, pod := range pods {
		if err := askAll(ctx, c, namespace, pod.Metadata.Name, targets); err != nil {
			return err
		}
	}
	return nil
}

// askAll asks all targets from a pod. That a pod is ready its own node knows before the
// others do, so a target gets ten seconds to answer.
func askAll(ctx context.Context, c *cluster.Cluster, namespace, pod string, targets []string) error {
	for _, target := range targets {
		asking, stop := context.WithTimeout(ctx, 10*time.Second)
		err := testnet.Wait(asking, func() error {
			return proc.Run(c.Kubectl(asking, "exec", "--namespace="+namespace, pod, "--",
				"curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "2", "http://"+target+"/hostname"))
		})
		stop()
		if err != nil {
			return fmt.Errorf("pod %s asks %s: %w", pod, target, err)
		}
	}
	return nil
}
