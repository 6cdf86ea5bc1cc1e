package testkube

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// apiName is the name that all API servers have.
const apiName = "kubernetes.default.svc"

// Server is one API server.
type Server struct {
	Addr string // with its port

	http   *http.Server
	sent   atomic.Uint64
	mu     sync.Mutex
	frozen chan struct{} // not nil: nothing gets in or out until it is closed
	conns  map[net.Conn]bool
}

// Serve starts an API server on a port of 127.0.0.1. Its certificate has these names and
// addresses; without any, that by which pods know the API. It ends with the test.
func (c *Cluster) Serve(names ...string) *Server {
	c.t.Helper()
	for range 100 {
		// A port that the kernel gives to nobody who lets it choose (ip(7), ip_local_port_range):
		// when the server has ended, it is free for another, or nobody's.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.N(15_000)))
		if err == nil {
			return c.ServeBy(l, names...)
		}
	}
	c.t.Fatal("found no free port")
	return nil
}

// ServeOn is Serve at an address.
func (c *Cluster) ServeOn(addr string, names ...string) *Server {
	c.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.ServeBy(l, names...)
}

// ServeBy is Serve by a listener, of another network namespace perhaps.
func (c *Cluster) ServeBy(l net.Listener, names ...string) *Server {
	c.t.Helper()
	if len(names) == 0 {
		names = []string{"kubernetes", apiName}
	}
	s := &Server{Addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	s.http = &http.Server{
		Handler: c, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{c.pki.issue(c.t, names...)},
			ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: c.pki.pool(),
			NextProtos: []string{"h2", "http/1.1"},
		},
	}
	c.mu.Lock()
	if c.options.HTTP1 {
		s.http.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		s.http.TLSConfig.NextProtos = []string{"http/1.1"}
	}
	c.mu.Unlock()
	go func() { _ = s.http.ServeTLS(&listener{l, s}, "", "") }()
	c.t.Cleanup(s.Stop)
	return s
}

// Stop ends the server and all its connections.
func (s *Server) Stop() {
	s.Thaw()
	s.http.Close()
}

// Freeze makes the server a black hole: connections are taken and stay, but nothing comes
// of them.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen = make(chan struct{})
	}
}

// Thaw ends that.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

// Cut ends all connections; the server takes new ones.
func (s *Server) Cut() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
}

// Conns is how many connections there are.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Sent is how many bytes clients were sent so far, as TLS has them.
func (s *Server) Sent() uint64 { return s.sent.Load() }

type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &conn{c, l.s}
	l.s.mu.Lock()
	l.s.conns[conn] = true
	l.s.mu.Unlock()
	return conn, nil
}

type conn struct {
	net.Conn
	s *Server
}

func (c *conn) wait() {
	c.s.mu.Lock()
	frozen := c.s.frozen
	c.s.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wait()
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	c.wait()
	n, err := c.Conn.Write(b)
	c.s.sent.Add(uint64(n))
	return n, err
}

func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// ServiceAccount fills a folder as the kubelet does for a pod, and lets the token in.
func (c *Cluster) ServiceAccount(dir, token string) {
	c.t.Helper()
	c.Allow(token, true)
	c.write(filepath.Join(dir, "token"), token)
	c.write(filepath.Join(dir, "ca.crt"), string(c.pki.pem))
}

// Kubeconfig writes one for a server, host:port, with the token if it is not "".
func (c *Cluster) Kubeconfig(path, server, token string) {
	c.t.Helper()
	user := ""
	if token != "" {
		c.Allow(token, true)
		user = "token: " + token
	}
	c.kubeconfig(path, server, user)
}

// KubeconfigWithCertificate writes one whose user has a client certificate.
func (c *Cluster) KubeconfigWithCertificate(path, server string) {
	c.t.Helper()
	cert, key := c.pki.issuePEM(c.t, "node-a")
	c.kubeconfig(path, server, fmt.Sprintf("client-certificate-data: %s, client-key-data: %s",
		base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key)))
}

func (c *Cluster) kubeconfig(path, server, user string) {
	c.t.Helper()
	authority := path + ".ca.crt"
	c.write(authority, string(c.pki.pem))
	c.write(path, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: u, user: {%s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server, filepath.Base(authority), user))
}

// write replaces a file at once, as the kubelet does.
func (c *Cluster) write(path, text string) {
	c.t.Helper()
	err := os.WriteFile(path+".tmp", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
