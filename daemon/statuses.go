package daemon

import (
	"context"
	"sync"

	"github.com/weftnet/weft/internal/api"
)

// statuses is the changes of attachments that are not in the source's status folder
// yet. They are written beside the CNI calls: no runtime waits for a file that only
// other nodes read. What a crash leaves unwritten the next start writes
// ([source.Dir.SyncPods]).
type statuses struct {
	mu      sync.Mutex
	changes []change
	more    chan struct{} // of size 1: there is something in changes
}

type change struct {
	endpoint api.Endpoint
	gone     bool
}

func newStatuses() *statuses { return &statuses{more: make(chan struct{}, 1)} }

// put notes a change. It does not wait.
func (s *statuses) put(e api.Endpoint, gone bool) {
	s.mu.Lock()
	s.changes = append(s.changes, change{e, gone})
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *statuses) take() []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.changes
	s.changes = nil
	return all
}

// writeStatuses writes what changes, in the order in which it does, until ctx is done.
func (n *node) writeStatuses(ctx context.Context) error {
	for {
		n.flushStatuses()
		select {
		case <-ctx.Done():
			return nil
		case <-n.statuses.more:
		}
	}
}

func (n *node) flushStatuses() {
	for _, c := range n.statuses.take() {
		if err := n.source.WritePod(c.endpoint, c.gone); err != nil {
			n.log.Debug("write status file, will retry", "err", err, "pod", c.endpoint.PodName)
		}
	}
}
