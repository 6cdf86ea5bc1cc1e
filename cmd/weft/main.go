// Command weft shows what the Weft daemon of this node knows, installs Weft in a cluster,
// and shows how it is there.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/deploy"
	"github.com/weftnet/weft/internal/api"
)

// Exit codes, as the help of the command names them.
const (
	exitNotReady = 1 // the node is not ready, or the daemon refused
	exitUsage    = 2
	exitNoDaemon = 3
)

// errNotReady ends `weft status` after it has shown why.
var errNotReady = errors.New("the node is not ready")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &cli{in: os.Stdin, out: stdout, now: time.Now}
	root := c.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var refused *api.Error
	switch {
	case errors.Is(err, errNotReady):
		return exitNotReady
	case errors.Is(err, api.ErrNoDaemon):
		fmt.Fprintln(stderr, "weft:", noDaemon(err, c.socket))
		return exitNoDaemon
	case errors.As(err, &refused), c.running:
		fmt.Fprintln(stderr, "weft:", err)
		return exitNotReady
	}
	fmt.Fprintln(stderr, "weft:", err, "(weft COMMAND --help tells what there is)")
	return exitUsage
}

// noDaemon says why there was no answer, and what to do.
func noDaemon(err error, socket string) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("no permission to use %s: it is root's alone (try sudo)", socket)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the Weft daemon does not run: there is no socket %s (start weftd, or say where with --socket; from elsewhere, weft status --kubeconfig=FILE shows a cluster)", socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("the Weft daemon does not run: nobody listens on %s (start weftd; its log says why it ended)", socket)
	case errors.Is(err, context.Canceled):
		return "interrupted before the daemon answered"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the Weft daemon does not answer in time on %s (it hangs or is stopped; its log may say why)", socket)
	}
	return err.Error()
}

// cli is what the commands share.
type cli struct {
	in      *os.File
	out     io.Writer
	now     func() time.Time
	socket  string
	format  string
	timeout time.Duration
	running bool // the command line was understood
}

func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "Install Weft in a cluster, and show how it is there and on this node",
		Long: `weft reads the socket of the Weft daemon on this node and shows the node's state, its
pods' interfaces, Services and policies, the nodes it is joined with, and what was
dropped and why. With a kubeconfig it installs Weft in a cluster, removes it, and shows
how it is on all nodes.

Exit codes: 0 all well, 1 a node is not ready, or the daemon or the cluster refused,
2 wrong command line, 3 no answer from the daemon.`,
		Example: `  weft install
  weft status --cluster
  sudo weft status
  sudo weft endpoints -o json`,
		Args:              cobra.NoArgs,
		Version:           api.Version,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.format != "table" && c.format != "json" {
				return fmt.Errorf("--output %q is neither table nor json", c.format)
			}
			if c.timeout <= 0 {
				return fmt.Errorf("--timeout %s: no answer comes in that time, give it for example 10s", c.timeout)
			}
			c.running = true
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", api.DefaultSocket, "unix socket of the daemon")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for the daemon")
	root.AddCommand(
		c.install(),
		c.uninstall(),
		&cobra.Command{
			Use: "version", Args: cobra.NoArgs,
			Short: "Print the version of this command; weft status shows the daemon's",
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(c.out, "weft", api.Version)
				return err
			},
		},
		c.webCommand(),
	)
	for _, cmd := range []*cobra.Command{
		c.statusCommand(),
		&cobra.Command{
			Use: "endpoints", Aliases: []string{"ep", "endpoint"}, Args: cobra.NoArgs,
			Short: "List the pod interfaces of this node",
			RunE: func(cmd *cobra.Command, _ []string) error {
				e, err := ask(cmd, c, (*api.Client).Endpoints)
				if err != nil {
					return err
				}
				return c.show(e, func() error { return c.endpoints(e) })
			},
		},
		&cobra.Command{
			Use: "services [NAME | NAMESPACE/NAME]", Aliases: []string{"svc", "service"}, Args: cobra.MaximumNArgs(1),
			Short: "List the Services and host ports of this node, or the backends of one",
			Long: `List where Services and pods' host ports are served on this node. With a name,
show that Service's backends, too.

READY is how many backends are ready, of how many there are; with the policy Local
those of this node. A backend that is terminating gets what is new only if none is
ready. SERVED AT *: all addresses of the node that serve node ports.`,
			Example: `  sudo weft services
  sudo weft services kube-system/kube-dns`,
			RunE: func(cmd *cobra.Command, args []string) error {
				name := ""
				if len(args) > 0 {
					name = args[0]
				}
				s, err := ask(cmd, c, func(a *api.Client, ctx context.Context) ([]api.Service, error) {
					return a.Services(ctx, name)
				})
				if err != nil {
					return err
				}
				return c.show(s, func() error { return c.services(s) })
			},
		},
		&cobra.Command{
			Use: "nodes", Aliases: []string{"node"}, Args: cobra.NoArgs,
			Short: "List the nodes, how they are reached, and whether they answer",
			RunE: func(cmd *cobra.Command, _ []string) error {
				n, err := ask(cmd, c, (*api.Client).Nodes)
				if err != nil {
					return err
				}
				return c.show(n, func() error { return c.nodes(n) })
			},
		},
		c.dropsCommand(),
		c.policyCommand(),
		c.explainCommand(),
	} {
		cmd.Flags().StringVarP(&c.format, "output", "o", "table", "table or json")
		root.AddCommand(cmd)
	}
	return root
}

func (c *cli) statusCommand() *cobra.Command {
	var f clusterFlags
	var cluster bool
	cmd := &cobra.Command{
		Use: "status", Args: cobra.NoArgs,
		Short: "Show whether the node, or a cluster's nodes, are ready, and what is wrong if not",
		Long: `Show whether pods can be started on this node, the problems a person should
know of, the address pools, the packets dropped or left to the kernel by reason,
and the kernel tables that the daemon keeps.

With --cluster, --kubeconfig or --context, or where there is no daemon but a kubeconfig,
show all nodes of the cluster: versions, how the nodes reach each other, and what is
wrong where. Each node's daemon is asked by a command in its pod.

Exits with 1 if a node is not ready.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cluster || f.kubeconfig != "" || f.context != "" {
				return c.clusterStatus(cmd.Context(), f)
			}
			s, err := ask(cmd, c, (*api.Client).Status)
			if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("socket") && deploy.HasKubeconfig() {
				return c.clusterStatus(cmd.Context(), f)
			}
			if err != nil {
				return err
			}
			if err := c.show(s, func() error { return c.status(s) }); err != nil {
				return err
			}
			if !s.Ready {
				return errNotReady
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&cluster, "cluster", false, "show the cluster of the usual kubeconfig")
	return cmd
}

// ask calls the daemon.
func ask[T any](cmd *cobra.Command, c *cli, call func(*api.Client, context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	return call(api.NewClient(c.socket), ctx)
}
