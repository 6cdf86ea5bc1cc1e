package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrNotClean is returned where Weft could not be removed from some node.
var ErrNotClean = errors.New("not all nodes are clean")

// Uninstall is one call of `weft uninstall`.
type Uninstall struct {
	*Cluster
	Out     io.Writer     // progress, for people
	Values  Values        // used where the DaemonSet or the ConfigMap is gone already
	Force   bool          // remove the objects although some node could not be cleaned
	Timeout time.Duration // for each of the steps that wait; each looks once, however short it is
	Every   time.Duration // between two looks; 0: a second
}

// Run removes Weft from the cluster: the DaemonSet first, or it would make everything
// anew; then what it has left on each node, by a pod that runs there once; then the
// other objects. It may be repeated. [ErrNotClean], after saying where and why, if a
// node could not be cleaned; the other objects then stay, unless with Force, so that it
// can be tried again.
func (u Uninstall) Run(ctx context.Context) error {
	err := u.run(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w: weft uninstall goes on where it was", ctx.Err())
	}
	return err
}

func (u Uninstall) run(ctx context.Context) error {
	objects, err := Render(u.Values, u.Namespace)
	if err != nil {
		return err
	}
	v, err := u.look(ctx)
	if err != nil {
		return err
	}
	if v.daemons == nil {
		if err := u.alone(ctx); err != nil {
			return err
		}
	}
	template, err := u.template(v, objects)
	if err != nil {
		return err
	}
	if err := u.settings(ctx, objects); err != nil {
		return err
	}
	release := ""
	if v.daemons != nil {
		release = v.daemons.Annotations["meta.helm.sh/release-name"]
	}
	if err := u.stop(ctx, v); err != nil {
		return err
	}
	dirty, err := u.clean(ctx, v.nodes, template)
	if err != nil {
		return err
	}
	if len(dirty) > 0 && !u.Force {
		return fmt.Errorf("%w: %s: weft uninstall tries again, --force removes the rest of Weft nevertheless", ErrNotClean, strings.Join(few(5, dirty), ", "))
	}
	slices.Reverse(objects)
	for _, o := range objects {
		if o.Kind == "DaemonSet" {
			continue // it went first
		}
		if err := u.delete(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(u.Out, "removed", o)
	}
	if release != "" {
		fmt.Fprintf(u.Out, "note: Helm installed this: helm uninstall %s -n %s makes it forget\n", release, u.Namespace)
	}
	fmt.Fprintln(u.Out, "pods that ran have lost their network: once another one is there, delete them so that they start anew")
	if len(dirty) > 0 {
		return fmt.Errorf("%w: %s", ErrNotClean, strings.Join(few(5, dirty), ", "))
	}
	return nil
}

// template is the pod of the DaemonSet, as it is or as the settings here say.
func (u Uninstall) template(v view, objects []Object) (corev1.PodSpec, error) {
	if v.daemons != nil {
		spec := v.daemons.Spec.Template.Spec
		if len(spec.InitContainers) == 0 || len(spec.Containers) == 0 {
			return spec, fmt.Errorf("DaemonSet %s/%s has another form than Weft's: is it Weft's?", u.Namespace, daemonSet)
		}
		return spec, nil
	}
	o, err := ofKind(objects, "DaemonSet")
	if err != nil {
		return corev1.PodSpec{}, err
	}
	u.missing(o)
	ds, err := parseDaemonSet(o)
	return ds.Spec.Template.Spec, err
}

// settings makes sure of the ConfigMap, without which no pod of the template starts. One that
// is there is left alone: its settings are those that Weft ran with.
func (u Uninstall) settings(ctx context.Context, objects []Object) error {
	o, err := ofKind(objects, "ConfigMap")
	if err != nil {
		return err
	}
	path, err := o.path()
	if err != nil {
		return err
	}
	_, err = get[corev1.ConfigMap](ctx, u.Cluster, path, nil)
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read %s: %w", o, explain(err))
	}
	u.missing(o)
	return u.apply(ctx, o, false)
}

func (u Uninstall) missing(o Object) {
	fmt.Fprintf(u.Out, "there is no %s: the nodes are cleaned as the settings here say\n", o)
}

// ofKind is the chart's only object of a kind.
func ofKind(objects []Object, kind string) (Object, error) {
	i := slices.IndexFunc(objects, func(o Object) bool { return o.Kind == kind })
	if i < 0 {
		return Object{}, fmt.Errorf("the chart has no %s", kind)
	}
	return objects[i], nil
}

