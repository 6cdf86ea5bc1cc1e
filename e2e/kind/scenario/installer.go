package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
)

// installer plays a few rounds of what can happen to a node's CNI files, longInstaller many.
func installer(ctx context.Context, c *cluster.Cluster) error     { return damage(ctx, c, 2) }
func longInstaller(ctx context.Context, c *cluster.Cluster) error { return damage(ctx, c, 8) }

// damage has a node's CNI files vanish, or cut, and the daemon killed while it puts them
// back, while containerd watches their folder and the binary is executed in a loop. No
// execution fails but for want of the binary, nobody reads half a file of ours, and each
// time all is back in ten seconds. In the end a pod starts.
func damage(ctx context.Context, c *cluster.Cluster, rounds int) (err error) {
	n := victim{c, c.Nodes[len(c.Nodes)-1], ""}
	if n.files, err = shell(ctx, c, n.node, listFiles); err != nil {
		return err
	}
	if _, err := shell(ctx, c, n.node, "rm -rf /run/weft-saved; cp -a /opt/cni/bin /run/weft-saved; rm /run/weft-saved/weft-cni"); err != nil {
		return err
	}
	suffered := n.whileExecuting(ctx, func() error { return n.vanish(ctx, rounds) })
	if suffered == nil {
		suffered = n.cut(ctx, rounds)
	}
	// Other plugins are not ours to bring back.
	if _, err := shell(context.WithoutCancel(ctx), c, n.node, "mkdir -p /opt/cni/bin; cp -a /run/weft-saved/. /opt/cni/bin/; rm -r /run/weft-saved"); suffered != nil || err != nil {
		return errors.Join(suffered, err)
	}
	return n.podStarts(ctx)
}

// victim is the node whose files suffer.
type victim struct {
	c     *cluster.Cluster
	node  string
	files string // what listFiles says when all is well
}

// listFiles tells what the files of ours are, by their content.
const listFiles = `sha256sum /opt/cni/bin/weft-cni /etc/cni/net.d/05-weft.conflist; stat -c '%a %n' /opt/cni/bin/weft-cni /etc/cni/net.d/05-weft.conflist`

// back waits until the files are as they were, and containerd has read them.
func (n victim) back(ctx context.Context, after string) error {
	return within(ctx, 10*time.Second, "all is back after "+after, func(ctx context.Context) error {
		now, err := shell(ctx, n.c, n.node, listFiles)
		if err != nil {
			return err
		}
		if now != n.files {
			return fmt.Errorf("files: got %s, want %s", now, n.files)
		}
		_, err = shell(ctx, n.c, n.node, `crictl info | jq -e '.lastCNILoadStatus == "OK" and
			([.status.conditions[] | select(.type == "NetworkReady") | .status] == [true]) and
			([.cniconfig.Networks[].Config.Name] | contains(["weft"]))'`)
		return err
	})
}

// executing runs the plugin, and reads the configuration, as long as a file is there. It says
// how often that went well, and what went wrong how often; that a file of the two is not
// there at the moment is nothing wrong.
const executing = `
	touch /run/weft-executing
	while [ -e /run/weft-executing ]; do
		said=$(echo '{"cniVersion": "1.1.0"}' | CNI_COMMAND=VERSION CNI_PATH=/opt/cni/bin /opt/cni/bin/weft-cni 2>&1 &&
			jq -e .plugins /etc/cni/net.d/05-weft.conflist 2>&1) && echo executed && continue
		case $said in *'o such file or directory'* | *': not found'*) ;; *) echo "$said" ;; esac
	done | sort | uniq -c`

// whileExecuting calls f while the plugin is executed in a loop.
func (n victim) whileExecuting(ctx context.Context, f func() error) error {
	said := make(chan error, 1)
	go func() {
		out, err := shell(ctx, n.c, n.node, executing)
		if all := strings.Split(strings.TrimSpace(out), "\n"); err == nil && (len(all) != 1 || !strings.HasSuffix(all[0], " executed")) {
			err = fmt.Errorf("executing the plugin, reading its configuration: got %s, want nothing but successes", out)
		}
		said <- err
	}()
	err := f()
	_, stopped := shell(context.WithoutCancel(ctx), n.c, n.node, "rm -f /run/weft-executing")
	return errors.Join(err, stopped, <-said)
}

