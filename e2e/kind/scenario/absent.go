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

// withoutLast plays f, in which the last node is away for a while, with a pod on each node.
// What the pods of the other nodes send each other must not suffer. Afterwards all pods reach
// each other and their Service again.
func withoutLast(ctx context.Context, c *cluster.Cluster, namespace, what string, f func(node string, others []string) error) error {
	node, others := c.Nodes[len(c.Nodes)-1], c.Nodes[:len(c.Nodes)-1]
	l, err := deploy(ctx, c, namespace)
	if err == nil {
		err = l.among(ctx, slices.DeleteFunc(slices.Clone(l.pods), func(p pod) bool { return p.Spec.NodeName == node }), nil)
	}
	if err == nil {
		err = f(node, others)
	}
	if err == nil {
		err = l.reachAll(ctx)
	}
	return errors.Join(err, l.stop(what))
}

// reachAll waits until the API and the daemons agree on all pods, and lets the load's pods,
// as they are now, reach each other and the Service.
func (l *load) reachAll(ctx context.Context) error {
	if err := rolledOut(ctx, l.c, l.namespace, "daemonset/echo"); err != nil {
		return err
	}
	if err := apiAgrees(ctx, l.c); err != nil {
		return err
	}
	if err := allWell(ctx, l.c, 2*time.Minute); err != nil {
		return err
	}
	targets, err := serviceTargets(ctx, l.c, l.namespace)
	if err != nil {
		return err
	}
	if l.pods, err = podsOf(ctx, l.c, "--namespace="+l.namespace); err != nil {
		return err
	}
	for _, p := range l.pods {
		targets = append(targets, targetsAt("pod on "+p.Spec.NodeName, echo.Port, p.addresses())...)
	}
	return l.reach(ctx, targets)
}

// tally is how many traces there are of each kind: of devices, of files in each folder, of
// rows in each map. It is the same for other pods, if they are as many.
func (t traces) tally() traces {
	count := map[string]int{}
	for _, line := range t {
		words := strings.Fields(line)
		kind := words[0]
		switch kind {
		case "pool": // with how many addresses are leased
			kind = line
		case "row", "problem":
			kind += " " + words[1]
		case "table": // how many rows it has, not how often it was repaired
			kind = strings.Join(words[:4], " ")
		case "file":
			kind += " " + words[1][:strings.LastIndex(words[1], "/")]
		}
		count[kind]++
	}
	var out traces
	for kind, n := range count {
		out = append(out, fmt.Sprintf("%d of %s", n, kind))
	}
	slices.Sort(out)
	return out
}

// asMany waits until a node has as much of everything as before.
func asMany(ctx context.Context, c *cluster.Cluster, node string, before traces) error {
	return within(ctx, settled, node+" has as much of everything as before", func(ctx context.Context) error {
		now, err := look(ctx, c, node)
		if err != nil {
			return err
		}
		return now.tally().since(before.tally())
	})
}
