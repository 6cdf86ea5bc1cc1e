package daemon

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weftnet/weft/daemon/announce"
)

// look asks the nodes that are to be asked now whether they are there, and says in the
// tables of Services who is lost.
func (a *announcer) look(now time.Time) {
	if a.watchAt.IsZero() || now.Before(a.watchAt) {
		return
	}
	send, changed := a.watch.Step(now)
	a.send(send)
	a.watchAt = time.Time{}
	if wait := a.watch.Wait(); wait > 0 {
		a.watchAt = now.Add(wait)
	}
	if !changed {
		return
	}
	lost := a.watch.Lost()
	a.lose(lost, a.watch.CutOff())
	a.problems.sum(problemNodeLost, names("no answer from %s any more: new connections go to pods of other nodes, where there are some; "+
		fmt.Sprintf("is the machine down, or cut off, or does anything between drop UDP port %d?", a.cfg.announcePort()), slices.Sorted(maps.Keys(lost))))
}

// lose takes up which other nodes are lost, and that it is rather this node that is cut off. The
// map is not to be changed any more.
func (n *node) lose(lost map[string]bool, cutOff bool) {
	n.mu.Lock()
	for name, e := range n.book.entries {
		e.reach.lost = lost[name]
	}
	n.mu.Unlock()
	n.lostNodes.Store(int64(len(lost)))
	n.services.setLost(lost, cutOff)
}

// send sends datagrams to other nodes.
func (a *announcer) send(messages []announce.Message) {
	for _, m := range messages {
		if from, ok := a.known.from[m.To]; ok {
			a.sockets.send(from, m.To, m.Datagram)
		}
	}
}
