package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/internal/pace"
	"github.com/weftnet/weft/internal/reconcile"
	"github.com/weftnet/weft/overlay"
)

const (
	// debounce is how long events are collected before something is done.
	debounce = 75 * time.Millisecond
	// serviceDebounce is the same for Services and policies, which may not wait for the
	// rest of a pass either. A change of theirs costs what changed, so that resting as long as it
	// took is enough.
	serviceDebounce = 2 * time.Millisecond
	// restFactor bounds the loop's share of a CPU under a storm of events, our own
	// among them: after a pass it rests this many times as long as the pass took.
	restFactor = 20
	restMost   = 3 * time.Second
	// calm is how long there must have been no CNI call before a pass that only
	// looks for drift, patience how long it waits for that at most: most events of a
	// burst of calls are their own, and reading tables holds the calls up.
	calm     = 300 * time.Millisecond
	patience = 3 * time.Second
	// prepareEvery is how long it takes until Services are compiled that the source has told of,
	// while it has not told all; each time twice as long, up to prepareSeldom.
	prepareEvery  = 500 * time.Millisecond
	prepareSeldom = 2 * time.Second
	// quickEvery is how often the tables are read of whose changes nobody tells.
	quickEvery = pace.Usual
	// wholeEvery is how often of large tables that are checked every row is looked at.
	wholeEvery = pace.Minutes
	// fullEvery is at how many of these times everything is read, events or not. Of most of it we
	// are told if it changes, or if what told us of it was lost. Not of the end of a path MTU
	// exception, which the kernel keeps for ten minutes anyway (net.ipv4.route.mtu_expires).
	fullEvery = 5
	// retryFirst and retryMost bound the wait before what failed is tried again.
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second
)

// work is what the next pass has to do. The zero value is none.
type work struct {
	source bool          // what the source says changed
	event  overlay.Event // what the kernel says changed
	quick  bool          // read the silent tables
	whole  bool          // with quick: of large ones all; and take up the source's state
	full   bool          // read everything
	retry  bool          // read and write what failed
}

func (w work) any() bool { return w != work{} }

// drift says whether the work is only to look what others may have changed.
func (w work) drift() bool { return w == work{event: w.event, quick: w.quick, whole: w.whole} }

// pass does some work: takes up the source's state, reads what may have changed,
// compiles, writes, prunes. It is the only way by which the node's rows come into
// being, at the start as on any change.
func (n *node) pass(w work) error {
	if w.full {
		w.event = overlay.EventAll
	}
	// What the node's links offer to pods follows from what events tell of.
	moved := w.source || w.event.Has(overlay.EventLinks|overlay.EventAddrs|overlay.EventPaths)
	if w.full || w.whole { // something may have failed of which nobody knows any more
		w.source = true
	}
	if w.source {
		n.observe()
	}
	if !n.known() {
		return nil
	}
	defer n.publish()
	var errs []error
	refresh := func(g reconcile.Group) {
		for _, t := range g {
			errs = append(errs, t.Refresh())
		}
	}
	if w.event.Has(overlay.EventLinks) { // before compile, which names its index
		refresh(reconcile.Group{n.tables.device})
	}
	if w.source || moved || w.event.Has(overlay.EventSysctls) { // which are wanted follows from those of all devices
		n.compile(moved, w.event.Has(overlay.EventPaths))
	}
	if w.source {
		n.updateServices()
	}
	n.wantChains()
	if w.whole || w.event.Has(overlay.EventLinks|overlay.EventAddrs) {
		n.services.followAddresses()
	}
	switch {
	case w.full:
		refresh(n.tables.shown())
	default:
		refresh(n.tables.concerned(w.event))
		if w.quick {
			refresh(n.tables.silent(w.whole))
		}
		if w.retry {
			refresh(n.tables.unread())
		}
	}
	n.follow()
	_, err := n.policies.follow() // pods' rows are written before others are pruned
	return errors.Join(append(errs, err, n.tables.sync())...)
}

// review makes problems of what the tables could not do.
func (n *node) review() (failed bool) {
	var errs, clashes []string
	for _, t := range n.tables.shown() {
		if err := t.Stats().Err; err != nil {
			errs = append(errs, tableText(t.Stats().Name, err))
		}
	}
	if names := n.tables.noRoom(); len(names) > 0 {
		errs = append(errs, "not served as they want, because rows of theirs cannot be written; what they had stays: "+strings.Join(few(8, names), ", "))
	}
	for _, c := range n.tables.clashes() {
		clashes = append(clashes, fmt.Sprintf("table %s: %s and %s disagree about %s, %s has its way",
			c.Table, c.Winner, c.Loser, c.Key, c.Winner))
	}
	n.problems.set(problemTable, errs...)
	n.problems.set(problemTableClash, few(8, clashes)...)
	return len(errs) > 0 || n.policies.unfinished()
}

