package source

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxFile bounds what is read of one file: some thousand full objects.
const maxFile = 16 << 20

// stamp tells whether a file is another than last time.
type stamp struct {
	inode        uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{size: info.Size()}
	}
	return stamp{inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// file is what is known of one file: its last good objects, and why they are not those
// of now.
type file struct {
	stamp   stamp
	sum     [sha1.Size]byte
	objects objects
	good    bool // objects are all that the file said when it was well last
	sure    bool // good, or what is not in objects does not matter to policies
	err     error
	since   time.Time // of err
}

// folder is one folder of YAML files.
type folder struct {
	path  string
	files map[string]*file
	err   error // it cannot be listed; files are what they were
}

// hasObjects says whether a file is one of those that are read. Hidden ones are what
// editors and atomic writers leave on their way.
func hasObjects(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// scan looks through the folder and reads the files that are new, changed, or in
// dirty. Unless it is to look at the whole, only those are read that are new or in dirty, and
// links, of whose targets nobody tells. It says whether anything that is known has changed.
func (f *folder) scan(dirty map[string]bool, whole bool, now time.Time) (changed bool) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		changed = f.err == nil || f.err.Error() != err.Error()
		f.err = err
		return changed
	}
	changed, whole = f.err != nil, whole || f.err != nil
	f.err = nil
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || !hasObjects(name) {
			continue
		}
		there[name] = true
		known := f.files[name]
		if known == nil {
			known = &file{}
		} else if !whole && !dirty[name] && e.Type().IsRegular() && known.stamp != (stamp{}) {
			continue
		}
		again, gone := known.read(filepath.Join(f.path, name), dirty[name], now)
		if gone {
			delete(there, name)
			continue
		}
		f.files[name] = known
		changed = changed || again
	}
	for name := range f.files {
		if !there[name] {
			delete(f.files, name)
			changed = true
		}
	}
	return changed
}

// read brings a file up to date. A file that vanishes meanwhile is gone.
func (f *file) read(path string, force bool, now time.Time) (changed, gone bool) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err != nil {
			return false, true
		}
	}
	if err != nil { // also a link to nowhere
		return f.fail(err, now), false
	}
	at := stampOf(info)
	if at == f.stamp && !force {
		return false, false
	}
	data, err := readFile(path, info)
	if err != nil {
		f.stamp = stamp{} // try again
		return f.fail(err, now), false
	}
	f.stamp = at
	sum := sha1.Sum(data)
	if sum == f.sum && f.err == nil && f.good {
		return false, false
	}
	f.sum = sum
	got, err := decode(data)
	if err == nil && f.good {
		err = f.objects.lost(got)
	}
	switch {
	case err == nil:
		f.objects, f.good, f.sure, f.err = got, true, true, nil
		return true, false
	case !f.good: // nothing better is known than what is well of it
		f.objects, f.sure = got, !got.unsure
	}
	f.fail(err, now)
	return true, false
}

// lost says which node had what its peers need and has it no more, and which Service
// its address or ports. A file that was cut short between two lines is YAML all the
// same; that no node is left without pod CIDRs or address on purpose but by removing its
// object makes the two tell apart.
func (o objects) lost(now objects) error {
	for _, was := range o.nodes {
		for _, n := range now.nodes {
			if n.Name == was.Name && was.Problem == "" && n.Problem != "" {
				return fmt.Errorf("Node: %s: %s any more; to remove a node, remove its object", n.Name, n.Problem)
			}
		}
	}
	had := map[nameIn]bool{}
	for _, was := range o.services {
		had[nameIn{was.Namespace, was.Name}] = was.lacks() == ""
	}
	for _, v := range now.services {
		if what := v.lacks(); what != "" && had[nameIn{v.Namespace, v.Name}] {
			return fmt.Errorf("Service: %s/%s: %s any more; to remove a Service, remove its object", v.Namespace, v.Name, what)
		}
	}
	return nil
}

func (f *file) fail(err error, now time.Time) (changed bool) {
	if f.err != nil && f.err.Error() == err.Error() {
		return false
	}
	if f.err == nil {
		f.since = now
	}
	f.err = err
	return true
}

// readFile reads a regular file. It does not wait, as it would for the writer of a
// pipe that took the file's place.
func readFile(path string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file but %s", info.Mode().Type())
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !now.Mode().IsRegular() {
		return nil, errors.Join(errors.New("not a regular file any more"), err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("has %d bytes, more than %d", info.Size(), maxFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("has more than %d bytes", maxFile)
	}
	return data, err
}
