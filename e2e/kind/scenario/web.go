package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// webPort is where `weft web` is if it is not told where.
const webPort = "8087"

// browser asks the page of one node's daemon, as docs/web.md says how to reach it in a
// cluster: by `weft web` in the daemon's pod, and kubectl port-forward to that.
type browser struct {
	c    *cluster.Cluster
	node string
}

// ending is how the command that serves the page is ended.
type ending int

const (
	byCtrlC ending = iota // in a terminal
	byKill                // without one: kubectl is killed, which cannot say good-bye
)

// browse opens the page of a node's daemon, calls f, and ends the command, after which there is
// no page on the node.
func browse(ctx context.Context, c *cluster.Cluster, node string, how ending, f func(context.Context, browser) error) (err error) {
	pods, err := podsOf(ctx, c, "--namespace="+system, "--selector=app.kubernetes.io/name=weft", "--field-selector=spec.nodeName="+node)
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%s has %d pods of Weft, want 1", node, len(pods))
	}
	pod := pods[0].Metadata.Name
	closePage, err := openPage(ctx, c, pod, how)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, closePage()); err == nil {
			err = gone(ctx, c, node)
		}
	}()
	forwarding, stop := context.WithCancel(ctx)
	var forwarded error // how the last one ended
	done := make(chan struct{})
	go func() {
		defer close(done)
		for forwarding.Err() == nil { // kubectl ends with the first connection that fails
			wait, err := proc.Start(c.Kubectl(forwarding, "port-forward", "--namespace="+system, pod, webPort))
			if err == nil {
				err = wait()
			}
			if forwarding.Err() == nil {
				forwarded = err
				time.Sleep(200 * time.Millisecond)
			}
		}
	}()
	defer func() {
		stop()
		if <-done; err != nil && forwarded != nil {
			err = errors.Join(err, fmt.Errorf("port-forward ended: %w", forwarded))
		}
	}()
	b := browser{c, node}
	if err := within(ctx, time.Minute, "the forwarded page answers", func(ctx context.Context) error {
		_, err := b.get(ctx, "/")
		return err
	}); err != nil {
		return err
	}
	return f(ctx, b)
}

// openPage runs `weft web` in a pod until it says where its page is. What it returns ends it,
// as how says.
func openPage(ctx context.Context, c *cluster.Cluster, pod string, how ending) (end func() error, err error) {
	cmd := c.Kubectl(ctx, "exec", "--namespace="+system, "-i", pod, "--", "weft", "web")
	if how == byCtrlC {
		cmd = inTerminal(ctx, c.Kubectl(ctx, "exec", "--namespace="+system, "-it", pod, "--", "weft", "web"))
	}
	in, keys, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	screen := &screen{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, screen, screen
	wait, err := proc.Start(cmd)
	if err := errors.Join(err, in.Close()); err != nil {
		return nil, errors.Join(err, keys.Close())
	}
	ended := make(chan error, 1)
	go func() { ended <- wait() }()
	kill := func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended // killed
		return err
	}
	end = func() error {
		if how == byKill {
			return errors.Join(kill(), keys.Close())
		}
		_, err := keys.Write([]byte{3}) // Ctrl-C, as a terminal has it
		select {
		case end := <-ended:
			err = errors.Join(err, end)
		case <-time.After(time.Minute):
			err = errors.Join(errors.New("it does not end with Ctrl-C"), err, kill())
		}
		if err = errors.Join(err, keys.Close()); err != nil {
			err = fmt.Errorf("weft web in %s: %w; it says: %q", pod, err, screen)
		}
		return err
	}
	err = within(ctx, time.Minute, "weft web says where its page is", func(context.Context) error {
		if said := screen.String(); !strings.Contains(said, "http://127.0.0.1:"+webPort+"/") {
			return fmt.Errorf("it says: %q", said)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// inTerminal is a command with a terminal, whose keys and screen are its standard input and
// output.
func inTerminal(ctx context.Context, cmd *exec.Cmd) *exec.Cmd {
	in := proc.Command(ctx, "script", "--quiet", "--flush", "--return", "--command", "'"+strings.Join(cmd.Args, "' '")+"'", "/dev/null")
	in.Env = cmd.Env
	return in
}

// screen keeps what a program writes.
type screen struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// gone waits until nobody serves the page on a node.
func gone(ctx context.Context, c *cluster.Cluster, node string) error {
	return within(ctx, time.Minute, "the page is gone with the command", func(ctx context.Context) error {
		_, err := shell(ctx, c, node, "if curl --silent --max-time 2 http://127.0.0.1:"+webPort+"/ > /dev/null; then exit 9; fi")
		return err
	})
}

// get fetches what is at a path.
func (b browser) get(ctx context.Context, path string) ([]byte, error) {
	return proc.Output(b.c.Command(ctx, "curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "5",
		"http://localhost:"+webPort+path))
}

// read fetches JSON.
func (b browser) read(ctx context.Context, path string, into any) error {
	out, err := b.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
