package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/internal/crash"
)

// learntFile is the form of the file of API servers that were learnt.
type learntFile struct {
	Servers []string `json:"servers"` // host:port
}

// readLearnt reads who the API servers were last. No file is no servers.
func readLearnt(path string) ([]Server, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil, nil
	}
	var f learntFile
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return nil, fmt.Errorf("read the API servers that were known last: %w", err)
	}
	var out []Server
	for _, a := range f.Servers {
		out = append(out, Server{Address: a, Name: apiName})
	}
	return out, nil
}

// writeLearnt writes them, at once for every reader. Even a crash of the machine leaves
// the former file or the new one: they may be all that leads to the API.
func writeLearnt(path string, servers []Server) (err error) {
	var out learntFile
	for _, s := range servers {
		out.Servers = append(out.Servers, s.Address)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encode API servers: %w", err)
	}
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write API servers: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		crash.Point("kube: write servers")
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write API servers: %w", errors.Join(err, os.RemoveAll(temp)))
	}
	crash.Point("kube: rename servers")
	return nil
}

// learn takes up who the API servers are, and keeps it for the next start. None at all
// is not believed: who says so is one.
func (c *connector) learn(servers []Server) error {
	c.mu.Lock()
	known := len(servers) == 0 || (slices.Equal(servers, c.learnt) && !c.unwritten)
	if !known {
		c.learnt = servers
	}
	c.mu.Unlock()
	if known || c.opts.StateFile == "" {
		return nil
	}
	c.log.Info("API servers", "servers", servers)
	err := writeLearnt(c.opts.StateFile, servers)
	c.mu.Lock()
	c.unwritten = err != nil
	c.mu.Unlock()
	return err
}

// isOwn says whether a slice is of the Service of the API servers themselves.
func isOwn(e *discoveryv1.EndpointSlice) bool {
	return e.Namespace == metav1.NamespaceDefault && e.Labels[discoveryv1.LabelServiceName] == "kubernetes"
}

// serversIn is the API servers in a slice of their Service.
func serversIn(e *discoveryv1.EndpointSlice) []Server {
	i := slices.IndexFunc(e.Ports, func(p discoveryv1.EndpointPort) bool {
		return p.Port != nil && p.Name != nil && *p.Name == "https"
	})
	if i < 0 {
		return nil
	}
	var out []Server
	for _, end := range e.Endpoints {
		ready := end.Conditions.Ready == nil || *end.Conditions.Ready
		if !ready || len(end.Addresses) == 0 || net.ParseIP(end.Addresses[0]) == nil {
			continue
		}
		out = append(out, Server{Address: net.JoinHostPort(end.Addresses[0], strconv.Itoa(int(*e.Ports[i].Port))), Name: apiName})
	}
	return out
}
