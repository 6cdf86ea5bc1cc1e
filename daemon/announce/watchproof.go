package announce

import (
	"slices"
	"time"
)

// A node that another does not answer may be cut off itself, and not have asked anybody else since.
// So whoever misses a question is asked in one step with others, and is believed lost when these
// answer. If nobody does that has ever answered, all are lost at once.

const (
	// witnesses is how many nodes that miss nothing are asked beside each that does and of which
	// nobody has told; witnessesAtOnce bounds them in one step, silentBudget how many are asked
	// a second that are dead and not believed lost.
	witnesses       = 2
	witnessesAtOnce = 100
	silentBudget    = 1000
	// fewAnswer: a witness that misses counts where fewer than one of so many that were asked with
	// it answered. A few that are cut off together answer each other.
	fewAnswer = 8
	// proof is how many questions somebody has missed while another answered who is believed lost
	// without another's word.
	proof = 2
	// blindMost is how many somebody may miss while nobody answered before it is rather this node
	// that is cut off. When it is not any more, nobody is believed lost for settleAgain: the
	// kernel may not know any more at which MACs the others are, and asks once a second.
	blindMost   = 1
	settleAgain = 1300 * time.Millisecond
)

// unproven says that the node does not answer, and why is not known yet.
func (n *other) unproven() bool {
	return n.heard && !n.lost && n.missed > 0 && n.told.IsZero() && n.seen < proof
}

// expire counts what those that are asked have not answered in time.
func (w *Watch) expire(now time.Time, asked []string) {
	for _, name := range asked {
		n := w.nodes[name]
		blind := n.missed - n.seen
		if n.expire(now); n.unproven() && n.missed-n.seen > max(blind, blindMost) {
			w.blind = now
		}
	}
}

// turn finds out who of those that are asked is lost that was not, or is not any more.
func (w *Watch) turn(now time.Time, asked []string) (turned []string) {
	w.silent = 0
	for _, name := range asked {
		if n := w.nodes[name]; n.heard && n.state == dead && !n.lost {
			w.silent++
		}
	}
	nobody := w.silent > 0 && !slices.ContainsFunc(w.ring, func(n *other) bool {
		return n.heard && n.state != dead
	})
	settled := now.Sub(w.blind) >= settleAgain
	for _, name := range asked {
		n := w.nodes[name]
		proven := n.lost || nobody || settled && n.seen >= proof
		told := !n.told.IsZero() && now.Sub(n.told) < wordFor
		if gone := n.state == dead && (n.heard && proven || told); gone != n.lost {
			n.lost = gone
			turned = append(turned, name)
		}
	}
	return turned
}

// witness asks others beside those of whom is to be proven that it is they that do not answer: those
// that are furthest on the ring, as the next ones may be what is silent.
func (w *Watch) witness(send []Message, now time.Time, unproven int, b *batch) []Message {
	many := min(unproven*witnesses, witnessesAtOnce)
	for _, n := range slices.Backward(w.ring) {
		if many == 0 {
			break
		}
		if !n.heard || n.lost || n.missed > 0 {
			continue
		}
		many--
		if k := len(n.rounds); k == 0 || n.rounds[k-1].batch != b {
			w.asked[n.name] = struct{}{}
			send = w.ask(send, now, n, b)
			n.rounds[len(n.rounds)-1].witness = true
		}
	}
	return send
}
