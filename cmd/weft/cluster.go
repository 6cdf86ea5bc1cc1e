package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weftnet/weft/deploy"
)

// clusterFlags say which cluster.
type clusterFlags struct{ kubeconfig, context, namespace string }

func (f *clusterFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default: $KUBECONFIG or ~/.kube/config)")
	cmd.Flags().StringVar(&f.context, "context", "", "context in the kubeconfig (default: its current one)")
	cmd.Flags().StringVar(&f.namespace, "namespace", deploy.DefaultNamespace, "namespace of Weft")
}

// check says what is wrong with the command line: the flags, and how long to wait. An empty
// namespace is none, as a variable of a script may be that is not set.
func (f *clusterFlags) check(wait time.Duration) error {
	if wrong := validation.IsDNS1123Label(f.namespace); len(wrong) > 0 {
		return fmt.Errorf("--namespace %q is not the name of a namespace (a-z, 0-9 and -)", f.namespace)
	}
	if wait <= 0 {
		return fmt.Errorf("--timeout %s: nothing is ready in that time, give it for example 5m", wait)
	}
	return nil
}

func (f *clusterFlags) connect() (*deploy.Cluster, error) {
	return deploy.Connect(f.kubeconfig, f.context, f.namespace)
}

// values are the settings that a command line asks for.
func values(image string, set []string) (deploy.Values, error) {
	v := deploy.Defaults()
	if image != "" {
		set = append([]string{"image=" + image}, set...)
	}
	for _, s := range set {
		if err := v.Set(s); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (c *cli) install() *cobra.Command {
	var f clusterFlags
	var image string
	var set []string
	var dryRun, force bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "install", Args: cobra.NoArgs,
		Short: "Install or upgrade Weft in a cluster, and wait until every node is ready",
		Long: `Apply Weft's objects to the cluster of a kubeconfig and wait until Weft runs on every
node and the node is ready. If one is not in time, show why. It may be repeated, and
upgrades; the nodes are restarted one after the other, packets flow on.

The settings and what they mean are in docs/install.md.`,
		Example: `  weft install
  weft install --set overlay=auto --set apiServers=10.0.0.1:6443,10.0.0.2:6443
  weft install --dry-run > weft.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := values(image, set)
			if err := errors.Join(err, f.check(timeout)); err != nil {
				return c.usage(err)
			}
			if dryRun {
				objects, err := deploy.Render(v, f.namespace)
				if err != nil {
					return err
				}
				_, err = c.out.Write(deploy.Manifest(objects))
				return err
			}
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			return deploy.Install{Cluster: cluster, Out: c.out, Values: v, Force: force, Timeout: timeout}.Run(cmd.Context())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&image, "image", "", "image of Weft; the same as --set image=")
	cmd.Flags().StringArrayVar(&set, "set", nil, "NAME=VALUE of a setting; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the objects, change nothing")
	cmd.Flags().BoolVar(&force, "force", false, "take over what others (kubectl, Helm) have set differently")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the nodes")
	return cmd
}

func (c *cli) uninstall() *cobra.Command {
	var f clusterFlags
	var image string
	var set []string
	var force bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "uninstall", Args: cobra.NoArgs,
		Short: "Remove Weft from a cluster, and from every node",
		Long: `Remove Weft from the cluster of a kubeconfig: its DaemonSet, then by a pod on each node
all that is left there (interfaces, routes, BPF programs, files), then its other
objects. Pods that run lose their network.

If a node cannot be cleaned it says why, and leaves what is needed to try again. It may
be repeated.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := values(image, set)
			if err := errors.Join(err, f.check(timeout)); err != nil {
				return c.usage(err)
			}
			cluster, err := f.connect()
			if err != nil {
				return err
			}
			return deploy.Uninstall{Cluster: cluster, Out: c.out, Values: v, Force: force, Timeout: timeout}.Run(cmd.Context())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&image, "image", "", "image of Weft, where its DaemonSet is gone already")
	cmd.Flags().StringArrayVar(&set, "set", nil, "NAME=VALUE of a setting, where its DaemonSet or ConfigMap is gone already")
	cmd.Flags().BoolVar(&force, "force", false, "remove the objects although some node could not be cleaned")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for each step")
	return cmd
}

// usage is an error of the command line.
func (c *cli) usage(err error) error {
	c.running = false
	return err
}

// clusterStatus shows a cluster.
func (c *cli) clusterStatus(ctx context.Context, f clusterFlags) error {
	if err := f.check(c.timeout); err != nil {
		return c.usage(err)
	}
	cluster, err := f.connect()
	if err != nil {
		return err
	}
	s, err := cluster.Status(ctx)
	if err != nil {
		return err
	}
	if err := c.show(s, func() error { return c.showCluster(s) }); err != nil {
		return err
	}
	if !s.Ready {
		return errNotReady
	}
	return nil
}

func (c *cli) showCluster(s deploy.Status) error {
	if !s.Installed {
		_, err := fmt.Fprintf(c.out, "Weft is not installed in %s (there is no DaemonSet weft in the namespace %s); weft install does it\n", s.Server, s.Namespace)
		return err
	}
	ready := 0
	rows := [][]string{{"NODE", "STATE", "VERSION", "UP", "PODS", "PEERS", "PROBLEMS", "KUBELET"}}
	var problems [][]string
	for _, n := range s.Nodes {
		state := "not ready"
		if n.Ready {
			ready++
			state = "ready"
		}
		row := []string{n.Name, state, "", "", "", "", "", n.Kubelet}
		if d := n.Daemon; d != nil {
			copy(row[2:], []string{d.Version, c.age(d.Since), fmt.Sprint(d.Pods), reached(n), fmt.Sprint(len(d.Problems))})
			for _, p := range d.Problems {
				problems = append(problems, []string{n.Name, p.What, c.age(p.Since), p.Text})
			}
		}
		if n.Why != "" {
			problems = append(problems, []string{n.Name, "not-ready", "", n.Why})
		}
		if n.NoReply != "" {
			problems = append(problems, []string{n.Name, "no-reply", "", n.NoReply})
		}
		rows = append(rows, row)
	}
	fmt.Fprintf(c.out, "Cluster %s: %d of %d nodes ready\n\n", s.Server, ready, len(s.Nodes))
	if err := c.rows(rows...); err != nil {
		return err
	}
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
	fmt.Fprintln(c.out)
	return c.rows(append([][]string{{"NODE", "PROBLEM", "SINCE", "WHAT TO KNOW"}}, problems...)...)
}

// reached is how the other nodes answer a node.
func reached(n deploy.NodeStatus) string {
	var states []string
	for _, r := range n.Daemon.Reach {
		text := fmt.Sprintf("%d %s", r.Nodes, r.State)
		if len(r.Names) > 0 {
			text += " (" + strings.Join(r.Names, " ") + ")"
		}
		states = append(states, text)
	}
	if len(states) == 0 && n.Daemon.Peers == 0 {
		return "none"
	}
	return strings.Join(states, ", ")
}
