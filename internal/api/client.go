package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// ErrNoDaemon says that the daemon gave no answer: it does not run, ended in the
// middle of the call, or was too slow for the context. Whether it did what it was
// asked is unknown. The error wraps the cause, for example [io/fs.ErrPermission].
var ErrNoDaemon = errors.New("no answer from the daemon")

// maxAnswer bounds what a client reads of an answer, in bytes.
const maxAnswer = 64 << 20

// Client calls the daemon. It keeps no connection, and is safe for concurrent use.
// Every method returns an [*Error] when the daemon refused, and an error that wraps
// [ErrNoDaemon] when it did not answer. The server's side is package server.
//
// It speaks HTTP/1.0 by hand instead of through net/http: the plugin is started for
// every pod, and net/http would double its size.
type Client struct{ socket string }

// NewClient returns a client of the daemon at a unix socket.
func NewClient(socket string) *Client { return &Client{socket: socket} }

// Add attaches a container and returns the CNI result, of version 1.1.0.
func (c *Client) Add(ctx context.Context, a Attach) (json.RawMessage, error) {
	var result json.RawMessage
	return result, c.call(ctx, PathAdd, a, &result)
}

// Del detaches a container. It succeeds when there is nothing to detach.
func (c *Client) Del(ctx context.Context, a Attach) error { return c.call(ctx, PathDel, a, nil) }

// Check returns an error that names what of an attachment is missing.
func (c *Client) Check(ctx context.Context, a Attach) error { return c.call(ctx, PathCheck, a, nil) }

// GC detaches all containers of a network but the valid ones.
func (c *Client) GC(ctx context.Context, g GC) error { return c.call(ctx, PathGC, g, nil) }

// CNIStatus returns nil if the daemon can serve Add.
func (c *Client) CNIStatus(ctx context.Context) error { return c.call(ctx, PathCNIStatus, nil, nil) }

// Status returns the state of the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, PathStatus, nil, &s)
}

// Endpoints returns the pod interfaces of the node.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	var e []Endpoint
	return e, c.call(ctx, PathEndpoints, nil, &e)
}

// Nodes returns the nodes that the daemon knows.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var n []Node
	return n, c.call(ctx, PathNodes, nil, &n)
}

// call posts in, or gets if in is nil, and decodes the answer into out unless nil.
func (c *Client) call(ctx context.Context, path string, in, out any) error {
	code, answer, err := c.roundTrip(ctx, path, in)
	if err != nil {
		return err
	}
	if code >= 400 {
		return refused(path, code, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		// An answer without a length ends where the daemon did.
		return fmt.Errorf("%w: read answer: %w", ErrNoDaemon, err)
	}
	return nil
}

// refused is the error of an answer with such a status.
func refused(path string, code int, answer []byte) error {
	var e Error
	if err := json.Unmarshal(answer, &e); err != nil || e.Msg == "" {
		return &Error{Code: CodeInternal, Msg: fmt.Sprintf("daemon answered %s with HTTP status %d", path, code)}
	}
	return &e
}

func (c *Client) roundTrip(ctx context.Context, path string, in any) (int, []byte, error) {
	request, err := encode(path, in)
	if err != nil {
		return 0, nil, err
	}
	code, answer, err := c.exchange(ctx, request)
	if err == nil {
		return code, answer, nil
	}
	return 0, nil, c.noAnswer(ctx, err)
}

// noAnswer is the error of a call that err has ended.
func (c *Client) noAnswer(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err() // says more than the closed connection it caused
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("%w at %s: %w", ErrNoDaemon, c.socket, err)
}

func encode(path string, in any) ([]byte, error) {
	if in == nil {
		return []byte("GET " + path + " HTTP/1.0\r\nHost: weftd\r\n\r\n"), nil
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.0\r\nHost: weftd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	b.Write(body)
	return b.Bytes(), nil
}

func (c *Client) exchange(ctx context.Context, request []byte) (int, []byte, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// A daemon that refuses early may close before it has read all; what it
	// answered is there nevertheless.
	_, writeErr := conn.Write(request)
	code, answer, err := readAnswer(conn)
	if err != nil && writeErr != nil {
		err = writeErr
	}
	return code, answer, err
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.socket)
}

// readAnswer reads an HTTP/1.x answer that ends with its Content-Length, or else
// with the connection (RFC 1945, section 7.2.2).
func readAnswer(r io.Reader) (int, []byte, error) {
	br := bufio.NewReader(io.LimitReader(r, maxAnswer))
	code, length, err := readHead(br)
	if err != nil {
		return 0, nil, err
	}
	body, err := readBody(br, length)
	return code, body, err
}

// readHead reads an answer's status and headers; length is -1 if they do not tell it.
func readHead(br *bufio.Reader) (code, length int, err error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return 0, 0, err
	}
	proto, rest, _ := strings.Cut(line, " ")
	if !strings.HasPrefix(proto, "HTTP/1.") || len(rest) < 3 {
		return 0, 0, fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	if code, err = strconv.Atoi(rest[:3]); err != nil {
		return 0, 0, fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	length = -1
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return 0, 0, fmt.Errorf("read headers: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return code, length, nil
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || length < 0 || length > maxAnswer {
				return 0, 0, fmt.Errorf("bad Content-Length %.40q", value)
			}
		}
	}
}

// readBody reads an answer's body to its end, and says if it is not of that length.
func readBody(r io.Reader, length int) ([]byte, error) {
	body, err := io.ReadAll(r)
	if err == nil && length >= 0 && len(body) != length {
		err = fmt.Errorf("answer has %d bytes of %d: %w", len(body), length, io.ErrUnexpectedEOF)
	}
	return body, err
}
