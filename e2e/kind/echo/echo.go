// Package echo is the program by which scenarios see whether the network loses anything:
// a server that sends back what it gets, and a client that counts what does not come back.
// It is this program itself (see [Main]), also in the pods of [Image].
package echo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Port is the server's, of TCP and of UDP.
const Port = 7000

// The first arguments by which a process is one end.
const (
	Serve = "echo-serve" // answers until it is killed
	Send  = "echo-send"  // sends to the [Target]s of its first line (JSON) until there is another, or none; then writes its [Result]s
	Ask   = "echo-ask"   // asks the [Questions] of its first line (JSON) until its input ends; then writes the [Answers]
)

// Started is the first line that a client writes: it is connected to all its targets.
const Started = "started"

// Main turns the process into an end if it was started as one. It returns otherwise.
func Main() {
	if len(os.Args) != 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case Serve:
		err = serve(net.ListenConfig{Control: bigBuffer})
	case Send:
		err = send(os.Stdin, os.Stdout)
	case Ask:
		err = ask(os.Stdin, os.Stdout)
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// send is the client's life.
func send(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	order, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the targets: %w", err)
	}
	var targets []Target
	if err := json.Unmarshal(order, &targets); err != nil {
		return fmt.Errorf("read the targets: %w", err)
	}
	streams, err := start(targets)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, Started)
	if _, err := lines.ReadBytes('\n'); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the end: %w", err)
	}
	return json.NewEncoder(out).Encode(stop(streams))
}

// bigBuffer keeps a late reader from counting as a lost packet. It needs CAP_NET_ADMIN.
func bigBuffer(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	return errors.Join(err, set)
}
