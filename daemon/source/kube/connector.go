package kube

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/internal/api"
)

// connector is the way to the API servers: an [http.RoundTripper] that finds one that
// answers. It is safe for concurrent use.
type connector struct {
	opts Options
	log  *slog.Logger
	turn chan struct{} // of size 1: full while somebody connects

	mu       sync.Mutex
	conns    []*connection
	last     Server               // the one that answered last
	failedAt map[string]time.Time // when servers failed that have not answered since
	learnt   []Server             // who they are, as the API said last
	tried    []attempt            // why nobody can be reached
	since    time.Time            // of tried; zero: somebody can
	// unwritten: learnt is not in its file.
	unwritten bool
}

// attempt is a try that failed. The zero Server is all of them.
type attempt struct {
	server Server
	err    error
}

func newConnector(o Options) (*connector, error) {
	learnt, err := readLearnt(o.StateFile)
	return &connector{opts: o, log: o.Log, turn: make(chan struct{}, 1), failedAt: map[string]time.Time{}, learnt: learnt}, err
}

// free reserves room on a connection that has some; nil: there is none. Those that have
// ended are forgotten.
func (c *connector) free() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(conn *connection) bool {
		ended := conn.Err() != nil
		if ended {
			c.failedAt[conn.server.Address] = time.Now()
		}
		return ended
	})
	for _, conn := range c.conns {
		if conn.Reserve() == nil {
			return conn
		}
	}
	return nil
}

func (c *connector) add(conn *connection) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return conn
}

// leave has new requests go elsewhere, because the server of this connection does not
// answer as it should. What is under way there goes on.
func (c *connector) leave(server Server, why error) {
	var left []*connection
	c.mu.Lock()
	c.conns = slices.DeleteFunc(c.conns, func(conn *connection) bool {
		is := conn.server == server
		if is {
			left = append(left, conn)
		}
		return is
	})
	c.failedAt[server.Address] = time.Now()
	c.mu.Unlock()
	c.log.Debug("leave API server", "server", server.Address, "err", why)
	for _, conn := range left {
		closeIdle := func(conn *http.ClientConn) {
			if conn.InFlight() == 0 {
				conn.Close()
			}
		}
		conn.SetStateHook(closeIdle)
		closeIdle(conn.ClientConn)
	}
}

func (c *connector) failed(s Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failedAt[s.Address] = time.Now()
}

// answered notes who did.
func (c *connector) answered(s Server) {
	c.mu.Lock()
	since := c.since
	changed := c.last != s || !since.IsZero()
	c.last, c.since, c.tried = s, time.Time{}, nil
	delete(c.failedAt, s.Address)
	c.mu.Unlock()
	if !changed {
		return
	}
	args := []any{"server", s.Address}
	if !since.IsZero() {
		args = append(args, "after", time.Since(since).Round(time.Millisecond))
	}
	c.log.Info("API server answers", args...)
}

// unreachable says that all servers were tried in vain.
func (c *connector) unreachable(tried []attempt) {
	c.mu.Lock()
	fresh := c.since.IsZero()
	if fresh {
		c.since = time.Now()
	}
	c.tried = tried
	text := c.text()
	c.mu.Unlock()
	if fresh {
		c.log.Warn("no API server can be reached, trying on", "err", text)
	}
}

func (c *connector) text() string {
	var texts []string
	for _, t := range c.tried {
		if t.server == (Server{}) {
			texts = append(texts, t.err.Error())
			continue
		}
		texts = append(texts, t.server.Address+": "+t.err.Error())
	}
	return strings.Join(texts, "; ")
}

// problem is that no API server can be reached, if so.
func (c *connector) problem() []api.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return nil
	}
	return []api.Problem{{
		What: ProblemAPI, Since: c.since,
		Text: fmt.Sprintf("no API server can be reached; what was known stays in force. Tried: %s", c.text()),
	}}
}

// close ends all connections.
func (c *connector) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}
