package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testkube"
)

// madeAPI is a made Kubernetes API for the daemon of one node.
type madeAPI struct {
	*testkube.Cluster
	server *testkube.Server
	undo   []func()
}

// apiError is what a made API cannot do; it is a panic until made recovers it.
type apiError struct{ text string }

// Helper, Fatal and Cleanup are testkube.TB.
func (a *madeAPI) Helper()           {}
func (a *madeAPI) Fatal(args ...any) { panic(apiError{fmt.Sprint(args...)}) }
func (a *madeAPI) Cleanup(f func())  { a.undo = append(a.undo, f) }

func (a *madeAPI) close() {
	for _, f := range slices.Backward(a.undo) {
		f()
	}
}

// newMadeAPI serves an API in a node's namespace, and returns the flags by which its daemon
// uses it.
func newMadeAPI(n *cluster.Node) (a *madeAPI, flags []string, err error) {
	a = &madeAPI{}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case apiError:
			err = errors.New("serve a made API: " + r.text)
		default:
			panic(r)
		}
	}()
	var l net.Listener
	if err := n.NS.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		return a, nil, fmt.Errorf("serve a made API: %w", err)
	}
	a.Cleanup(func() { l.Close() })
	a.Cluster = testkube.NewCluster(a)
	a.server = a.ServeBy(l)
	path := filepath.Join(n.Dir, "api.kubeconfig")
	a.Kubeconfig(path, a.server.Addr, "token")
	a.Put(selfNode(n))
	return a, []string{"--source", "kube:" + path}, nil
}