// loop passes whenever something changed, until ctx is done. If the first synchronisation
// is still to be put in force, because the source has not spoken, settle does that.
func (n *node) loop(ctx context.Context, events <-chan overlay.Event, settle func() error) error {
	quick := time.NewTimer(pace.Next(quickEvery))
	defer quick.Stop()
	due := time.NewTimer(0) // the next pass, if there is anything to do
	defer due.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	services := time.NewTimer(0) // likewise, for Services
	services.Stop()
	defer services.Stop()
	var (
		asked    time.Time // when Services or policies changed; zero: they did not
		told     bool      // by the source, so that it may be Services
		served   time.Time // no change of them before
		retrying bool
		todo     = work{source: true} // tells the world that all is in force
		rested   time.Time            // no pass before
		since    time.Time            // when todo came to be
		backoff  = retryFirst
		whole    = time.Now() // when whole tables were looked at last
		laps     int          // how often
	)
	promptly := func() {
		if asked.IsZero() {
			asked = time.Now()
			services.Reset(max(serviceDebounce, time.Until(served)))
		}
	}
	mark := func(wait time.Duration) {
		due.Reset(max(wait, time.Until(rested)))
	}
	for {
		before, wait := todo.any(), debounce
		select {
		case <-ctx.Done():
			return nil
		case <-n.source.Changed():
			told = true
			promptly()
		case <-n.services.newLost:
			told = true
			promptly()
		case <-n.policies.due:
			promptly()
		case <-services.C:
			start := time.Now()
			err := n.changePolicies(asked)
			var serviceErr error
			if told {
				var more bool
				more, serviceErr = n.changeServices(asked)
				todo.source = todo.source || more
			}
			told, asked, served = false, time.Time{}, time.Now().Add(time.Since(start))
			n.log.Debug("policies and services", "took", time.Since(start), "err", errors.Join(err, serviceErr))
			if failed := n.review(); failed && !retrying {
				retrying = true
				retry.Reset(backoff)
			}
		case e, ok := <-events:
			if !ok {
				events = nil // ctx is done
				continue
			}
			todo.event |= e
		case now := <-quick.C:
			quick.Reset(pace.Next(quickEvery))
			todo.quick, wait = true, 0
			if now.Sub(whole) > wholeEvery-quickEvery/2 {
				laps++
				todo.whole, todo.full, whole = true, laps%fullEvery == 0, now
			}
		case <-n.poke:
			todo.event |= overlay.EventLinks
		case <-retry.C:
			todo.retry, retrying = true, false
		case <-due.C:
			start := time.Now()
			if todo.drift() && start.Sub(since) < patience && start.UnixNano()-n.called.Load() < int64(calm) {
				due.Reset(calm)
				continue
			}
			err := n.pass(todo)
			n.log.Debug("pass", "event", todo.event, "source", todo.source, "full", todo.full, "took", time.Since(start), "err", err)
			if !n.begun() && n.source.Snapshot().Complete {
				if err := settle(); err != nil {
					return ignoreDone(ctx, err)
				}
			}
			todo, before = work{}, true
			rested = time.Now().Add(min(restFactor*time.Since(start), restMost))
			if retrying = n.review(); retrying {
				retry.Reset(backoff)
				backoff = min(2*backoff, retryMost)
			} else {
				retry.Stop()
				backoff = retryFirst
			}
		}
		if !before && todo.any() {
			since = time.Now()
			mark(wait)
		}
	}
}

// firstSync waits until the source has spoken and the node is known, then makes the
// kernel hold what is wanted. Nothing is pruned before that. What cannot be written
// is a problem, and tried again by the loop. If the source does not speak for long, and
// mayRecall, it returns errRecalled: what was known last is taken up. If it has spoken, but
// not of all that policies need, that is waited for as long; then pods keep what the kernel
// has of policies.
func (n *node) firstSync(ctx context.Context, mayRecall bool) error {
	late := time.NewTimer(time.Second) // most sources are read by then: no problem yet
	defer late.Stop()
	silent := time.NewTimer(recallAfter)
	defer silent.Stop()
	again := prepareEvery
	early := time.NewTimer(again)
	defer early.Stop()
	if mayRecall { // then tables are written before the source has spoken
		early.Stop()
	}
	without := false // policies
	for {
		state := n.source.Snapshot()
		if state.Complete && n.known() && (without || state.PoliciesComplete) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.source.Changed():
			if !n.source.Snapshot().Complete {
				continue
			}
		case <-early.C:
			n.services.prepare(n.source.Snapshot())
			again = min(2*again, prepareSeldom)
			early.Reset(again)
			continue
		case <-late.C:
		case <-silent.C:
			if without = mayRecall; mayRecall && !n.source.Snapshot().Complete && n.recall() {
				return errRecalled
			}
			n.policies.review()
		}
		n.observe()
		n.publish() // says why not
	}
	start := time.Now()
	err := n.pass(work{full: true})
	n.firstTook.Store(int64(time.Since(start)))
	n.review()
	if err != nil {
		n.log.Warn("first synchronisation is not complete, will retry", "err", err)
	}
	return nil
}
