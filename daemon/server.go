package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/api/server"
	"golang.org/x/sync/errgroup"
)

const (
	// grace is what calls under way have when the daemon is told to end. What takes
	// longer is cut off, as by a crash, and completed or removed after the next start.
	grace = 5 * time.Second
	// readTimeout bounds how long a request may take to arrive.
	readTimeout = 10 * time.Second
)

// serve answers on the socket, and on the metrics address if there is one, until ctx
// is done.
func (n *node) serve(ctx context.Context, dp *bpf.Datapath, pods *endpoint.Manager) error {
	l, err := listen(n.cfg.Socket)
	if err != nil {
		return err
	}
	var forMetrics net.Listener
	if n.cfg.MetricsAddress != "" {
		if forMetrics, err = net.Listen("tcp", n.cfg.MetricsAddress); err != nil {
			l.Close()
			return fmt.Errorf("metrics-address: %w: choose an address of this node and a port that is free", err)
		}
	}
	m := newMetrics(n, dp)
	info := &info{node: n, dp: dp, pods: pods, flowCounts: flowCounts{count: dp.BackendFlows}}
	handler := server.Handler(&cni{pods: pods, metrics: m, log: n.log, called: &n.called}, info, m.handler())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveOn(ctx, l, handler) })
	if forMetrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET "+api.PathMetrics, m.handler())
		group.Go(func() error { return serveOn(ctx, forMetrics, mux) })
	}
	return group.Wait()
}

// serveOn serves until ctx is done, then lets calls under way finish.
func serveOn(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadTimeout: readTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // a client that went away is no news
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		soon, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		err := s.Shutdown(soon)
		if err != nil {
			err = s.Close()
		}
		ended <- err
	})
	err := s.Serve(l)
	if !stop() {
		err = <-ended
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// listen makes the socket, for root alone, in the place of one that nobody serves any
// more. The daemon's lock is held, so two cannot race here.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of the socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%w: somebody answers at %s", errRunning, path)
	}
	if i, err := os.Lstat(path); err == nil && i.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("make socket: %s exists and is no socket: remove it, or set socket to another path", path)
	}
	// Under another name until its mode is right: at no time may others connect. The
	// rename replaces a stale socket without a gap.
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // its successor may already have replaced it
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("make socket: %w", err)
	}
	return l, nil
}

// cni counts the plugin's calls and logs those that fail.
type cni struct {
	pods    *endpoint.Manager
	metrics *metrics
	log     *slog.Logger
	called  *atomic.Int64
}

var _ server.CNI = (*cni)(nil)

func (c *cni) done(verb string, a api.Attach, start time.Time, err error) {
	c.called.Store(time.Now().UnixNano())
	c.metrics.done(verb, start, err)
	if err != nil {
		c.log.Warn("cni call", "verb", verb, "pod", a.PodNamespace+"/"+a.PodName, "ifname", a.IfName, "err", err)
		return
	}
	c.log.Debug("cni call", "verb", verb, "pod", a.PodNamespace+"/"+a.PodName, "ifname", a.IfName, "took", time.Since(start))
}

func (c *cni) Add(ctx context.Context, a api.Attach) (*types100.Result, error) {
	start := time.Now()
	r, err := c.pods.Add(ctx, a)
	c.done("add", a, start, err)
	return r, err
}

func (c *cni) Del(ctx context.Context, a api.Attach) error {
	start := time.Now()
	err := c.pods.Del(ctx, a)
	c.done("del", a, start, err)
	return err
}

func (c *cni) Check(ctx context.Context, a api.Attach) error {
	start := time.Now()
	err := c.pods.Check(ctx, a)
	c.done("check", a, start, err)
	return err
}

func (c *cni) GC(ctx context.Context, g api.GC) error {
	start := time.Now()
	err := c.pods.GC(ctx, g)
	c.done("gc", api.Attach{}, start, err)
	return err
}

// Status is asked every few seconds, so it is not logged.
func (c *cni) Status() error {
	start := time.Now()
	err := c.pods.Status()
	c.metrics.done("status", start, err)
	return err
}

// codeOf is the CNI error code of a call's end, as a label.
func codeOf(err error) string {
	if err == nil {
		return "0"
	}
	code := uint(api.CodeInternal)
	if e := (*api.Error)(nil); errors.As(err, &e) {
		code = e.Code
	}
	return strconv.FormatUint(uint64(code), 10)
}

// info is what the CLI is shown.
type info struct {
	node *node
	dp   *bpf.Datapath
	pods *endpoint.Manager

	flowCounts flowCounts
}

var _ server.Info = (*info)(nil)

func (i *info) Nodes() []api.Node { return i.node.nodes() }
func (i *info) Services(name string) ([]api.Service, error) {
	list, err := i.node.services.show(name)
	if err != nil || name == "" {
		return list, err
	}
	return list, i.addFlows(list, i.dp.BackendFlows)
}

func (i *info) Drops() []api.Drop {
	list, _, _ := i.node.drops.since(0)
	return nameDrops(i.node.source.Snapshot(), list)
}

func (i *info) WatchDrops(ctx context.Context, each func([]api.Drop) error) {
	i.node.drops.watch(ctx, func(list []api.Drop) error {
		return each(nameDrops(i.node.source.Snapshot(), list))
	})
}

func (i *info) Policies() []api.Policy                        { return i.node.policies.show() }
func (i *info) PodPolicy(pod string) ([]api.PodPolicy, error) { return i.node.policies.showPod(pod) }

func (i *info) Explain(r api.ExplainRequest) (api.Explanation, error) { return i.node.explain(i.dp, r) }

func (i *info) Endpoints() []api.Endpoint { return i.pods.List() }

func (i *info) Status() api.Status {
	n := i.node
	offer := n.net()
	s := api.Status{
		Node: n.cfg.NodeName, Version: api.Version, Since: n.since, Ready: offer.Ready == nil,
		Problems: n.allProblems(), Source: n.cfg.Source, Synced: n.source.Snapshot().Complete,
		Overlay: n.cfg.Overlay, Layout: i.dp.Layout(), MTU: offer.MTU,
		Peers: n.peerCount(), Reach: n.reaches(), Pods: len(i.pods.List()),
		Pools: []api.Pool{}, Counters: []api.Counter{}, Tables: []api.Table{},
	}
	for _, p := range n.pools.Pools() {
		size := "0"
		if p.Size != nil {
			size = p.Size.String()
		}
		s.Pools = append(s.Pools, api.Pool{Prefix: p.Prefix, Used: p.Used, Cooling: p.Cooling, Size: size})
	}
	counters, err := i.dp.Counters()
	if err != nil {
		s.Problems = append(s.Problems, api.Problem{What: problemTable, Text: err.Error(), Since: time.Now()})
	}
	for _, c := range counters {
		if c.Count > 0 {
			s.Counters = append(s.Counters, api.Counter{Kind: c.Kind, Reason: c.Reason, Count: c.Count})
		}
	}
	for _, t := range n.tables.shown() {
		st := t.Stats()
		row := api.Table{Name: st.Name, Rows: st.Rows, Repairs: st.Repairs}
		if st.Err != nil {
			row.Error = st.Err.Error()
		}
		s.Tables = append(s.Tables, row)
	}
	return s
}
