package ipam

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// errPowerCut is what fakeFS panics with when its process is to die.
var errPowerCut = errors.New("power cut")

// fakeFS is a file system in memory that may lose what was not fsynced, as POSIX
// allows: the content of a file until it is synced, a name in a folder (made, replaced
// or removed) until the folder is.
type fakeFS struct {
	mu      sync.Mutex
	dirs    map[string]bool
	names   map[string]*inode // as the process sees them
	durable map[string]*inode // as they are after a power cut at the latest sync
	dirty   map[string]bool   // where the two may differ
	ops     int
	// at is asked after each operation: an error makes it fail although it was done.
	// It may panic.
	at func(op int) error
}

type inode struct{ data, durable []byte }

func newFakeFS() *fakeFS {
	return &fakeFS{dirs: map[string]bool{}, names: map[string]*inode{}, durable: map[string]*inode{}, dirty: map[string]bool{}}
}

// op counts one operation. f.mu is held.
func (f *fakeFS) op() error {
	f.ops++
	if f.at != nil {
		return f.at(f.ops)
	}
	return nil
}

// crash is a power cut. keep says of each thing that was not synced whether it made it
// to the disk all the same.
func (f *fakeFS) crash(keep func() bool) {
	f.at = nil
	all := map[string]*inode{}
	for _, name := range f.everyName() {
		n := f.durable[name]
		if f.names[name] != n && keep() {
			n = f.names[name]
		}
		if n != nil {
			all[name] = n
		}
	}
	for _, name := range f.everyName() {
		n := all[name]
		if n == nil {
			continue
		}
		if string(n.data) != string(n.durable) {
			if keep() {
				n.data = n.data[:rand.IntN(len(n.data)+1)]
			} else {
				n.data = n.durable
			}
		}
		n.durable = n.data
	}
	f.names, f.durable = all, map[string]*inode{}
	for name, n := range all {
		f.durable[name] = n
	}
}

func (f *fakeFS) everyName() []string {
	var out []string
	for name := range f.names {
		out = append(out, name)
	}
	for name := range f.durable {
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (f *fakeFS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirs[dir] = true
	return f.op()
}

func (f *fakeFS) List(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirs[dir] {
		return nil, fs.ErrNotExist
	}
	var out []string
	for name := range f.names {
		if filepath.Dir(name) == dir {
			out = append(out, strings.TrimPrefix(name, dir+"/"))
		}
	}
	slices.Sort(out)
	return out, nil
}

func (f *fakeFS) ReadFile(path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.names[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(n.data), nil
}

func (f *fakeFS) WriteFile(path string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[path]
	if n == nil {
		n = &inode{}
		f.names[path] = n
		f.dirty[path] = true
	}
	n.data = nil
	if err := f.op(); err != nil {
		return err
	}
	n.data = slices.Clone(data)
	if err := f.op(); err != nil {
		return err
	}
	n.durable = n.data
	return f.op()
}

func (f *fakeFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names[from] == nil {
		return fs.ErrNotExist
	}
	f.names[to] = f.names[from]
	delete(f.names, from)
	f.dirty[from], f.dirty[to] = true, true
	return f.op()
}

func (f *fakeFS) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.names, path)
	f.dirty[path] = true
	return f.op()
}

func (f *fakeFS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.dirty {
		if filepath.Dir(name) != dir {
			continue
		}
		delete(f.dirty, name)
		if n := f.names[name]; n != nil {
			f.durable[name] = n
		} else {
			delete(f.durable, name)
		}
	}
	return f.op()
}
