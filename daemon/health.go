package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
)

// Paths of the health port.
const (
	pathLive  = "/livez"
	pathReady = "/readyz"
)

// serveHealthPort answers the kubelet on the node's loopback address until ctx is
// done; nowhere without a health-port. An answer is one line. It costs no process, as a
// command in the container would.
func (n *node) serveHealthPort(ctx context.Context) error {
	if n.cfg.HealthPort == 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(n.cfg.HealthPort))))
	if err != nil {
		return fmt.Errorf("health-port: %w: set it to a port that is free on all nodes", err)
	}
	return serveOn(ctx, l, n.healthHandler())
}

// healthHandler answers /livez if the daemon is not stuck, and /readyz if pods can be
// attached: the data path has passed its self-test and is in force, and the runtime has
// been told of us. Neither asks the API server: that it is away is no reason to restart.
func (n *node) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathLive, func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock() // whoever holds it for ever has stopped the daemon
		defer n.mu.Unlock()
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET "+pathReady, func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// ready says why pods cannot be attached to this node.
func (n *node) ready() error {
	if err := n.net().Ready; err != nil {
		return err
	}
	if !n.installed.Load() {
		return fmt.Errorf("the CNI binary and configuration are not written yet, see `weft status`")
	}
	return nil
}
