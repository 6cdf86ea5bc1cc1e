package kube

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

const (
	// apiName is a name that the certificate of every API server has, whatever its
	// address: the one by which pods know it.
	apiName = "kubernetes.default.svc"
	// defaultPort is that of an API server which is given without one and without a
	// scheme (kube-apiserver --secure-port).
	defaultPort = "6443"
)

// Server is one API server.
type Server struct {
	Address string // host:port
	// Name is the one that its certificate must have. If it has not, apiName will do.
	Name string
}

// ParseServers reads a list of API servers, separated by commas: https://HOST[:PORT] (port
// 443 if there is none), HOST:PORT or HOST (port 6443).
func ParseServers(list string) ([]Server, error) {
	var out []Server
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		s, err := parseServer(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func parseServer(text string) (Server, error) {
	if strings.Contains(text, "://") {
		return parseURL(text)
	}
	host, port := text, defaultPort
	if net.ParseIP(text) == nil && strings.Contains(text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return Server{}, fmt.Errorf("%q is not HOST:PORT: %w", text, err)
		}
	}
	return newServer(text, host, port)
}

// parseURL reads the server of a kubeconfig.
func parseURL(text string) (Server, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return Server{}, fmt.Errorf("%q is not a URL: %w", text, err)
	case u.Scheme != "https":
		return Server{}, fmt.Errorf("%q: only https is spoken: write https://HOST:PORT", text)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return Server{}, fmt.Errorf("%q is more than https://HOST:PORT: API servers below a path are not supported", text)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return newServer(text, u.Hostname(), port)
}

func newServer(text, host, port string) (Server, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Server{}, fmt.Errorf("%q: %q is not a port (1 to 65535)", text, port)
	}
	if host == "" || strings.ContainsAny(host, " /?#@") {
		return Server{}, fmt.Errorf("%q names no host: write https://HOST:PORT or HOST:PORT", text)
	}
	return Server{Address: net.JoinHostPort(host, port), Name: host}, nil
}
