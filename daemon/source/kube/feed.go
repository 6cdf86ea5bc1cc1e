package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/internal/api"
)

const (
	// watchFor is how long the server is asked to keep a watch, up to twice as long by
	// chance. A new one begins where the last ended.
	watchFor = 5 * time.Minute
	// A watch that ends within shortWatch without a word is a failure.
	shortWatch = time.Second
	// The wait before what failed is tried again.
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second
)

// feed keeps a sink at what the API holds of one kind: it lists, then watches from there
// on. When the connection is lost it watches on from what was seen last; it lists again
// only if the server says that it does not know any more what came since (410).
//
// It is not [k8s.io/client-go/tools/cache.Reflector]: docs/adr/006-source-kube.md.
type feed struct {
	client    rest.Interface
	resource  string
	namespace string // "": all
	list      func() runtime.Object
	sink      sink
	log       *slog.Logger
	// optional says that the API may not have the kind, then there are no objects, and
	// how often it is asked again; 0: it must have it.
	optional time.Duration

	version string          // resourceVersion to watch from; "": list first
	newest  string          // resourceVersion that was seen last
	using   [][2]string     // the selector of this turn
	anew    []chan struct{} // what was asked, of this turn and of former ones that failed

	mu       sync.Mutex
	selector [][2]string        // parameters of each request
	other    bool               // selector is not what the turn under way uses
	stop     context.CancelFunc // of the turn under way
	asked    chan struct{}      // closed when all have been listed anew; nil: nobody asks
	err      error
	since    time.Time // of err
}

// selectAll has the feed list all objects, and go on with them. It may be called from the
// sink.
func (f *feed) selectAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.selector, f.other = nil, true
	if f.stop != nil {
		f.stop()
	}
}

// again has the feed list all objects anew, as they are now and not as the cache of a server
// has them, and go on with them. The channel is closed when that is done.
func (f *feed) again() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == nil {
		f.asked = make(chan struct{})
	}
	f.other = true
	if f.stop != nil {
		f.stop()
	}
	return f.asked
}

// listed takes up that all objects have been listed.
func (f *feed) listed() {
	f.sink.end()
	for _, done := range f.anew {
		close(done)
	}
	f.anew = nil
}

// takeSelector begins a turn, and says whether it has another selector than the last.
func (f *feed) takeSelector(stop context.CancelFunc) (other bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	other, f.other, f.stop, f.using = f.other, false, stop, f.selector
	if f.asked != nil {
		f.anew, f.asked = append(f.anew, f.asked), nil
	}
	return other
}

// stopped says whether the turn was ended for another selector.
func (f *feed) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.other
}

// run feeds until ctx is done.
func (f *feed) run(ctx context.Context) {
	wait, forgot, absent := retryFirst, false, 0
	for ctx.Err() == nil {
		began := time.Now()
		told, err := f.turn(ctx)
		if ctx.Err() != nil {
			return
		}
		if f.stopped() {
			continue
		}
		if f.optional > 0 && apierrors.IsNotFound(err) {
			if absent++; absent > 1 || f.newest == "" { // a server that starts may not know it yet
				f.sink.begin()
				f.sink.end()
			}
			f.version = ""
			f.note(nil)
			sleep(ctx, f.optional/2+rand.N(f.optional))
			continue
		}
		absent = 0
		if isGone(err) {
			f.version = ""
			if !forgot { // if it forgets what it has listed just now, there is something wrong
				f.log.Debug("list again", "resource", f.resource, "err", err)
				forgot = true
				continue
			}
		}
		forgot = false
		if err == nil && !told && time.Since(began) < shortWatch {
			err = fmt.Errorf("watch %s: it ends at once", f.resource)
		}
		f.note(err)
		if err == nil {
			wait = retryFirst
			continue
		}
		pause := wait/2 + rand.N(wait)
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, time.Duration(seconds)*time.Second)
		}
		wait = min(2*wait, retryMost)
		sleep(ctx, pause)
	}
}

// sleep waits, or until ctx is done.
func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// turn lists if need be and watches until the watch ends. That is no error, unless the
// server does not know any more what came since. It says whether the watch told anything.
func (f *feed) turn(ctx context.Context) (told bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f.takeSelector(cancel) {
		f.version = "" // what is listed must not be older than newest, whatever is selected
	}
	w, err := f.begin(ctx)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	stands := time.NewTimer(shortWatch)
	defer stands.Stop()
	for {
		select {
		case <-stands.C:
			f.note(nil)
		case e, ok := <-w.ResultChan():
			if !ok {
				return told, nil
			}
			if e.Type == watch.Error {
				err := apierrors.FromObject(e.Object)
				if isGone(err) {
					return told, err
				}
				f.log.Debug("watch ended", "resource", f.resource, "err", err)
				return told, nil
			}
			if f.take(e); !told {
				told = true
				f.note(nil)
			}
		}
	}
}

// begin returns a watch that goes on from f.version, after a listing if there is none.
func (f *feed) begin(ctx context.Context) (watch.Interface, error) {
	if f.version != "" {
		return f.watch(ctx, f.version)
	}
	w, err := f.watchList(ctx)
	cannot := apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err)
	if !cannot && !errors.Is(err, errShortList) {
		return w, err
	}
	f.log.Debug("the API server does not stream lists", "resource", f.resource, "err", err)
	if err := f.listAll(ctx); err != nil {
		return nil, err
	}
	return f.watch(ctx, f.version)
}

