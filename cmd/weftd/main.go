// Command weftd is the node daemon of Weft, and what installs and removes it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "weftd:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "weftd",
		Short: "The node daemon of Weft, a Kubernetes network in eBPF",
		Long: `weftd gives the pods of this node their addresses and joins them to the pods of
the other nodes. One weftd runs on each node, as root.

Each setting is a flag, and a key of the same name in the file of --config; a flag
wins over the file. Install and uninstall want the same settings as run.`,
		Version:           daemon.Version(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	cmd.AddCommand(run(), install(), uninstall(), prepare(), unprepare(), version())
	return cmd
}

// settings adds the settings' flags to a command and returns what reads them.
func settings(cmd *cobra.Command) func() (daemon.Config, error) {
	fs := cmd.Flags()
	fs.SortFlags = false
	file := fs.String("config", daemon.DefaultConfigFile, "file of settings, YAML; need not exist unless it is named")
	cfg := daemon.Settings(fs)
	return func() (daemon.Config, error) {
		err := daemon.Load(fs, cfg, *file, !fs.Changed("config"))
		return *cfg, err
	}
}

func run() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon of this node until SIGTERM",
		Long: `Run the daemon of this node until SIGTERM or SIGINT.

When it ends, nothing is removed: the pods' packets flow on, and the next weftd takes
up what it finds. To remove Weft from the node, use weftd uninstall.`,
		Example: `  weftd run --node-name node-a --source dir:/etc/weft/objects
  weftd run --config /etc/weft/weftd.yaml --log-level debug`,
		Args: cobra.NoArgs,
	}
	load := settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		level, err := cfg.Level()
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
		log.Info("weftd starts", "version", daemon.Version(), "node", cfg.NodeName, "pid", os.Getpid())
		if err := daemon.Run(cmd.Context(), cfg, log); err != nil {
			return err
		}
		log.Info("weftd ends; the datapath stays in force")
		return nil
	}
	return cmd
}

func install() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Write the CNI binary and configuration, and nothing else",
		Long: `Write the CNI binary to cni-bin-dir and the CNI configuration to cni-conf-dir, each in
one step, and nothing else. weftd run does the same as soon as the node can have pods.`,
		Args: cobra.NoArgs,
	}
	load := settings(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return daemon.Install(cfg)
	}
	return cmd
}

func uninstall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove everything of Weft from this node",
		Long: `Remove everything of Weft from this node: the pods' interfaces, routes, chains, the
VXLAN device, BPF programs and pins, the CNI binary and configuration, and the state;
and give sysctls the values back that they had before.

It needs no running daemon, and refuses while one runs: stop that first, or it would
make everything anew. It may be repeated, and stops at nothing: what could not be
removed is listed.`,
		Args: cobra.NoArgs,
	}
	load := settings(cmd)
	force := cmd.Flags().Bool("force", false, "do it although a daemon runs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return daemon.Uninstall(cmd.Context(), cfg, *force)
	}
	return cmd
}

// onNode is a command that changes what the node's first process sees of the node.
func onNode(use, short, long string, do func(cfg daemon.Config, proc string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs}
	load := settings(cmd)
	proc := cmd.Flags().String("proc", "/proc", "where the node's /proc is mounted")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return do(cfg, *proc)
	}
	return cmd
}

func prepare() *cobra.Command {
	return onNode("prepare", "Make on the node what a container with the daemon has mounted into it",
		`Make on the node what a container with the daemon has mounted into it: the folders of
the settings, a BPF file system on /sys/fs/bpf, and a cgroup2 where there is none. What
is there already is left alone; what is made is noted in state-dir.

It is for the DaemonSet's first container, which must be privileged and have the node's
/proc mounted where --proc says. A weftd without a container does not need it.`, daemon.Prepare)
}

func unprepare() *cobra.Command {
	return onNode("unprepare", "Remove what prepare has made",
		`Remove what weftd prepare has made and nobody else uses. It is run after weftd
uninstall, in a container like that of prepare. It may be repeated.`, daemon.Unprepare)
}

func version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Println("weftd", daemon.Version()) },
	}
}
