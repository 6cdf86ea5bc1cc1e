package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/build"
	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// clusterStatus is what `weft status` says of a cluster.
type clusterStatus struct {
	Installed, Ready bool
	Nodes            []struct {
		Name, NoReply string
		Ready         bool
		Daemon        *status
	}
}

// wellShown waits until `weft status`, from outside, has nothing to complain of: it tells
// of all nodes, and each reaches all others.
func wellShown(ctx context.Context, c *cluster.Cluster) error {
	return within(ctx, 30*time.Second, "weft status shows a cluster that is well", func(ctx context.Context) error {
		out, err := proc.Output(c.Weft(ctx, "status", "--cluster", "--output=json"))
		if err != nil {
			return err
		}
		var s clusterStatus
		if err := json.Unmarshal(out, &s); err != nil {
			return fmt.Errorf("read what weft status says: %w", err)
		}
		var names []string
		var errs []error
		for _, n := range s.Nodes {
			names = append(names, n.Name)
			reached := 0
			if n.Daemon != nil {
				errs = append(errs, n.Daemon.well())
				for _, r := range n.Daemon.Reach {
					if r.State == "ok" {
						reached += r.Nodes
					}
				}
			}
			if !n.Ready || n.NoReply != "" || reached != len(c.Nodes)-1 {
				errs = append(errs, fmt.Errorf("%s: ready %v, no reply %q, reaches %d nodes", n.Name, n.Ready, n.NoReply, reached))
			}
		}
		slices.Sort(names)
		if !s.Installed || !s.Ready || !slices.Equal(names, c.Nodes) {
			errs = append(errs, fmt.Errorf("installed %v, ready %v, nodes %v", s.Installed, s.Ready, names))
		}
		return errors.Join(errs...)
	})
}

// shown looks at the cluster as an administrator does: `weft status` for people, and
// `kubectl debug` with a copy of a pod, which Weft's admission policy lets pass. The copy
// carries the annotation of the original's addresses and gets one of its own, which nobody
// else may change.
func shown(ctx context.Context, c *cluster.Cluster) (err error) {
	if err := wellShown(ctx, c); err != nil {
		return err
	}
	text, err := proc.Output(c.Weft(ctx, "status", "--cluster"))
	if want := fmt.Sprintf("%d of %d nodes ready", len(c.Nodes), len(c.Nodes)); err != nil || !strings.Contains(string(text), want) {
		return fmt.Errorf("weft status says not %q but %q: %w", want, text, err)
	}
	const ns = "copying"
	remove, err := namespace(ctx, c, ns)
	defer func() { err = errors.Join(err, remove()) }()
	in := "--namespace=" + ns
	for _, args := range [][]string{
		{"run", in, "original", "--image=" + build.Tests().Agnhost, "--", "pause"},
		{"wait", in, "pod/original", "--for=condition=Ready", "--timeout=1m"},
		{"debug", in, "original", "--copy-to=twin", "--container=original", "--", "/agnhost", "pause"},
		{"wait", in, "pod/twin", "--for=condition=Ready", "--timeout=1m"},
	} {
		if err == nil {
			err = kubectl(ctx, c, args...)
		}
	}
	if err != nil {
		return err
	}
	err = within(ctx, 10*time.Second, "each has its own addresses in its annotation", func(ctx context.Context) error {
		pods, err := podsOf(ctx, c, in)
		var errs []error
		for _, p := range pods {
			got, want := p.Metadata.Annotations[announcement], p.Metadata.UID+"/"+strings.Join(p.addresses(), ",")
			if got != want {
				errs = append(errs, fmt.Errorf("pod %s: got %q, want %q", p.Metadata.Name, got, want))
			}
		}
		return errors.Join(append(errs, err)...)
	})
	if err != nil {
		return err
	}
	if err := kubectl(ctx, c, "annotate", in, "pod/twin", "--overwrite", announcement+"=x/10.0.0.1"); err == nil || !strings.Contains(err.Error(), "written by Weft alone") {
		return fmt.Errorf("somebody else writes the annotation: got %w, want a refusal", err)
	}
	return nil
}

// announcement is the annotation with a pod's addresses.
const announcement = "weft.dev/pod-ips"

// fromOutside installs Weft by its CLI, which waits until all nodes are ready. Then pods
// that had another network, or none, have ours when they start anew.
func fromOutside(ctx context.Context, c *cluster.Cluster) error {
	err := c.Install(ctx, "Weft by its CLI", func(ctx context.Context, c *cluster.Cluster) error {
		if err := proc.Run(c.Weft(ctx, "install")); err != nil {
			return err
		}
		return restartDNS(ctx, c)
	})
	if err != nil {
		return err
	}
	return errors.Join(wellShown(ctx, c), talk(ctx, c))
}
