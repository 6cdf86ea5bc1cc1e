// Package engine runs a Docker engine that the machine does not notice: it lives in PID,
// network and mount namespaces of its own, with its own data. All its processes, and all
// that [Engine.Command] starts, die with the namespaces' first process, which dies with
// ours, also when ours is killed. What then remains are files, cgroups and some sysctls,
// which the next [Start] finds by their names and by what was written down.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/internal/testnet"
)

const bridgeAddress = "172.17.0.1" // of the engine's default bridge, which no container uses

// Engine is a running engine.
type Engine struct {
	dir     string
	pid     int // of the namespaces' first process
	cancel  context.CancelFunc
	wait    func() error
	log     *os.File
	machine *machine
}

// Start starts an engine whose files are in dir, and first removes what a run that was
// killed left there. Images in dir stay from one run to the next; no two engines may use
// the same dir. The program must call [Main] first.
func Start(ctx context.Context, dir string, log *progress.Log) (e *Engine, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the runtime sees it
		return nil, fmt.Errorf("start engine: %w", err)
	}
	if err := cleanLeftovers(ctx, dir, log); err != nil {
		return nil, err
	}
	e = &Engine{dir: dir}
	if e.machine, err = enter("/run/weft-kind", "/proc/sys"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.prepare(); err != nil {
		return nil, err
	}
	if e.log, err = os.Create(filepath.Join(dir, "engine.log")); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	cmd := proc.Command(running, "/proc/self/exe", dir)
	cmd.Args[0] = initName
	cmd.Stdout, cmd.Stderr = e.log, e.log
	cmd.SysProcAttr.Cloneflags = cloneFlags
	cmd.WaitDelay = 30 * time.Second
	if e.wait, err = proc.Start(cmd); err != nil {
		return nil, err
	}
	e.pid = cmd.Process.Pid
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	err = testnet.Wait(ctx, func() error { return proc.Run(e.Command(ctx, "docker", "version")) })
	if err != nil {
		return nil, fmt.Errorf("wait for the engine (its log: %s): %w", e.log.Name(), err)
	}
	return e, nil
}

// prepare writes the engine's configuration and the program that starts its containers.
func (e *Engine) prepare() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	runtime := filepath.Join(e.dir, "bin", runtimeName)
	if err := os.WriteFile(runtime, self, 0o755); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	config, err := json.Marshal(map[string]any{
		"data-root":        filepath.Join(e.dir, "data"),
		"hosts":            []string{"unix:///run/docker.sock"},
		"exec-opts":        []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":    "/" + cgroupName(e.dir),
		"runtimes":         map[string]any{"weft": map[string]string{"path": runtime}},
		"default-runtime":  "weft",
		"shutdown-timeout": 5,
		// No name server can be reached. Where nobody listens at an address that can, what
		// asks for a name outside the cluster is told so at once, not after a time-out.
		"bip": bridgeAddress + "/16",
		"dns": []string{bridgeAddress},
	})
	if err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	if err := os.WriteFile(filepath.Join(e.dir, "daemon.json"), config, 0o644); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	return os.WriteFile(filepath.Join(e.dir, dirtyName), nil, 0o644)
}

// Command is a command in the engine's namespaces: it sees the machine's files (but /run
// and its home folder are empty), the engine's network, and the engine as `docker`. Run
// it with package proc. It starts in /.
func (e *Engine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = append([]string{"--target", strconv.Itoa(e.pid), "--mount", "--net", "--pid", "--ipc", "--", name}, args...)
	cmd := proc.Command(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), "HOME=/run/home", "PATH=/usr/sbin:/usr/bin:"+os.Getenv("PATH"))
	for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "KUBECONFIG"} {
		cmd.Env = append(cmd.Env, name+"=") // the caller's engine and cluster are not meant
	}
	return cmd
}

// Load makes an image archive known to the engine as name, which must be new if the
// archive's content is. An image that an older Load left is removed.
func (e *Engine) Load(ctx context.Context, archive, image, name string) error {
	if proc.Run(e.Command(ctx, "docker", "image", "inspect", name)) == nil {
		return nil
	}
	for _, args := range [][]string{
		{"image", "prune", "--all", "--force"},
		{"load", "--quiet", "--input", archive},
		{"tag", image, name},
	} {
		if err := proc.Run(e.Command(ctx, "docker", args...)); err != nil {
			return fmt.Errorf("load image %s: %w", image, err)
		}
	}
	return nil
}

// Of is the engine of another run whose namespaces' first process is pid. There is nothing
// to be closed.
func Of(pid int) *Engine { return &Engine{pid: pid} }

// Pid is the first process of the engine's namespaces, for those who enter its network.
func (e *Engine) Pid() int { return e.pid }

// Close ends the engine and all that runs in it, and puts the machine's settings back.
func (e *Engine) Close() error {
	var errs []error
	if e.wait != nil {
		// It may be that nothing is in order: the containers need no good end, but the
		// engine's own files are only worth keeping if it says good-bye.
		asking, stop := context.WithTimeout(context.Background(), 10*time.Second)
		containers, err := proc.Output(e.Command(asking, "docker", "ps", "--all", "--quiet"))
		stop()
		e.cancel()
		if ended := e.wait(); err == nil && len(containers) == 0 && errors.Is(ended, context.Canceled) {
			errs = append(errs, os.Remove(filepath.Join(e.dir, dirtyName)))
		}
		e.wait = nil
	}
	if e.log != nil {
		errs = append(errs, e.log.Close())
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	errs = append(errs, removeCgroups(ctx, cgroupName(e.dir)), e.machine.leave())
	return errors.Join(errs...)
}
