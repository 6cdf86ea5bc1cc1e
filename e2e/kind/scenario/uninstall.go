package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/reference"
)

// leavers are pods on all nodes that have of Weft what there is to have: addresses, limits,
// a host port, a Service with a node port.
func leavers(namespace string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: leaver, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: leaver}}
  template:
    metadata:
      labels: {app: leaver}
      annotations: {kubernetes.io/ingress-bandwidth: 50M, kubernetes.io/egress-bandwidth: 50M}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
      - name: leaver
        image: %[2]s
        args: [netexec, --http-port=8080]
        ports: [{containerPort: 8080, hostPort: 8085}]
---
apiVersion: v1
kind: Service
metadata: {name: leavers, namespace: %[1]s}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: leaver}
  ports: [{port: 80, targetPort: 8080}]
`, namespace, build.Tests().Agnhost)
}

// uninstall removes Weft under running pods. Each node and the API are as they were before
// Weft came; then another network works, with kube-proxy.
func uninstall(ctx context.Context, c *cluster.Cluster) (err error) {
	const ns = "leaving"
	before, err := remembered(c)
	if err == nil {
		err = noneGoes(ctx, c)
	}
	if err != nil {
		return err
	}
	remove, err := namespace(ctx, c, ns)
	defer func() { err = errors.Join(err, remove()) }()
	if err == nil {
		err = apply(ctx, c, leavers(ns))
	}
	if err == nil {
		err = rolledOut(ctx, c, ns, "daemonset/leaver")
	}
	if err != nil {
		return err
	}
	ours := map[string]objects{}
	for _, node := range c.Nodes {
		root, err := c.Root(ctx, node)
		if err != nil {
			return err
		}
		if ours[node], err = pinned(filepath.Join(root, "sys/fs/bpf/weft")); err != nil {
			return err
		}
		if now, err := digestOf(ctx, c, node); err != nil || now.since(before[node]) == nil || len(ours[node].maps) == 0 || len(ours[node].programs) == 0 {
			return fmt.Errorf("%s shows nothing of Weft, so that it is gone would prove nothing: %v, %w", node, ours[node], err)
		}
	}
	if err := proc.Run(c.Weft(ctx, "uninstall")); err != nil {
		return err
	}
	err = within(ctx, 10*time.Second, "all is as before the install", func(ctx context.Context) error {
		now, err := digests(ctx, c)
		if err != nil {
			return err
		}
		now["the API"] = slices.DeleteFunc(now["the API"], func(line string) bool { return strings.Contains(line, ns) })
		var errs []error
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if err := now[name].since(before[name]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
		for node, o := range ours {
			if err := o.gone(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", node, err))
			}
		}
		return errors.Join(errs...)
	})
	return errors.Join(err, another(ctx, c, ns))
}

// noneGoes waits until no namespace is being deleted: those of upstream's specs go after these,
// some with pods that take minutes to end, as the spec wants it.
func noneGoes(ctx context.Context, c *cluster.Cluster) error {
	return within(ctx, 15*time.Minute, "no namespace is being deleted", func(ctx context.Context) error {
		var list struct {
			Items []struct {
				Metadata struct {
					Name              string
					DeletionTimestamp *time.Time
				}
			}
		}
		err := get(ctx, c, &list, "namespaces")
		for _, n := range list.Items {
			if n.Metadata.DeletionTimestamp != nil {
				err = errors.Join(err, fmt.Errorf("%s is", n.Metadata.Name))
			}
		}
		return err
	})
}

// another installs the reference network and kube-proxy, lets the pods start anew that had
// Weft's, and removes both again.
func another(ctx context.Context, c *cluster.Cluster, ns string) (err error) {
	defer func() { err = errors.Join(err, removeReference(context.WithoutCancel(ctx), c)) }()
	err = c.Install(ctx, "another network in Weft's place", func(ctx context.Context, c *cluster.Cluster) error {
		if err := installKubeProxy(ctx, c); err != nil {
			return err
		}
		if err := reference.Install(ctx, c); err != nil {
			return err
		}
		return errors.Join(restartPods(ctx, c, []string{"--namespace=" + ns, "--all"}), restartDNS(ctx, c))
	})
	if err != nil {
		return err
	}
	err = talk(ctx, c)
	// Its pods end while there is a network that can detach them.
	return errors.Join(err, kubectl(ctx, c, "delete", "namespace", ns, "--timeout=1m"))
}

// kubeProxy is what kubeadm is told of it, beside what kind has told it of the cluster.
const kubeProxy = `
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
oomScoreAdj: 0
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s} # as the machine has them
`

// installKubeProxy lets kubeadm install it, as it does in a cluster that was made with it.
func installKubeProxy(ctx context.Context, c *cluster.Cluster) error {
	install := c.Exec(ctx, c.Nodes[0], "sh", "-ec", "cat /kind/kubeadm.conf - > /tmp/kube-proxy.conf; kubeadm init phase addon kube-proxy --config=/tmp/kube-proxy.conf; rm /tmp/kube-proxy.conf")
	install.Stdin = strings.NewReader(kubeProxy)
	if err := proc.Run(install); err != nil {
		return fmt.Errorf("install kube-proxy: %w", err)
	}
	return rolledOut(ctx, c, system, "daemonset/kube-proxy")
}

// dns chooses the cluster's name servers.
var dns = []string{"--namespace=" + system, "--selector=k8s-app=kube-dns"}

// restartPods lets pods that have lost their network start anew.
func restartPods(ctx context.Context, c *cluster.Cluster, of []string) error {
	return kubectl(ctx, c, append([]string{"delete", "pods", "--timeout=1m"}, of...)...)
}

// restartDNS lets the name servers start anew, all on one worker: its pods have connections to
// the API server on another node then, through a Service of whichever network there is.
func restartDNS(ctx context.Context, c *cluster.Cluster) error {
	others := c.Nodes[:len(c.Nodes)-1]
	err := kubectl(ctx, c, append([]string{"cordon"}, others...)...)
	if err == nil {
		err = restartPods(ctx, c, dns)
	}
	return errors.Join(err, kubectl(context.WithoutCancel(ctx), c, append([]string{"uncordon"}, others...)...))
}

// removeReference takes the reference network and kube-proxy away.
func removeReference(ctx context.Context, c *cluster.Cluster) error {
	err := kubectl(ctx, c, "delete", "--namespace="+system, "--ignore-not-found",
		"daemonset/kube-proxy", "configmap/kube-proxy", "serviceaccount/kube-proxy", "role/kube-proxy", "rolebinding/kube-proxy")
	err = errors.Join(err, kubectl(ctx, c, "delete", "--ignore-not-found", "clusterrolebinding/kubeadm:node-proxier"))
	err = errors.Join(err, kubectl(ctx, c, "wait", "--for=delete", "pod", "--namespace="+system, "--selector=k8s-app=kube-proxy", "--timeout=1m"))
	err = errors.Join(err, everywhere(ctx, c, "for f in ip ip6; do nft list table $f kube-proxy >/dev/null 2>&1 && nft delete table $f kube-proxy; done; true"))
	return errors.Join(err, reference.Remove(ctx, c))
}
