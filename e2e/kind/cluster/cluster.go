// Package cluster makes kind clusters without a CNI, in an engine of package engine.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/e2e/kind/engine"
	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/progress"
)

// Tools are the programs that make and use a cluster.
type Tools struct {
	Kind     string
	Kubectl  string
	Plugins  string // folder of the CNI project's plugins
	Checkout string // folder of Weft's sources, with what [Made] lists
}

// Files of a checkout.
const (
	CLI          = "bin/weft"
	ExampleImage = "bin/example-image.tar"
	Example      = "examples" // a folder of objects
)

// Made are the files of a checkout that are made by `make image`.
var Made = []string{CLI, ExampleImage}

// Cluster is a running cluster.
type Cluster struct {
	Spec  Spec
	Nodes []string // names of the nodes, which are those of their containers too

	engine *engine.Engine
	tools  Tools
	log    *progress.Log
	dir    string
}

// Up makes a cluster, whose nodes are not Ready because they have no network, and keeps
// its files in dir. What was made before an error is removed, except what the files say.
func Up(ctx context.Context, e *engine.Engine, tools Tools, dir string, spec Spec, log *progress.Log) (*Cluster, error) {
	spec = spec.withDefaults()
	if _, ok := subnets[spec.Family]; !ok {
		return nil, fmt.Errorf("make cluster: %q is no address family; they are dual, ipv4, ipv6", spec.Family)
	}
	c := &Cluster{Spec: spec, engine: e, tools: tools, log: log, dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cluster: %w", err)
	}
	config := filepath.Join(dir, "kind.yaml")
	if err := os.WriteFile(config, []byte(spec.config()), 0o644); err != nil {
		return nil, fmt.Errorf("make cluster: %w", err)
	}
	err := log.Step(fmt.Sprintf("kind creates a %s cluster of %d nodes", spec.Family, spec.Workers+1), func() error {
		// Down follows, which wants no remains; but before, the remains tell why.
		return c.kind(ctx, "create", "cluster", "--config", config, "--image", spec.Image, "--wait", "0s", "--retain")
	})
	if err == nil {
		c.Nodes, err = c.nodes(ctx)
	}
	if err == nil && spec.Zones == 0 {
		err = proc.Run(c.Kubectl(ctx, "taint", "node", c.Nodes[0], "node-role.kubernetes.io/control-plane-"))
	}
	if err != nil {
		clean := context.WithoutCancel(ctx)
		return nil, errors.Join(err, c.Logs(clean, filepath.Join(dir, "logs")), c.Down(clean))
	}
	return c, nil
}

func (c *Cluster) nodes(ctx context.Context) ([]string, error) {
	out, err := proc.Output(c.Kubectl(ctx, "get", "nodes", "-o", "name"))
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []string
	for _, name := range strings.Fields(string(out)) {
		nodes = append(nodes, strings.TrimPrefix(name, "node/"))
	}
	slices.Sort(nodes) // the control plane, then the workers in their order
	if len(nodes) != c.Spec.Workers+1 {
		return nil, fmt.Errorf("list nodes: got %q, want %d", nodes, c.Spec.Workers+1)
	}
	return nodes, nil
}

// Install calls install, which brings a network, and waits until all nodes are Ready and
// the cluster's name server answers.
func (c *Cluster) Install(ctx context.Context, name string, install func(context.Context, *Cluster) error) error {
	return c.log.Step("install "+name, func() error {
		if err := install(ctx, c); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"wait", "--for=condition=Ready", "node", "--all", "--timeout=3m"},
			{"rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=3m"},
		} {
			if err := proc.Run(c.Kubectl(ctx, args...)); err != nil {
				return fmt.Errorf("wait for the network: %w", err)
			}
		}
		return nil
	})
}

// Kubeconfig is the administrator's. Its server is an address in the engine's network.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// Command runs a program in the engine's network, where the API server and the nodes have
// addresses; see [engine.Engine.Command].
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := c.engine.Command(ctx, name, args...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

// Kubectl is kubectl with the administrator's rights.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return c.Command(ctx, c.tools.Kubectl, args...)
}

