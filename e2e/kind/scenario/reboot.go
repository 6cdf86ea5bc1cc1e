package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// reboot is a node full of pods that is shut down and started, and then one whose power
// fails.
func reboot(ctx context.Context, c *cluster.Cluster) error {
	return withoutLast(ctx, c, "rebooted", "reboots of another node", func(node string, _ []string) error {
		w, err := assemble(ctx, c, "reboot", 30)
		if err == nil {
			err = w.powerCycle(ctx)
		}
		return errors.Join(err, w.scatter())
	})
}

// powerCycle stops the crowd's node in two ways, and looks each time whether it is again as
// it was, with the same pods in new sandboxes.
func (w *crowd) powerCycle(ctx context.Context) error {
	if err := noneRests(ctx, w.c, w.node); err != nil {
		return err
	}
	before, err := look(ctx, w.c, w.node)
	if err != nil {
		return err
	}
	for _, way := range []string{"stop", "kill"} {
		former, err := statusOf(ctx, w.c, w.node)
		if err != nil {
			return err
		}
		stopped := proc.Run(w.c.Docker(ctx, way, w.node))
		began := time.Now()
		if err := errors.Join(stopped, proc.Run(w.c.Docker(context.WithoutCancel(ctx), "start", w.node))); err != nil {
			return err
		}
		err = within(ctx, 3*time.Minute, w.node+"'s daemon serves after docker "+way, func(ctx context.Context) error {
			s, err := statusOf(ctx, w.c, w.node)
			if err == nil && !s.Since.After(former.Since) {
				err = errors.New("it is the former one")
			}
			return errors.Join(err, s.well())
		})
		if err != nil {
			return err
		}
		served := time.Since(began)
		if err := w.returned(ctx); err != nil {
			return err
		}
		w.c.Say("after docker %s and start: the daemon serves after %.1fs, %d pods have new sandboxes after %.1fs",
			way, served.Seconds(), w.size, time.Since(began).Seconds())
		if err := asMany(ctx, w.c, w.node, before); err != nil {
			return err
		}
	}
	return nil
}

// returned waits until all pods of the node run, with addresses on which all agree.
func (w *crowd) returned(ctx context.Context) error {
	return within(ctx, 5*time.Minute, "the pods of "+w.node+" run again", func(ctx context.Context) error {
		pods, err := podsOf(ctx, w.c, "--all-namespaces", "--field-selector=spec.nodeName="+w.node)
		if err != nil {
			return err
		}
		endpoints, err := endpointsOf(ctx, w.c, w.node)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if !p.ready() {
				return fmt.Errorf("%s/%s is not ready", p.Metadata.Namespace, p.Metadata.Name)
			}
		}
		return agree(w.node, pods, endpoints)
	})
}
