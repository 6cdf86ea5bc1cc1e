package scenario

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/echo"
	"github.com/weftnet/weft/e2e/kind/proc"
)

// sender is a client of the test program that runs.
type sender struct {
	name string // where
	in   io.WriteCloser
	out  *bufio.Reader
	said bytes.Buffer // to standard error
	wait func() error
}

// send starts a client, and waits until it is connected to its targets.
func send(name string, cmd *exec.Cmd, targets []echo.Target) (*sender, error) {
	s := &sender{name: name}
	in, fed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	heard, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close(), fed.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &s.said
	s.in, s.out = fed, bufio.NewReader(heard)
	s.wait, err = proc.Start(cmd)
	// Only the client may keep its ends open.
	if err := errors.Join(err, in.Close(), out.Close()); err != nil {
		return nil, errors.Join(err, fed.Close(), heard.Close())
	}
	err = json.NewEncoder(s.in).Encode(targets)
	if err == nil {
		_, err = s.out.ReadString('\n') // echo.Started, or the end
	}
	if err != nil {
		return nil, fmt.Errorf("start load from %s: %w", name, errors.Join(err, s.in.Close(), s.wait(), errors.New(s.said.String())))
	}
	return s, nil
}

// stop ends the client.
func (s *sender) stop() ([]echo.Result, error) {
	_, err := io.WriteString(s.in, "stop\n")
	var results []echo.Result
	err = errors.Join(err, json.NewDecoder(s.out).Decode(&results), s.in.Close(), s.wait())
	if err != nil {
		return nil, fmt.Errorf("end load from %s: %w; it says: %s", s.name, err, &s.said)
	}
	return results, nil
}

// total is what all streams went through.
type total struct {
	streams                  int
	sent, lost, fresh, bytes uint64
	slowest                  time.Duration
}

func (t total) String() string {
	return fmt.Sprintf("%d streams, %d datagrams, %d lost; %d MB over lasting connections; %d new connections, the slowest %s",
		t.streams, t.sent, t.lost, t.bytes>>20, t.fresh, t.slowest.Round(time.Millisecond))
}

// add adds a client's results. It is an error if anything was lost or disturbed.
func (t *total) add(from string, results []echo.Result) error {
	var errs []error
	for _, r := range results {
		t.streams++
		t.sent, t.lost, t.fresh, t.bytes = t.sent+r.Sent, t.lost+r.Lost, t.fresh+r.Fresh, t.bytes+r.Bytes
		t.slowest = max(t.slowest, r.Slowest)
		way := fmt.Sprintf("from %s to %s (%s)", from, r.Name, r.Addr)
		if r.Sent == 0 || r.Bytes == 0 || r.Fresh == 0 {
			errs = append(errs, fmt.Errorf("%s: nothing was tried: %+v", way, r))
		}
		if r.Lost > 0 {
			errs = append(errs, fmt.Errorf("%s: %d of %d datagrams lost, between %s and %s after the start",
				way, r.Lost, r.Sent, r.First.Round(time.Millisecond), r.Last.Round(time.Millisecond)))
		}
		if len(r.Errors) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", way, strings.Join(r.Errors[:min(3, len(r.Errors))], "; ")))
		}
	}
	return errors.Join(errs...)
}