// Weft is Weft's CLI, from outside the cluster, with the administrator's rights.
func (c *Cluster) Weft(ctx context.Context, args ...string) *exec.Cmd {
	return c.Command(ctx, c.File(CLI), args...)
}

// File is the path of a file of the checkout.
func (c *Cluster) File(name string) string { return filepath.Join(c.tools.Checkout, name) }

// Plugins is the folder of the CNI project's plugins, on this machine.
func (c *Cluster) Plugins() string { return c.tools.Plugins }

// Note is the path of a file, on this machine, in which one of a run's steps may tell a
// later one something about this cluster.
func (c *Cluster) Note(name string) string { return filepath.Join(c.dir, name) }

// Exec runs a program on a node, as root in the node's own namespaces. Standard input is
// passed on.
func (c *Cluster) Exec(ctx context.Context, node string, args ...string) *exec.Cmd {
	return c.engine.Command(ctx, "docker", append([]string{"exec", "--interactive", node}, args...)...)
}

// Root is the path by which this machine sees a node's files. It is another after the node
// was stopped. Links of absolute paths lead astray.
func (c *Cluster) Root(ctx context.Context, node string) (string, error) {
	out, err := proc.Output(c.Docker(ctx, "inspect", "--format={{.State.Pid}}", node))
	if err != nil {
		return "", fmt.Errorf("find the node's files: %w", err)
	}
	engine := strconv.Itoa(c.engine.Pid())
	return filepath.Join("/proc", engine, "root/proc", strings.TrimSpace(string(out)), "root"), nil
}

// Say prints a line of progress.
func (c *Cluster) Say(format string, args ...any) { c.log.Say(format, args...) }

// Copy copies a file of this machine to a node.
func (c *Cluster) Copy(ctx context.Context, file, node, path string) error {
	return proc.Run(c.Docker(ctx, "cp", file, node+":"+path))
}

// Docker is the engine's command line: it stops, starts and inspects the nodes.
func (c *Cluster) Docker(ctx context.Context, args ...string) *exec.Cmd {
	return c.engine.Command(ctx, "docker", args...)
}

// LoadImage puts the images of an archive, as `docker save` makes it, on all nodes.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	return c.log.Step("load "+filepath.Base(archive)+" on the nodes", func() error {
		return c.kind(ctx, "load", "image-archive", archive)
	})
}

// Down removes the cluster. Removing one that is not there succeeds.
func (c *Cluster) Down(ctx context.Context) error {
	return c.kind(ctx, "delete", "cluster")
}

// kind runs kind, and keeps what it says in a file.
func (c *Cluster) kind(ctx context.Context, args ...string) error {
	log, err := os.OpenFile(filepath.Join(c.dir, "kind.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("kind %s: %w", args[0], err)
	}
	err = proc.Logged(c.Command(ctx, c.tools.Kind, append(args, "--name", c.Spec.Name)...), log)
	if err := errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("kind %s (all it said: %s): %w", args[0], log.Name(), err)
	}
	return nil
}

// Logs writes to dir what tells why something went wrong: kind's export (the nodes'
// journals, the containers' logs) and what the API shows.
func (c *Cluster) Logs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	var errs []error
	errs = append(errs, c.kind(ctx, "export", "logs", dir))
	for file, args := range map[string][]string{
		"nodes.yaml":  {"get", "nodes", "-o", "yaml"},
		"pods.txt":    {"get", "pods", "--all-namespaces", "-o", "wide"},
		"system.yaml": {"get", "all", "--namespace=kube-system", "-o", "yaml"},
		"objects.txt": {"get", "services,endpointslices", "--all-namespaces", "-o", "wide"},
		"events.txt":  {"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
		"pods.desc":   {"describe", "pods", "--all-namespaces"},
		"nodes.desc":  {"describe", "nodes"},
	} {
		out, err := proc.Output(c.Kubectl(ctx, append(args, "--request-timeout=10s")...))
		if err != nil {
			out = append(out, err.Error()...)
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, file), out, 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	return nil
}
