package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/pace"
)

const (
	statusDir    = "status"
	defaultPoll  = 2 * pace.Usual
	hastyPoll    = time.Second           // while there is no folder, or no notification
	settle       = 20 * time.Millisecond // without events before the folder is read
	settleAtMost = 200 * time.Millisecond
)

// Dir is a folder of YAML.
type Dir struct {
	path    string
	opts    Options
	changed chan struct{}

	// Run's own: what is known of the folders, and the watch on them.
	root    *folder
	status  map[string]*folder // by node, without ourselves
	watcher *fsnotify.Watcher  // nil: none
	lost    chan error         // events were; one stands for all
	noWatch error
	looked  time.Time // when, at everything

	mu     sync.Mutex
	since  map[string]time.Time // of problems, by their text
	view   view
	state  State
	kinds  *kinds // of which state was made
	stale  bool   // state is older than view or grants
	synced bool
	// ownStale: state is older than own.
	ownStale bool

	own ownFiles

	grants   grants
	elected  *os.File // the lock, if it is ours; guarded by grants.lock
	electErr error    // why we cannot have it; guarded by mu
}

// Open checks the setting ("dir:" and a path) and makes the source. The folder need
// not exist yet. Nothing is read before [Dir.Run].
func Open(source string, o Options) (*Dir, error) {
	path, ok := strings.CutPrefix(source, "dir:")
	if !ok || path == "" {
		return nil, fmt.Errorf("open source %q: want dir:PATH, a folder of Kubernetes YAML", source)
	}
	if err := checkName("node name", o.Node); err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Poll = cmp.Or(o.Poll, defaultPoll)
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	return &Dir{
		path: path, opts: o, changed: make(chan struct{}, 1), lost: make(chan error, 1),
		root:   &folder{path: path, files: map[string]*file{}},
		status: map[string]*folder{},
		since:  map[string]time.Time{},
		kinds:  newKinds(),
		own:    ownFiles{dir: filepath.Join(path, statusDir, o.Node), files: map[string]ownFile{}, gone: map[api.Ref]bool{}},
		grants: grants{dir: filepath.Join(path, statusDir)},
	}, nil
}

// Snapshot is the state as of the last look at the folder.
func (d *Dir) Snapshot() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rebuild()
	return d.state
}

// Unpoliced says that the source has told all that policies need, and that there are none. A
// change of our pods cannot alter that, so that after one it costs no new state.
func (d *Dir) Unpoliced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stale {
		d.rebuild()
	}
	return d.state.Unpoliced()
}

// Changed receives after the state has changed; many changes may come as one. Of what
// [Dir.WritePod] did it tells only if there are policies, or if it changed slices that are
// derived.
func (d *Dir) Changed() <-chan struct{} { return d.changed }

// Synced says whether the folder has been there and has been looked through once.
func (d *Dir) Synced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced
}

// rebuild makes the state if it is stale. d.mu is held.
func (d *Dir) rebuild() {
	if !d.stale && !d.ownStale {
		return
	}
	before := d.state
	d.state, d.stale, d.ownStale = build(d.view, d.own.pods(), d.grants.status, d.kinds), false, false
	keep(before.Nodes, d.state.Nodes, func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) })
	keep(before.Namespaces, d.state.Namespaces, func(a, b *Namespace) int { return cmp.Compare(a.Name, b.Name) })
	keep(before.Pods, d.state.Pods, comparePods)
	keep(before.Services, d.state.Services, compareServices)
	keep(before.flat, d.state.flat, compareSlices) // of which Slices are parts
	keep(before.Policies, d.state.Policies, compareNetworkPolicies)
	keep(before.ClusterPolicies, d.state.ClusterPolicies, compareClusterPolicies)
	d.date(d.state.Problems)
}

// date gives each problem the time when it was seen first.
func (d *Dir) date(problems []api.Problem) {
	before := d.since
	d.since = make(map[string]time.Time, len(problems))
	now := time.Now()
	for i := range problems {
		p := &problems[i]
		if p.Since.IsZero() {
			p.Since = now
			if at, ok := before[p.What+p.Text]; ok {
				p.Since = at
			}
		}
		d.since[p.What+p.Text] = p.Since
	}
}

// Run reads the folder and watches it until ctx is done, which is no error.
func (d *Dir) Run(ctx context.Context) error {
	d.watcher, d.noWatch = fsnotify.NewBufferedWatcher(1024)
	if d.noWatch != nil {
		d.opts.Log.Warn("no notification of changes in the source, polling", "err", d.noWatch)
	} else {
		defer d.watcher.Close()
		go d.receive(d.watcher.Errors)
	}
	dirty := map[string]bool(nil) // nil: look at everything
	for {
		d.look(dirty)
		var ok bool
		if dirty, ok = d.wait(ctx); !ok {
			return nil
		}
	}
}

// receive takes the watcher's errors at once: it reports some with its lock held, for
// which Add waits.
func (d *Dir) receive(errs <-chan error) {
	for err := range errs {
		select {
		case d.lost <- err:
		default:
		}
	}
}

// wait returns the paths that have changed, nil when the time for a look at everything
// has come, and false when ctx is done.
func (d *Dir) wait(ctx context.Context) (map[string]bool, bool) {
	poll := d.opts.Poll
	if d.noWatch != nil || d.root.err != nil {
		poll = min(poll, hastyPoll)
	}
	var events <-chan fsnotify.Event
	if d.watcher != nil {
		events = d.watcher.Events
	}
	var dirty map[string]bool
	timer := time.NewTimer(pace.Next(poll))
	defer timer.Stop()
	var latest <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-timer.C:
			return d.due(dirty, poll), true
		case <-latest:
			return d.due(dirty, poll), true
		case err := <-d.lost:
			d.opts.Log.Debug("watch source", "err", err)
			return nil, true
		case e := <-events:
			if e.Op == fsnotify.Chmod {
				continue
			}
			if dirty == nil {
				dirty = map[string]bool{}
				latest = time.After(settleAtMost)
			}
			dirty[e.Name] = true
			timer.Reset(settle)
		}
	}
}

