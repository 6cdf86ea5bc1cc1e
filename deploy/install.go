package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
)

// ErrNotReady is returned where some node was not ready in time.
var ErrNotReady = errors.New("not all nodes are ready")

// lookEvery is how often the cluster is looked at while something is waited for.
const lookEvery = time.Second

// Install is one call of `weft install`.
type Install struct {
	*Cluster
	Out     io.Writer // progress, for people
	Values  Values
	Force   bool          // take over fields that others have set
	Timeout time.Duration // for all nodes to be ready; they are looked at once, however short it is
	Every   time.Duration // between two looks; 0: a second
}

// Run applies the objects and waits until Weft runs on every node. [ErrNotReady], after
// saying why of each, if some are not ready in time. What was applied stays, whatever
// comes after; Run may be repeated, and upgrades.
func (i Install) Run(ctx context.Context) error {
	err := i.run(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w; what was applied stays: weft install goes on, weft uninstall removes it", ctx.Err())
	}
	return err
}

func (i Install) run(ctx context.Context) error {
	objects, err := Render(i.Values, i.Namespace)
	if err != nil {
		return err
	}
	if err := i.check(ctx); err != nil {
		return err
	}
	for _, o := range objects {
		if err := i.apply(ctx, o, i.Force); err != nil {
			return err
		}
		fmt.Fprintln(i.Out, "applied", o)
	}
	return i.wait(ctx)
}

// oldest is the first minor version of Kubernetes 1 with all that the objects need.
const oldest = 30

// check says what should be known before anything is changed.
func (i Install) check(ctx context.Context) error {
	v, err := get[version.Info](ctx, i.Cluster, "/version", nil)
	if err != nil {
		return fmt.Errorf("reach %s: %w", i.Server(), explain(err))
	}
	var minor int
	if _, err := fmt.Sscanf(v.Minor, "%d", &minor); err != nil {
		return fmt.Errorf("reach %s: its version %q cannot be read: is it an API server?", i.Server(), v.GitVersion)
	}
	if v.Major == "1" && minor < oldest {
		return fmt.Errorf("the cluster is Kubernetes %s; Weft needs 1.%d or later", v.GitVersion, oldest)
	}
	fmt.Fprintf(i.Out, "cluster %s, Kubernetes %s\n", i.Server(), v.GitVersion)
	if err := i.alone(ctx); err != nil {
		return err
	}
	if serves, _ := i.Values["services"].(bool); !serves {
		return nil
	}
	const proxy = "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"
	switch _, err := get[appsv1.DaemonSet](ctx, i.Cluster, proxy, nil); {
	case err == nil:
		fmt.Fprintln(i.Out, "note: kube-proxy runs, too. Weft serves Services without it: remove it when all nodes are ready (docs/install.md), or install with --set services=false")
	case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return fmt.Errorf("look for kube-proxy: %w", explain(err))
	}
	return nil
}

// wait waits for all nodes, and tells whenever something has changed.
func (i Install) wait(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, i.Timeout)
	defer cancel()
	tick := time.NewTicker(orDefault(i.Every))
	defer tick.Stop()
	told := ""
	var last view
	var lastErr error
	for now := ctx; ; now = limited { // what is wrong is to be said, so a first look is finished
		v, err := i.look(now)
		if err == nil {
			last, lastErr = v, nil
			states := v.states()
			done := rolledOut(v.daemons) && !slices.ContainsFunc(states, func(s nodeState) bool { return !s.ready })
			if text := progress(states); text != told {
				fmt.Fprintln(i.Out, text)
				told = text
			}
			if done {
				return nil
			}
		} else if lastErr = err; apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return err // waiting will not help
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if last.daemons == nil {
				return errors.Join(ErrNotReady, lastErr)
			}
			return i.complain(ctx, last)
		}
	}
}

// rolledOut says whether all pods are of the DaemonSet's present form.
func rolledOut(ds *appsv1.DaemonSet) bool {
	return ds != nil && ds.Status.ObservedGeneration >= ds.Generation &&
		ds.Status.UpdatedNumberScheduled >= ds.Status.DesiredNumberScheduled &&
		ds.Status.NumberAvailable >= ds.Status.DesiredNumberScheduled && ds.Status.DesiredNumberScheduled > 0
}

// progress is the states in one line.
func progress(states []nodeState) string {
	ready := 0
	var waiting []string
	for _, s := range states {
		if s.ready {
			ready++
		} else {
			waiting = append(waiting, s.node+" ("+s.why+")")
		}
	}
	text := fmt.Sprintf("%d of %d nodes ready", ready, len(states))
	if len(waiting) > 0 {
		text += "; waiting for " + strings.Join(few(3, waiting), ", ")
	}
	return text
}

// few is at most n texts, and the count of the rest.
func few(n int, texts []string) []string {
	if len(texts) <= n {
		return texts
	}
	return append(slices.Clone(texts[:n]), fmt.Sprintf("and %d more", len(texts)-n))
}

// complain says of each node that is not ready what is known, and returns ErrNotReady.
func (i Install) complain(ctx context.Context, v view) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askFor)
	defer cancel()
	states := slices.DeleteFunc(v.states(), func(s nodeState) bool { return s.ready })
	answers := i.ask(ctx, states)
	if len(states) == 0 {
		fmt.Fprintln(i.Out, "all nodes have a ready pod, but the DaemonSet's controller has not said so")
	}
	const show = 10
	for n, s := range states {
		if n == show {
			fmt.Fprintf(i.Out, "and %d more nodes\n", len(states)-show)
			break
		}
		fmt.Fprintf(i.Out, "node %s: %s\n", s.node, s.why)
		if s.pod != nil {
			for _, w := range i.warnings(ctx, "Pod", s.pod.Name) {
				fmt.Fprintf(i.Out, "  event: %s\n", w)
			}
		}
		for _, p := range answers[n].status.Problems {
			fmt.Fprintf(i.Out, "  weftd says: %s: %s\n", p.What, p.Text)
		}
	}
	for _, w := range i.warnings(ctx, "DaemonSet", daemonSet) {
		fmt.Fprintf(i.Out, "DaemonSet event: %s\n", w)
	}
	return fmt.Errorf("%w after %s: %d of %d are not", ErrNotReady, i.Timeout, len(states), len(v.nodes))
}

func orDefault(every time.Duration) time.Duration {
	if every <= 0 {
		return lookEvery
	}
	return every
}
