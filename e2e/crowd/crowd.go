// Package crowd holds thousands of connections open, each of which says something now and
// then, and tells what became of them. Each end is a process of its own: the program that
// uses the package, started again. So no process needs more files than it may have, and
// the ends can be in whatever namespace and cgroup.
//
// A program that uses the package calls [Main] first.
package crowd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Way is a number of connections, and of UDP sockets, to one address.
type Way struct {
	To       netip.AddrPort
	TCP, UDP int
}

// Pace is how often something is said. A question that is not answered within Patience
// is a failure.
type Pace struct {
	TCP, UDP time.Duration // between two questions of one connection, of one socket
	Patience time.Duration
}

// Report is what became of a crowd so far.
type Report struct {
	Open     int   // connections that began; all, once [Hold] has returned
	Turns    int64 // questions that were answered, on TCP
	Least    int64 // those of the connection that has fewest
	Sent     int64 // datagrams
	Answered int64
	Failures int64
	Errors   []string // some of the failures
}

// Starter starts a command where the end is to be.
type Starter func(*exec.Cmd) error

// End is one process.
type End struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	mu  sync.Mutex
	err strings.Builder // what it wrote to standard error; readable once it has ended
}

const envEnd = "WEFT_CROWD"

// spec is what an end is told at its start.
type spec struct {
	Serve []netip.AddrPort
	Hold  []Way
	Pace  Pace
}

// Main turns the process into an end if it was started as one. It returns otherwise.
func Main() {
	text := os.Getenv(envEnd)
	if text == "" {
		return
	}
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	switch {
	case err != nil:
	case len(s.Serve) > 0:
		err = serve(s.Serve)
	default:
		err = hold(s.Hold, s.Pace)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crowd:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Serve starts an end that sends back, over TCP and UDP, what it is sent.
func Serve(start Starter, at ...netip.AddrPort) (*End, error) { return begin(start, spec{Serve: at}) }

// Hold starts an end that opens all connections, and returns when it has.
func Hold(start Starter, pace Pace, ways ...Way) (*End, error) {
	return begin(start, spec{Hold: ways, Pace: pace})
}

func begin(start Starter, s spec) (*End, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	e := &End{cmd: exec.Command(exe)}
	e.cmd.Env = append(os.Environ(), envEnd+"="+string(text))
	e.cmd.Stderr = &e.err
	if e.in, err = e.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e.out = bufio.NewScanner(out)
	if err := start(e.cmd); err != nil {
		return nil, fmt.Errorf("start an end of a crowd: %w", err)
	}
	if !e.out.Scan() { // it says that it is ready
		e.Close()
		return nil, fmt.Errorf("an end of a crowd did not start: %s", &e.err)
	}
	return e, nil
}

// Report asks the end, which [Hold] has made.
func (e *End) Report() (r Report, err error) { return e.ask("report") }

// Finish stops what the end says, waits for answers that are on their way, and reports.
func (e *End) Finish() (r Report, err error) { return e.ask("finish") }

func (e *End) ask(what string) (r Report, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := fmt.Fprintln(e.in, what); err != nil {
		return r, fmt.Errorf("ask an end of a crowd: %w", err)
	}
	if !e.out.Scan() {
		return r, errors.New("an end of a crowd has ended early")
	}
	return r, json.Unmarshal(e.out.Bytes(), &r)
}

// Close ends the process. It can be repeated.
func (e *End) Close() {
	e.in.Close()
	if e.cmd.Process != nil {
		e.cmd.Process.Kill()
		e.cmd.Wait()
	}
}