// watchList has the server stream all objects there are and then their changes, and
// returns when the former are there (KEP-3157).
func (f *feed) watchList(ctx context.Context) (watch.Interface, error) {
	w, err := f.watch(ctx, "", "sendInitialEvents", "true", "resourceVersionMatch", "NotOlderThan")
	if err != nil {
		return nil, err
	}
	f.sink.begin()
	for e := range w.ResultChan() {
		switch {
		case e.Type == watch.Error:
			w.Stop()
			return nil, fmt.Errorf("list %s: %w", f.resource, apierrors.FromObject(e.Object))
		case e.Type == watch.Bookmark && isInitialEnd(e.Object):
			f.take(e)
			f.listed()
			return w, nil
		case e.Type == watch.Bookmark: // the version is not that of a whole list
		default:
			f.put(e)
		}
	}
	w.Stop()
	return nil, fmt.Errorf("list %s: %w", f.resource, errShortList)
}

// errShortList is that a streamed list ended without being said to be whole.
var errShortList = errors.New("it ends before all is there")

func isInitialEnd(o runtime.Object) bool {
	m, err := meta.Accessor(o)
	return err == nil && m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

// listAll lists all objects, for servers that do not stream them (before Kubernetes 1.32).
// It takes what the server has at hand, if that is not older than what was seen: lists of
// all nodes at once are a load for the database behind it.
func (f *feed) listAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, watchFor)
	defer cancel()
	f.sink.begin()
	for next := ""; ; {
		list := f.list()
		r := f.request()
		if next == "" && len(f.anew) == 0 {
			r = r.Param("resourceVersion", cmp.Or(f.newest, "0"))
		} else if next != "" {
			r = r.Param("continue", next)
		}
		if err := r.Do(ctx).Into(list); err != nil {
			if isGone(err) {
				f.newest = ""
			}
			return fmt.Errorf("list %s: %w", f.resource, brief(err))
		}
		m, err := meta.ListAccessor(list)
		if err != nil {
			return fmt.Errorf("list %s: %w", f.resource, brief(err))
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			f.sink.put(o)
			return nil
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", f.resource, brief(err))
		}
		if next = m.GetContinue(); next == "" {
			f.version, f.newest = m.GetResourceVersion(), m.GetResourceVersion()
			f.listed()
			return nil
		}
	}
}

// watch starts a watch. The server ends it in time; if not, we do.
func (f *feed) watch(ctx context.Context, version string, params ...string) (watch.Interface, error) {
	long := watchFor + rand.N(watchFor)
	ctx, cancel := context.WithCancel(ctx)
	r := f.request().Param("watch", "true").Param("allowWatchBookmarks", "true").
		Param("timeoutSeconds", strconv.Itoa(int(long/time.Second)))
	if version != "" {
		r = r.Param("resourceVersion", version)
	}
	for i := 0; i < len(params); i += 2 {
		r = r.Param(params[i], params[i+1])
	}
	w, err := r.Watch(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch %s: %w", f.resource, brief(err))
	}
	return watching{w, cancel, time.AfterFunc(long+time.Minute, cancel)}, nil
}

// watching is a watch that ends its request's context when it is stopped, or is too late.
type watching struct {
	watch.Interface
	cancel context.CancelFunc
	late   *time.Timer
}

func (w watching) Stop() {
	w.late.Stop()
	w.Interface.Stop()
	w.cancel()
}

func (f *feed) request() *rest.Request {
	r := f.client.Get().NamespaceIfScoped(f.namespace, f.namespace != "").Resource(f.resource).MaxRetries(0)
	for _, p := range f.using {
		r = r.Param(p[0], p[1])
	}
	return r
}

// take takes up an event and its version.
func (f *feed) take(e watch.Event) {
	if e.Type != watch.Bookmark {
		f.put(e)
	}
	if m, err := meta.Accessor(e.Object); err == nil {
		f.version, f.newest = m.GetResourceVersion(), m.GetResourceVersion()
	}
}

func (f *feed) put(e watch.Event) {
	if e.Type == watch.Deleted {
		f.sink.remove(e.Object)
		return
	}
	f.sink.put(e.Object)
}

// note keeps the error of the last turn; nil: it was well.
func (f *feed) note(err error) {
	f.mu.Lock()
	was := f.err
	if f.err = err; was == nil {
		f.since = time.Now()
	}
	f.mu.Unlock()
	if err != nil && was == nil {
		f.log.Warn("API request, will retry", "resource", f.resource, "err", err)
	}
}

// problem is why the last turn failed, if it did.
func (f *feed) problem() []api.Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return nil
	}
	p := api.Problem{What: ProblemAPI, Text: f.err.Error() + "; what was known stays in force", Since: f.since}
	switch {
	case apierrors.IsUnauthorized(f.err):
		p.What, p.Text = ProblemAccess, "the API server does not take our credentials: "+p.Text
	case apierrors.IsForbidden(f.err):
		p.What, p.Text = ProblemAccess, "we may not read what we need, give us the rights of the manifest's ClusterRole: "+p.Text
	}
	return []api.Problem{p}
}
