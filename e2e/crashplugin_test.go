package e2e

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
)

// P1: SIGKILL of the plugin while the daemon stands after any write of ADD or DEL.
func TestCrashOfThePluginLeaksNothing(t *testing.T) {
	r := newCrashRig(t)
	killed := 0
	for want := injections(300); killed < want; {
		for _, v := range r.verbs() {
			for n := range r.count(v) {
				if n++; killed >= want {
					break
				}
				p := r.pod(v)
				r.must(r.daemon.arm(n, "hold"))
				if r.killPlugin(v, p) {
					killed++
				}
				r.clear(p)
			}
		}
	}
	t.Logf("%d plugins killed", killed)
}

// killPlugin makes the call, and kills the plugin when the daemon holds. Then the
// daemon goes on, with nobody to answer to.
func (r *crashRig) killPlugin(v verb, p *cluster.Pod) bool {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- v.call(ctx, p) }()
	held := r.daemon.path + ".held"
	for {
		select {
		case err := <-done:
			r.must(errors.Join(err, r.daemon.disarm()))
			return false
		case <-time.After(time.Millisecond):
		}
		if b, err := os.ReadFile(held); err == nil && string(b) == r.daemon.armed() {
			break
		}
	}
	cancel() // libcni kills the plugin
	err := <-done
	names, countErr := r.daemon.count()
	r.must(countErr)
	if err == nil && !strings.HasPrefix(names[len(names)-1], "source:") {
		r.Fatalf("%s of a killed plugin succeeded", v.name)
	}
	return err != nil // else it had been answered before
}
