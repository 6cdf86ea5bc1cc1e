package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// prompt is how soon the other nodes must follow a change of a Node.
const prompt = 5 * time.Second

// rejoin is a node that leaves the cluster, and comes back with other pod prefixes.
func rejoin(ctx context.Context, c *cluster.Cluster) error {
	return withoutLast(ctx, c, "rejoined", "a node leaves and rejoins", func(node string, others []string) error {
		var before []traces
		for _, other := range others {
			t, err := look(ctx, c, other)
			if err != nil {
				return err
			}
			before = append(before, t)
		}
		former, err := leaveCluster(ctx, c, node, others)
		_, started := shell(context.WithoutCancel(ctx), c, node, "systemctl start kubelet")
		if err := errors.Join(err, started); err != nil {
			return err
		}
		if err := comeBack(ctx, c, node, others, former); err != nil {
			return err
		}
		for i, other := range others {
			if err := asMany(ctx, c, other, before[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// leaveCluster takes a node out of the cluster as one does who will not see it again.
func leaveCluster(ctx context.Context, c *cluster.Cluster, node string, others []string) (former []netip.Prefix, err error) {
	if former, err = prefixesOf(ctx, c, node); err != nil {
		return nil, err
	}
	if _, err := shell(ctx, c, node, "systemctl stop kubelet"); err != nil {
		return nil, err
	}
	if err := kubectl(ctx, c, "delete", "node", node); err != nil {
		return nil, err
	}
	if err := followed(ctx, c, others, "has left", node, former, false); err != nil {
		return nil, err
	}
	return former, kubectl(ctx, c, "delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+node, "--force", "--grace-period=0")
}

// comeBack waits until the node, whose kubelet has just started, is in the cluster again with
// other prefixes, that all know, and that its pods have.
func comeBack(ctx context.Context, c *cluster.Cluster, node string, others []string, former []netip.Prefix) error {
	for _, condition := range []string{"create", "jsonpath={.spec.podCIDRs}"} {
		if err := kubectl(ctx, c, "wait", "--for="+condition, "node", node, "--timeout=1m"); err != nil {
			return err
		}
	}
	now, err := prefixesOf(ctx, c, node)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(now, func(p netip.Prefix) bool { return slices.Contains(former, p) }) {
		return fmt.Errorf("%s has rejoined with the prefixes %v, and had %v: nothing was tried", node, now, former)
	}
	if err := followed(ctx, c, others, "has rejoined", node, now, true); err != nil {
		return err
	}
	err = within(ctx, 3*time.Minute, node+"'s own daemon goes by the new prefixes", func(ctx context.Context) error {
		s, err := statusOf(ctx, c, node)
		if err != nil {
			return err
		}
		var pools []string
		for _, p := range s.Pools {
			pools = append(pools, p.Prefix)
		}
		if got, want := fmt.Sprint(pools), fmt.Sprint(now); got != want {
			return fmt.Errorf("its pools are %s, want %s", got, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return kubectl(ctx, c, "wait", "--for=condition=Ready", "node", node, "--timeout=2m")
}

// prefixesOf is a Node's pod prefixes.
func prefixesOf(ctx context.Context, c *cluster.Cluster, node string) ([]netip.Prefix, error) {
	var n struct {
		Spec struct {
			PodCIDRs []netip.Prefix `json:"podCIDRs"`
		} `json:"spec"`
	}
	return n.Spec.PodCIDRs, get(ctx, c, &n, "node", node)
}

// followed waits until the others have routes to a node's prefixes, or none, and says how
// long that took from now.
func followed(ctx context.Context, c *cluster.Cluster, others []string, what, node string, prefixes []netip.Prefix, want bool) error {
	began := time.Now()
	limit, stop := context.WithTimeout(ctx, prompt)
	defer stop()
	test := "while"
	if want {
		test = "until"
	}
	results, asked := make(chan error), 0
	for _, other := range others {
		for _, p := range prefixes {
			family := "-4"
			if p.Addr().Is6() {
				family = "-6"
			}
			asked++
			go func() {
				_, err := shell(limit, c, other, fmt.Sprintf("%s ip %s -o route show table all proto 87 | grep -qF '%s via '; do sleep 0.05; done", test, family, p))
				results <- err
			}()
		}
	}
	var errs []error
	for range asked {
		errs = append(errs, <-results)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s %s: the others have not followed within %s: %w", node, what, prompt, err)
	}
	c.Say("%s %s: %s have followed after %s", node, what, strings.Join(others, " and "), time.Since(began).Round(time.Millisecond))
	return nil
}
