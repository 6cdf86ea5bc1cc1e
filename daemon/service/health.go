package service

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what a health check port costs: anybody can reach it.
const (
	healthTimeout = 5 * time.Second  // of a request, and of its answer
	healthIdle    = 30 * time.Second // of a connection without one
	healthConns   = 128              // connections of a listener; more wait
)

// Health is what the health check of a Service tells a load balancer
// (spec.healthCheckNodePort).
type Health struct {
	Namespace, Name string
	Port            uint16 // of this node
	Local           int    // endpoints that are ready on this node
}

// HealthServer answers the health checks of Services as kube-proxy does: 200 if this
// node has endpoints that are ready, 503 if not, and how many. The zero value is ready
// for use; its methods may be called at any time.
type HealthServer struct {
	// Healthy says whether this node serves Services at all; nil: it does. If not, all
	// answers are 503. It is called without locks held.
	Healthy func() bool

	mu   sync.Mutex
	open map[netip.AddrPort]*healthPort
}

type healthPort struct {
	server  *http.Server
	tells   atomic.Pointer[Health]
	healthy func() bool
	done    chan struct{} // closed when no longer served
}

// Set makes the ports of want, by whatever key, be served on addrs, and no others. It
// returns why some are not, by address; what did not succeed is tried again when Set is
// called again. If two want the same port, the smaller key has it.
func (h *HealthServer) Set(addrs []netip.Addr, want map[string]Health) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var problems []string
	ports := map[uint16]Health{}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		to := want[key]
		if has, taken := ports[to.Port]; taken {
			problems = append(problems, fmt.Sprintf("health check port %d of %s/%s: it is that of %s/%s",
				to.Port, to.Namespace, to.Name, has.Namespace, has.Name))
			continue
		}
		ports[to.Port] = to
	}
	for at, p := range h.open {
		if _, wanted := ports[at.Port()]; !wanted || !slices.Contains(addrs, at.Addr()) {
			p.close()
			delete(h.open, at)
		}
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		for _, addr := range addrs {
			if err := h.serve(netip.AddrPortFrom(addr, port), ports[port]); err != nil {
				problems = append(problems, fmt.Sprintf("health check port %d of %s/%s: %v",
					port, ports[port].Namespace, ports[port].Name, err))
			}
		}
	}
	return problems
}

// Close ends all listeners and connections.
func (h *HealthServer) Close() { h.Set(nil, nil) }

func (h *HealthServer) serve(at netip.AddrPort, tells Health) error {
	if p, ok := h.open[at]; ok {
		select {
		case <-p.done: // by an error
		default:
			p.tells.Store(&tells)
			return nil
		}
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return err
	}
	p := &healthPort{healthy: h.Healthy, done: make(chan struct{})}
	p.tells.Store(&tells)
	p.server = &http.Server{
		Handler:     p,
		ReadTimeout: healthTimeout, WriteTimeout: healthTimeout, IdleTimeout: healthIdle,
		MaxHeaderBytes: 8192,
		ErrorLog:       log.New(io.Discard, "", 0), // of clients
	}
	if h.open == nil {
		h.open = map[netip.AddrPort]*healthPort{}
	}
	h.open[at] = p
	go func() {
		defer close(p.done)
		_ = p.server.Serve(&fewConns{Listener: l, room: make(chan struct{}, healthConns), closed: make(chan struct{})})
		_ = l.Close()
	}()
	return nil
}

func (p *healthPort) close() {
	_ = p.server.Close()
	<-p.done
}

func (p *healthPort) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	tells := p.tells.Load()
	healthy := p.healthy == nil || p.healthy()
	var body struct {
		Service struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
		LocalEndpoints      int  `json:"localEndpoints"`
		ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
	}
	body.Service.Namespace, body.Service.Name = tells.Namespace, tells.Name
	body.LocalEndpoints, body.ServiceProxyHealthy = tells.Local, healthy
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(tells.Local))
	if tells.Local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// fewConns is a listener that waits while too many of its connections are open.
type fewConns struct {
	net.Listener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *fewConns) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &fewConn{Conn: c, leave: func() { <-l.room }}, nil
}

func (l *fewConns) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type fewConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *fewConn) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}