// due is what to look at: not of all changes there are events, so everything is looked at
// once in a while, also if there is no quiet moment.
func (d *Dir) due(dirty map[string]bool, poll time.Duration) map[string]bool {
	if time.Since(d.looked) >= poll {
		return nil
	}
	return dirty
}

// look reads what has changed, at the paths in dirty or, if that is nil, everywhere.
func (d *Dir) look(dirty map[string]bool) {
	now := time.Now()
	if dirty == nil {
		d.looked = now
	}
	above := filepath.Join(d.path, statusDir)
	dirs := map[string]map[string]bool{} // folder → dirty names
	for path := range dirty {
		dir, name := filepath.Split(path)
		dir = filepath.Clean(dir)
		if dirs[dir] == nil {
			dirs[dir] = map[string]bool{}
		}
		dirs[dir][name] = true
	}
	all := dirty == nil || dirty[d.path] || d.root.err != nil
	changed := false
	if all || dirs[d.path] != nil {
		d.watch(d.path)
		changed = d.root.scan(dirs[d.path], all, now)
		all = all || dirs[d.path][statusDir]
	}
	if d.root.err == nil && (all || dirs[above] != nil) {
		changed = d.lookForNodes(above) || changed
		changed = d.loadGrants() || changed
	}
	for node, f := range d.status {
		if d.root.err == nil && (all || dirs[f.path] != nil || dirs[above][node]) {
			d.watch(f.path)
			another := dirty[f.path] || dirs[above][node] // folder, perhaps
			changed = f.scan(dirs[f.path], all || another, now) || changed
		}
	}
	if all && d.root.err == nil {
		d.restoreOwn()
	}
	d.publish(changed)
}

// lookForNodes finds the folders of other nodes below status/.
func (d *Dir) lookForNodes(above string) (changed bool) {
	there := map[string]bool{}
	entries, err := os.ReadDir(above)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.opts.Log.Warn("list status of the nodes", "err", err)
		return false
	}
	if err == nil {
		d.watch(above)
		// Once more: a folder made before the watch began would be missed.
		entries, _ = os.ReadDir(above)
	}
	for _, e := range entries {
		node := e.Name()
		if !e.IsDir() || !validName(node) || node == d.opts.Node {
			continue
		}
		there[node] = true
		if d.status[node] == nil {
			d.status[node] = &folder{path: filepath.Join(above, node), files: map[string]*file{}}
		}
	}
	for node := range d.status {
		if !there[node] {
			delete(d.status, node)
			changed = true
		}
	}
	return changed
}

// watch asks for events of a folder, again if it is another one by now.
func (d *Dir) watch(path string) {
	if d.watcher == nil {
		return
	}
	err := d.watcher.Add(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) && d.noWatch == nil {
		d.opts.Log.Warn("watch source, polling", "err", err)
		d.noWatch = err
	}
}

// publish makes a new view of what is known.
func (d *Dir) publish(changed bool) {
	v := d.newView()
	d.mu.Lock()
	defer d.mu.Unlock()
	synced := d.synced || d.root.err == nil
	if !changed && synced == d.synced && slices.Equal(v.problems, d.view.problems) {
		return
	}
	d.view, d.stale, d.synced = v, true, synced
	d.tell()
}

func (d *Dir) tell() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *Dir) newView() view {
	there := d.root.err == nil || d.Synced()
	v := view{complete: there, sure: there}
	problem := func(what, text string, since time.Time) {
		v.problems = append(v.problems, api.Problem{What: what, Text: text, Since: since})
	}
	if d.root.err != nil {
		problem(ProblemMissing, fmt.Sprintf("folder of the source: %v; make it, what was known before stays", d.root.err), time.Time{})
	}
	if d.noWatch != nil {
		problem(ProblemWatch, fmt.Sprintf("changes are found by polling only: %v", d.noWatch), time.Time{})
	}
	if err := d.own.err(); err != nil {
		problem(ProblemStatus, fmt.Sprintf("addresses of our pods are not written for the other nodes: %v", err), time.Time{})
	}
	d.mu.Lock()
	for _, err := range []error{d.grants.err, d.electErr} {
		if err != nil {
			problem(ProblemStatus, "load balancers' addresses: "+err.Error(), time.Time{})
		}
	}
	d.mu.Unlock()
	add := func(f *folder, prefix, node string) (out []named) {
		if f.err != nil && f != d.root && !errors.Is(f.err, os.ErrNotExist) {
			problem(ProblemFile, f.err.Error(), time.Time{})
		}
		for name, one := range f.files {
			path := filepath.Join(prefix, name)
			if one.err != nil {
				text := strings.ReplaceAll(one.err.Error(), "\n", "; ")
				problem(ProblemFile, fmt.Sprintf("%s: %s", path, text), one.since)
			}
			v.complete, v.sure = v.complete && one.good, v.sure && one.sure
			out = append(out, named{file: path, node: node, objects: one.objects})
		}
		slices.SortFunc(out, byName)
		return out
	}
	v.root = add(d.root, "", "")
	for node, f := range d.status {
		v.status = append(v.status, add(f, filepath.Join(statusDir, node), node)...)
	}
	slices.SortFunc(v.status, byName)
	// A file that comes later and cannot be read is as one that is not there yet.
	v.sure = v.sure || d.view.sure
	slices.SortFunc(v.problems, func(a, b api.Problem) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Text, b.Text))
	})
	return v
}
