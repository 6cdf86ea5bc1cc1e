package kube

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"
)

const (
	// connectTimeout is how long one API server has to take a connection, TLS and all.
	connectTimeout = 3 * time.Second
	// A connection on which nothing came for pingAfter is asked for a sign of life, and
	// given up without one: 11 s after the last.
	pingAfter   = 6 * time.Second
	pingTimeout = 5 * time.Second
	// answerTimeout is how long an API server may take until it begins to answer. Webhooks
	// that it asks have 30 s at most (admissionregistration.k8s.io/v1, timeoutSeconds).
	answerTimeout = 35 * time.Second
	// The wait between two rounds through all servers.
	roundFirst = 250 * time.Millisecond
	roundMost  = 8 * time.Second
)

// connection is one to an API server. With HTTP/2 there is one for all requests; a server
// that does not speak it has one for each request under way.
type connection struct {
	*http.ClientConn
	server Server
	token  func() (string, error)
}

// RoundTrip sends a request to an API server. While none can be reached it waits for one,
// until the request's context is done.
func (c *connector) RoundTrip(req *http.Request) (*http.Response, error) {
	conn, err := c.reserve(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	caller := req.Context()
	ctx, cancel := context.WithCancelCause(caller)
	req = req.Clone(ctx)
	req.Header.Set("User-Agent", userAgent)
	if conn.token != nil {
		token, err := conn.token()
		if err != nil {
			conn.Release()
			closeBody(req)
			cancel(nil)
			return nil, fmt.Errorf("read token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	late := time.AfterFunc(answerTimeout, func() { cancel(errLate) })
	resp, err := conn.RoundTrip(req)
	late.Stop()
	if err != nil {
		if context.Cause(ctx) == errLate {
			err = errLate
		}
		cancel(nil)
		err = fmt.Errorf("API server %s: %w", conn.server.Address, err)
		if caller.Err() == nil {
			c.leave(conn.server, err)
		}
		return nil, err
	}
	c.answered(conn.server)
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusUnauthorized {
		c.leave(conn.server, errors.New(resp.Status))
	}
	resp.Body = body{resp.Body, cancel}
	return resp, nil
}

var errLate = fmt.Errorf("no answer within %s", answerTimeout)

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// body ends its request's context when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b body) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// reserve returns a connection with room for a request, a new one if there is none.
func (c *connector) reserve(ctx context.Context) (*connection, error) {
	if conn := c.free(); conn != nil {
		return conn, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if conn := c.free(); conn != nil { // somebody else connected meanwhile
		return conn, nil
	}
	for wait := roundFirst; ; wait = min(2*wait, roundMost) {
		if conn := c.round(ctx); conn != nil {
			return conn, nil
		}
		pause := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// round tries all API servers, until one takes a connection; nil: none did. There is room
// reserved on it.
func (c *connector) round(ctx context.Context) *connection {
	a, err := readAccess(c.opts)
	servers := c.candidates(a)
	if err == nil && len(servers) == 0 {
		err = a.missing
	}
	if err != nil {
		c.unreachable([]attempt{{err: err}})
		return nil
	}
	var tried []attempt
	for _, s := range servers {
		conn, err := dial(ctx, s, a)
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err == nil {
			if err = conn.Reserve(); err == nil {
				return c.add(&connection{conn, s, a.token})
			}
			conn.Close()
		}
		c.failed(s)
		tried = append(tried, attempt{s, err})
	}
	c.unreachable(tried)
	return nil
}

// dial makes a connection to one server. Its certificate must be signed by the cluster's
// authority and have the server's name or, as no list of names can be complete, the one
// that all API servers have. Who has such a certificate is an API server: kubelets and
// others that the same authority signs for do not get that name.
func dial(ctx context.Context, s Server, a access) (*http.ClientConn, error) {
	conn, err := dialAs(ctx, s.Address, s.Name, a)
	var name x509.HostnameError
	if errors.As(err, &name) && s.Name != apiName {
		return dialAs(ctx, s.Address, apiName, a)
	}
	return conn, err
}

func dialAs(ctx context.Context, address, name string, a access) (*http.ClientConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("no connection within %s", connectTimeout))
	defer cancel()
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: pingAfter, Interval: 2 * time.Second, Count: 3}}
	transport := &http.Transport{
		DialContext:       dialer.DialContext,
		ForceAttemptHTTP2: true,
		// The protocol buffers of one cluster's network are not worth the time.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{ServerName: name, RootCAs: a.roots, Certificates: a.certificates, MinVersion: tls.VersionTLS12},
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingAfter + pingTimeout},
	}
	conn, err := transport.NewClientConn(ctx, "https", address)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return conn, err
}

// candidates is the servers in the order in which they are tried: who failed last comes
// last, who was configured before who was learnt. Otherwise chance decides, so that all
// servers get their share of the nodes.
func (c *connector) candidates(a access) []Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	shuffled := func(in []Server) []Server {
		in = slices.Clone(in)
		rand.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		return in
	}
	var out []Server
	seen := map[string]bool{}
	for _, s := range append(shuffled(a.servers), shuffled(c.learnt)...) {
		if !seen[s.Address] {
			seen[s.Address] = true
			out = append(out, s)
		}
	}
	maps.DeleteFunc(c.failedAt, func(address string, _ time.Time) bool { return !seen[address] })
	slices.SortStableFunc(out, func(x, y Server) int {
		return cmp.Or(c.failedAt[x.Address].Compare(c.failedAt[y.Address]), -compareBool(x == c.last, y == c.last))
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