// stop removes the DaemonSet and waits for its pods' end on the nodes whose kubelet
// answers.
func (u Uninstall) stop(ctx context.Context, v view) error {
	if v.daemons != nil {
		if err := u.delete(ctx, Object{APIVersion: "apps/v1", Kind: "DaemonSet", Namespace: u.Namespace, Name: daemonSet}); err != nil {
			return err
		}
		fmt.Fprintf(u.Out, "removed DaemonSet %s/%s\n", u.Namespace, daemonSet)
	}
	silent := map[string]bool{}
	for _, n := range v.nodes {
		silent[n.Name] = condition(n, corev1.NodeReady).Status == corev1.ConditionUnknown
	}
	return u.until(ctx, "the daemons' end", func(ctx context.Context) (string, error) {
		pods, err := u.podsOf(ctx, nameValue)
		var left []string
		for _, p := range pods {
			if !silent[p.Spec.NodeName] {
				left = append(left, p.Spec.NodeName)
			}
		}
		if len(left) == 0 {
			return "", err
		}
		slices.Sort(left)
		return "waiting for the daemons' end on " + strings.Join(few(3, left), ", "), err
	})
}

// clean runs the clean-up on all nodes, and returns where it did not succeed, each with
// the reason.
func (u Uninstall) clean(ctx context.Context, nodes []corev1.Node, template corev1.PodSpec) (dirty []string, err error) {
	if err := u.removeCleaners(ctx); err != nil {
		return nil, err // of a former attempt
	}
	defer func() {
		// Also after an interrupt: a privileged pod must not stay.
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
		defer cancel()
		err = errors.Join(err, u.removeCleaners(after))
	}()
	waiting := map[string]bool{}
	for _, n := range nodes {
		if c := condition(n, corev1.NodeReady); c.Status == corev1.ConditionUnknown {
			dirty = append(dirty, n.Name+" (its kubelet is silent)")
			fmt.Fprintf(u.Out, "node %s: its kubelet is silent: it is not cleaned; on the node, weftd uninstall does it\n", n.Name)
			continue
		}
		pod := cleaner(n.Name, u.Namespace, template)
		err := u.call(ctx, request{
			method: http.MethodPost, path: "/api/v1/namespaces/" + u.Namespace + "/pods", body: pod,
			query: url.Values{"fieldManager": {FieldManager}, "fieldValidation": {"Strict"}},
		}, nil)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("start the clean-up of node %s: %w", n.Name, explain(err))
		}
		waiting[n.Name] = true
	}
	failed := map[string]string{}
	waitErr := u.until(ctx, "the clean-up", func(ctx context.Context) (string, error) {
		pods, err := u.podsOf(ctx, cleanerName)
		for _, p := range pods {
			node := p.Spec.NodeName
			switch p.Status.Phase {
			case corev1.PodSucceeded:
				if waiting[node] {
					fmt.Fprintf(u.Out, "node %s: clean\n", node)
				}
				delete(waiting, node)
				delete(failed, node)
			case corev1.PodFailed:
				delete(waiting, node)
				failed[node] = podHindrance(&p)
			default:
				if waiting[node] {
					failed[node] = podHindrance(&p) // what it is in the middle of, should time run out
				}
			}
		}
		if len(waiting) == 0 {
			return "", err
		}
		return fmt.Sprintf("cleaning %d nodes", len(waiting)), err
	})
	if waitErr != nil && !errors.Is(waitErr, errTooLong) {
		return nil, waitErr
	}
	for _, n := range nodes {
		if why, ok := failed[n.Name]; ok || waiting[n.Name] {
			fmt.Fprintf(u.Out, "node %s: not clean: %s\n", n.Name, why)
			dirty = append(dirty, join(" ", n.Name, "("+why+")"))
		}
	}
	return dirty, nil
}

// removeCleaners removes the pods of the clean-up and waits until their names are free.
func (u Uninstall) removeCleaners(ctx context.Context) error {
	path := "/api/v1/namespaces/" + u.Namespace + "/pods"
	query := url.Values{"labelSelector": {nameLabel + "=" + cleanerName}}
	now := int64(0)
	err := u.call(ctx, request{method: http.MethodDelete, path: path, query: query, body: metav1.DeleteOptions{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, GracePeriodSeconds: &now,
	}}, nil)
	if err != nil {
		return fmt.Errorf("remove the pods of the clean-up: %w", explain(err))
	}
	return u.until(ctx, "the end of the clean-up's pods", func(ctx context.Context) (string, error) {
		pods, err := u.podsOf(ctx, cleanerName)
		if len(pods) == 0 {
			return "", err
		}
		return fmt.Sprintf("removing %d pods of the clean-up", len(pods)), err
	})
}

var errTooLong = errors.New("it takes too long")

// until waits until what there is to do is nothing, and tells it whenever it changes.
// errTooLong after the timeout.
func (u Uninstall) until(ctx context.Context, what string, left func(context.Context) (string, error)) error {
	limited, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	tick := time.NewTicker(orDefault(u.Every))
	defer tick.Stop()
	told := ""
	for now := ctx; ; now = limited { // what is done already needs no time, so a first look is finished
		text, err := left(now)
		if err == nil && text == "" {
			return nil
		}
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return err
		}
		if text != told && text != "" {
			fmt.Fprintln(u.Out, text)
			told = text
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errors.Join(fmt.Errorf("wait for %s: %w (%s)", what, errTooLong, u.Timeout), err)
		}
	}
}
