package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// daemonsAway ends the daemons of some nodes for as long as one likes: the DaemonSet is told
// to keep off these nodes. back lets them return. Both give all nodes new daemons.
func daemonsAway(ctx context.Context, c *cluster.Cluster, nodes []string) (back func() error, err error) {
	affinity := func(ctx context.Context, value any) error {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"affinity": value}}}})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		return kubectl(ctx, c, "patch", "daemonset/weft", "--namespace="+system, "--type=merge", "--patch="+string(patch))
	}
	back = func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(affinity(ctx, nil), rolledOut(ctx, c, system, "daemonset/weft"))
	}
	err = affinity(ctx, map[string]any{"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
		"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{map[string]any{
			"key": "kubernetes.io/hostname", "operator": "NotIn", "values": nodes,
		}}}},
	}}})
	if err != nil {
		return back, err
	}
	for _, node := range nodes {
		err := within(ctx, time.Minute, node+"'s daemon is away", func(ctx context.Context) error {
			out, err := shell(ctx, c, node, "crictl pods --quiet --state ready --namespace "+system+" --name '^weft-'")
			if err == nil && strings.TrimSpace(out) != "" {
				err = errors.New("its pod is there")
			}
			return err
		})
		if err != nil {
			return back, err
		}
	}
	return back, nil
}

// orphaned is pods that are deleted while their node's daemon is dead.
func orphaned(ctx context.Context, c *cluster.Cluster) error {
	w, err := assemble(ctx, c, "orphaned", 110)
	if w == nil || err != nil {
		return errors.Join(err, w.scatter())
	}
	back, err := daemonsAway(ctx, c, []string{w.node})
	if err == nil {
		err = w.scatterUnnoticed(ctx)
	}
	if err = errors.Join(err, back(), w.scatter()); err != nil {
		return err
	}
	return sameAs(ctx, c, w.node, w.before, settled)
}

// scatterUnnoticed deletes the pods while there is no daemon, and looks what it will find:
// a tombstone for each. The runtime takes their sandboxes away after the API has forgotten
// them.
func (w *crowd) scatterUnnoticed(ctx context.Context) error {
	const look = "ls /var/lib/weft/tombstones | wc -l; ls /run/netns | wc -l; ls /etc/cni/net.d"
	before, err := shell(ctx, w.c, w.node, look)
	if err != nil {
		return err
	}
	var tombstones, namespaces int
	var conf string
	if _, err := fmt.Sscan(before, &tombstones, &namespaces, &conf); err != nil {
		return fmt.Errorf("read %q: %w", before, err)
	}
	if err := w.scatter(); err != nil {
		return err
	}
	return within(ctx, settled, "the runtime removes the sandboxes", func(ctx context.Context) error {
		out, err := shell(ctx, w.c, w.node, look)
		if err != nil {
			return err
		}
		if got, want := strings.Fields(out), fmt.Sprintf("[%d %d %s]", w.size, namespaces-w.size, "05-weft.conflist"); fmt.Sprint(got) != want {
			return fmt.Errorf("tombstones, namespaces and CNI configuration are %v, want %s", got, want)
		}
		return nil
	})
}

// cutOff is pods that are deleted by the runtime while there is no API server.
func cutOff(ctx context.Context, c *cluster.Cluster) (err error) {
	w, err := assemble(ctx, c, "cut-off", 110)
	if w == nil || err != nil {
		return errors.Join(err, w.scatter())
	}
	// The kubelet would make the pods again.
	if _, err := shell(ctx, c, w.node, "systemctl stop kubelet"); err != nil {
		return errors.Join(err, w.scatter())
	}
	start, err := stopAPI(ctx, c)
	if err == nil {
		err = w.removeSandboxes(ctx)
	}
	if err == nil { // also before the API is back
		err = sameAs(ctx, c, w.node, w.before, settled, "problem source-api ", "problem service service default/kubernetes:")
	}
	return errors.Join(err, start(), w.forget(), sameAs(ctx, c, w.node, w.before, settled))
}

// removeSandboxes removes the pods through the CRI.
func (w *crowd) removeSandboxes(ctx context.Context) error {
	began := time.Now()
	_, err := shell(ctx, w.c, w.node, "crictl pods --quiet --namespace '^"+w.namespace+"$' | xargs --max-procs=8 --max-args=1 crictl --timeout=1m rmp --force")
	w.c.Say("%d sandboxes are removed after %.1fs", w.size, time.Since(began).Seconds())
	return err
}

// forget tells the API that the pods are gone, before the kubelet would make them again.
func (w *crowd) forget() error {
	ctx := context.Background()
	in := "--namespace=" + w.namespace
	err := errors.Join(
		kubectl(ctx, w.c, "delete", "replicaset", "crowd", in, "--cascade=orphan"),
		kubectl(ctx, w.c, "delete", "pods", "--all", in, "--force", "--grace-period=0"),
	)
	_, started := shell(ctx, w.c, w.node, "systemctl start kubelet")
	return errors.Join(err, started, w.remove(), kubectl(ctx, w.c, "wait", "--for=condition=Ready", "node", w.node, "--timeout=2m"))
}
