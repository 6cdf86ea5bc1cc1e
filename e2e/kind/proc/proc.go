// Package proc runs programs that must not outlive us.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Command is [exec.CommandContext], but what it starts is a process group of its own
// that is ended as a whole: by SIGTERM when ctx ends, by SIGKILL ten seconds later.
// Start it with [Run] or [Start] only.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Start starts cmd; wait waits for it, and may be called once. The kernel kills the
// process when we die, in whatever way.
func Start(cmd *exec.Cmd) (wait func() error, err error) {
	started, done := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, not the process:
		// keep the thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		done <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return func() error { return <-done }, nil
}

// Run runs cmd to its end. Its error holds the end of what the program wrote to
// standard error, if cmd.Stderr was nil.
func Run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	}
	wait, err := Start(cmd)
	if err != nil {
		return err
	}
	if err := wait(); err != nil {
		return fmt.Errorf("%s: %w%s", strings.Join(brief(cmd.Args), " "), err, tail(said.Bytes()))
	}
	return nil
}

// Output runs cmd and returns what it wrote to standard output.
func Output(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	err := Run(cmd)
	return out.Bytes(), err
}

// Logged runs cmd, writes all it says to log, and has the end of that in its error.
func Logged(cmd *exec.Cmd, log io.Writer) error {
	last := &window{}
	cmd.Stdout = io.MultiWriter(log, last)
	cmd.Stderr = cmd.Stdout
	fmt.Fprintf(log, "$ %s\n", strings.Join(cmd.Args, " "))
	err := Run(cmd)
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w%s", err, tail(last.b))
	}
	return err
}

// window keeps the last few KiB of what is written to it.
type window struct{ b []byte }

func (w *window) Write(p []byte) (int, error) {
	const most = 4 << 10
	w.b = append(w.b, p...)
	if len(w.b) > most {
		w.b = append(w.b[:0], w.b[len(w.b)-most:]...)
	}
	return len(p), nil
}

// tail is the last lines of what a program said, as the end of an error.
func tail(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) > 20 {
		lines = lines[len(lines)-20:]
	}
	if s := strings.Join(lines, "\n"); s != "" {
		return ":\n" + s
	}
	return ""
}

// brief shortens a command line for an error.
func brief(args []string) []string {
	if len(args) > 6 {
		return append(append([]string{}, args[:6]...), "…")
	}
	return args
}