// vanish removes files, and kills the daemon while it puts them back.
func (n victim) vanish(ctx context.Context, rounds int) error {
	since, err := n.now(ctx)
	if err != nil {
		return err
	}
	faults := []string{
		"rm -rf /opt/cni/bin/*",
		"rm /etc/cni/net.d/05-weft.conflist",
		"rm -rf /opt/cni/bin/* /etc/cni/net.d/*",
	}
	for range rounds {
		for _, fault := range faults {
			if _, err := shell(ctx, n.c, n.node, fault); err != nil {
				return err
			}
			if err := n.back(ctx, fault); err != nil {
				return err
			}
		}
		// What is put back is put back in the first quarter of a second.
		worse := append(faults, "rm -rf /opt/cni/bin")
		fault := fmt.Sprintf("%s; sleep 0.%03d; pgrep -x weftd | xargs -r kill -9", worse[rand.N(len(worse))], rand.N(250))
		if _, err := shell(ctx, n.c, n.node, fault); err != nil {
			return err
		}
		// The kubelet waits longer each time before it starts a container again; a new pod's
		// it starts at once.
		if err := n.newDaemon(ctx); err != nil {
			return err
		}
		if err := n.back(ctx, fault); err != nil {
			return err
		}
	}
	return n.unread(ctx, since, "text file busy|error parsing|unmarshal|invalid character|unexpected end")
}

// cut truncates the configuration, as somebody else may who writes to the file. containerd
// may read that; once all is back, it has read ours.
func (n victim) cut(ctx context.Context, rounds int) error {
	const conf = "/etc/cni/net.d/05-weft.conflist"
	for range rounds {
		for _, fault := range []string{": > " + conf, "truncate -s 100 " + conf, "echo '{}' > " + conf, "chmod 0 " + conf} {
			if _, err := shell(ctx, n.c, n.node, fault); err != nil {
				return err
			}
			if err := n.back(ctx, fault); err != nil {
				return err
			}
		}
	}
	return nil
}

// newDaemon replaces the node's pod of Weft and waits until its daemon runs.
func (n victim) newDaemon(ctx context.Context) error {
	of := []string{"--namespace=" + system, "--selector=app.kubernetes.io/name=weft", "--field-selector=spec.nodeName=" + n.node}
	pods, err := podsOf(ctx, n.c, of...)
	if err != nil {
		return err
	}
	if err := kubectl(ctx, n.c, append([]string{"delete", "pods", "--force", "--grace-period=0", "--wait=false"}, of...)...); err != nil {
		return err
	}
	return within(ctx, time.Minute, "a new daemon runs", func(ctx context.Context) error {
		now, err := podsOf(ctx, n.c, of...)
		if err != nil {
			return err
		}
		for _, p := range now {
			if p.Metadata.Name != pods[0].Metadata.Name && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil {
				// It does not stay if the former one, which the kubelet may have started
				// once more before it knew of the deletion, has the node's lock.
				_, err := statusOf(ctx, n.c, n.node)
				return err
			}
		}
		return errors.New("it does not")
	})
}

// now is the node's time, as journalctl reads it.
func (n victim) now(ctx context.Context) (string, error) {
	out, err := shell(ctx, n.c, n.node, "date +@%s.%N")
	return strings.TrimSpace(out), err
}

// unread is nil if containerd has written nothing that matches since then.
func (n victim) unread(ctx context.Context, since, pattern string) error {
	out, err := shell(ctx, n.c, n.node, fmt.Sprintf("journalctl --unit=containerd --since=%s --output=cat | grep -i -E '%s' || true", since, pattern))
	if err == nil && out != "" {
		err = fmt.Errorf("containerd says:\n%s", out)
	}
	return err
}

// podStarts starts a pod on the node.
func (n victim) podStarts(ctx context.Context) (err error) {
	const ns = "starting"
	remove, err := namespace(ctx, n.c, ns)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	err = apply(ctx, n.c, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: starter, namespace: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: starter, image: %s, args: [pause]}
`, ns, n.node, build.Tests().Agnhost))
	if err != nil {
		return err
	}
	return kubectl(ctx, n.c, "wait", "--namespace="+ns, "pod/starter", "--for=condition=Ready", "--timeout=1m")
}
