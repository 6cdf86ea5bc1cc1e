// Package progress prints what a long run is doing, one line for each step with the
// time since the start, so that the log of a CI run tells where its minutes went.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Log prints to one writer. Its methods may be called by several goroutines.
type Log struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

// New counts from now.
func New(w io.Writer) *Log { return &Log{w: w, start: time.Now()} }

// Say prints one line.
func (l *Log) Say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := time.Since(l.start).Round(time.Second)
	fmt.Fprintf(l.w, "[%3d:%02d] %s\n", int(d.Minutes()), int(d.Seconds())%60, fmt.Sprintf(format, args...))
}

// heartbeat is how often a step that takes long says that it lives: CI systems end a
// job that is silent for long.
const heartbeat = time.Minute

// Step runs f and says when it begins, that it still runs, and how it ended.
func (l *Log) Step(name string, f func() error) error {
	l.Say("%s …", name)
	begin, done := time.Now(), make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.Say("%s: still at it after %s", name, time.Since(begin).Round(time.Second))
			}
		}
	})
	err := f()
	close(done)
	beats.Wait()
	took := time.Since(begin).Round(100 * time.Millisecond)
	if err != nil {
		l.Say("%s: failed after %s: %v", name, took, err)
		return fmt.Errorf("%s: %w", name, err)
	}
	l.Say("%s: done in %s", name, took)
	return nil
}
