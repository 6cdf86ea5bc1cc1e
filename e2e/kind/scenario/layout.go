package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// install changes Weft's settings, NAME=VALUE, as a user does who has the CLI and kubectl,
// and waits until all daemons go by them. There need be no daemon.
func install(ctx context.Context, c *cluster.Cluster, settings ...string) error {
	args := []string{"install", "--dry-run"}
	image, err := proc.Output(c.Kubectl(ctx, "get", "--namespace="+system, "daemonset/weft", "--output=jsonpath={.spec.template.spec.containers[0].image}"))
	if err != nil {
		return fmt.Errorf("find Weft's image: %w", err)
	}
	for _, s := range append([]string{"image=" + string(image)}, settings...) {
		args = append(args, "--set="+s)
	}
	manifest, err := proc.Output(c.Weft(ctx, args...))
	if err != nil {
		return fmt.Errorf("make the manifest: %w", err)
	}
	if err := apply(ctx, c, string(manifest)); err != nil {
		return err
	}
	return rolledOut(ctx, c, system, "daemonset/weft")
}

// layouts are the maps' layouts that are in force, one for each node.
func layouts(ctx context.Context, c *cluster.Cluster) ([]string, error) {
	var out []string
	for _, node := range c.Nodes {
		s, err := statusOf(ctx, c, node)
		if err != nil {
			return nil, err
		}
		pins, err := shell(ctx, c, node, "ls /sys/fs/bpf/weft")
		if err != nil {
			return nil, err
		}
		for _, name := range strings.Fields(pins) {
			if layoutFolder.MatchString(name) && name != s.Layout {
				return nil, fmt.Errorf("%s: the layout %s is in force, and %s is still there", node, s.Layout, name)
			}
		}
		out = append(out, s.Layout)
	}
	return out, nil
}

// relayout updates the daemons to another layout of the maps, and back.
func relayout(ctx context.Context, c *cluster.Cluster) error {
	return during(ctx, c, "relayout", "update and rollback of the maps' layout", func(*load) error {
		former, err := layouts(ctx, c)
		if err != nil {
			return err
		}
		updated := install(ctx, c, "maxPods=512")
		var now []string
		if updated == nil {
			if now, updated = layouts(ctx, c); updated == nil {
				for i := range now {
					if now[i] == former[i] {
						updated = errors.Join(updated, fmt.Errorf("%s has still the layout %s", c.Nodes[i], now[i]))
					}
				}
			}
		}
		back := install(ctx, c)
		if back == nil {
			if now, back = layouts(ctx, c); back == nil && strings.Join(now, " ") != strings.Join(former, " ") {
				back = fmt.Errorf("layouts after the rollback are %v, want %v", now, former)
			}
		}
		return errors.Join(updated, back, allWell(ctx, c, time.Minute))
	})
}
