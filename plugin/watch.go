package plugin

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weftnet/weft/internal/pace"
)

const (
	// lookEvery is the safety net under the notifications, which say nothing of what happens
	// above the folders, and lookSoon that while one of them was not there to be watched.
	lookEvery = pace.Usual
	lookSoon  = pace.Often
	// settle is how long others may go on writing before we look, so that a package
	// manager that replaces a folder's files is not raced with each one.
	settle = 50 * time.Millisecond
	// settleMost is how long others that go on writing are waited for.
	settleMost = 2 * time.Second
)

// Watch keeps what [Install] wrote: it installs at once, and again within seconds
// after a file or folder vanished or was changed, until ctx is done. report gets the
// error of each attempt that ends differently from the last, nil when all is well
// again; it may be nil.
func Watch(ctx context.Context, o InstallOptions, log *slog.Logger, report func(error)) {
	k := keeper{InstallOptions: o, log: log, report: report}
	k.run(ctx, fsnotify.NewWatcher)
}

// run is Watch. As long as there are no notifications, as all that users of the machine
// may have are taken (inotify(7), max_user_instances), it looks every few seconds.
func (k *keeper) run(ctx context.Context, notify func() (*fsnotify.Watcher, error)) {
	for said := false; ; said = true {
		w, err := notify()
		if err == nil {
			k.watch(ctx, w)
			return
		}
		if !said {
			k.log.Warn("watch CNI folders, looking at them every now and then until it works", "err", err)
		}
		k.keep()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace.Next(lookSoon)):
		}
	}
}

// watch keeps the files by notifications until ctx is done, and closes w.
func (k *keeper) watch(ctx context.Context, w *fsnotify.Watcher) {
	defer w.Close()
	errs := make(chan error, 1)
	go func() {
		// The watcher reports some errors with its lock held, for which Add waits.
		for err := range w.Errors {
			select {
			case errs <- err:
			default:
			}
		}
	}()
	for {
		k.keep()
		look := lookEvery
		for _, dir := range []string{k.BinDir, k.ConfDir} {
			// Of a folder that vanished the kernel has ended the watch, and one in
			// its place has none yet.
			err := w.Add(dir)
			if err != nil {
				look = lookSoon
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				k.log.Debug("watch CNI folder, will retry", "err", err)
			}
		}
		var again <-chan time.Time // something changed before it was watched
		if !k.settled() {
			again = time.After(settle)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace.Next(look)):
			continue
		case <-again:
			continue
		case err := <-errs:
			k.log.Debug("watch CNI folders, will retry", "err", err)
		case <-w.Events:
		}
		if !drain(ctx, w.Events) {
			return
		}
	}
}

// drain waits until there was no event for a moment, at most for settleMost. It reports
// whether to go on.
func drain(ctx context.Context, events <-chan fsnotify.Event) bool {
	end := time.After(settleMost)
	for {
		quiet := time.NewTimer(settle)
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return true
		case <-quiet.C:
			return true
		case <-events:
		}
	}
}

// keeper installs only when something changed since it last found all well.
type keeper struct {
	InstallOptions
	log    *slog.Logger
	report func(error)

	seen    []stamp // when all was there, well, and nothing changed meanwhile
	started bool
	last    string // error of the last attempt
}

// stamp tells whether a file was replaced, written or had its mode changed; zero if it
// is not there.
type stamp struct {
	inode uint64
	ctime syscall.Timespec
}

func stampOf(path string) stamp {
	fi, err := os.Lstat(path)
	if err != nil {
		return stamp{}
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{st.Ino, st.Ctim}
}

func (k *keeper) stamps() []stamp {
	var stamps []stamp
	for _, file := range k.files() {
		stamps = append(stamps, stampOf(file))
	}
	return stamps
}

// settled reports whether there is nothing to do that has not failed just now.
func (k *keeper) settled() bool { return k.last != "" || slices.Equal(k.stamps(), k.seen) }

func (k *keeper) keep() {
	before := k.stamps()
	if k.started && k.last == "" && slices.Equal(before, k.seen) {
		return
	}
	err := Install(k.InstallOptions)
	after := k.stamps()
	if err == nil && k.started && !slices.Equal(after, before) {
		k.log.Info("put CNI plugin and configuration back", "bin", k.binary(), "conf", k.conflist())
	}
	k.started = true
	text := ""
	if err != nil {
		text = err.Error()
	} else if slices.Equal(after, before) && !slices.Contains(after, stamp{}) {
		k.seen = after
	}
	if text != k.last {
		k.last = text
		if k.report != nil {
			k.report(err)
		}
	}
}
