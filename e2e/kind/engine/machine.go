package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine stands for what of the machine's own state engines and kind nodes change, until
// the last engine has ended. Each running engine holds a shared lock; who gets it alone is
// the first or the last.
type machine struct {
	dir     string // what is written down is here
	sysctls string // /proc/sys
	lock    *os.File
}

// state is how the machine was before the first engine.
type state struct {
	Sysctls map[string]string // path below /proc/sys → value
	Missing []string          // folders that were not there
}

// sharedSysctls are the sysctls that are changed, for the whole machine: by the kubelet, and the
// last one by us.
var sharedSysctls = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/overcommit_memory", "vm/panic_on_oom", inotify,
}

// inotify limits how many watchers of files a user may have; systemd, containerd and the
// kubelet of all nodes are root's.
const inotify = "fs/inotify/max_user_instances"

// madeFolders are the folders that the engine and its containers' mounts make.
var madeFolders = []string{"/etc/docker", "/usr/lib/modules", "/opt/containerd"}

// enter notes how the machine is, if no other engine runs; but first it puts back what a
// killed run noted.
func enter(dir, sysctls string) (*machine, error) {
	for {
		m, err := tryEnter(dir, sysctls)
		if err != nil {
			return nil, fmt.Errorf("note the machine's settings: %w", err)
		}
		if m != nil {
			return m, nil
		}
	}
}

// tryEnter returns nil if the last other engine has ended meanwhile, and taken the lock's
// file with it.
func tryEnter(dir, sysctls string) (*machine, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if errors.Is(err, fs.ErrNotExist) { // the folder is gone already
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &machine{dir: dir, sysctls: sysctls, lock: f}
	if m.alone() && m.there() {
		if err = m.restore(); err == nil {
			err = m.note()
		}
	}
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH) // waits for who is just entering or leaving
	}
	if err == nil && !m.there() {
		return nil, f.Close()
	}
	if err == nil {
		err = m.raise()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// there tells whether the lock is still the one that others find.
func (m *machine) there() bool {
	ours, err := m.lock.Stat()
	if err != nil {
		return false
	}
	theirs, err := os.Stat(m.lock.Name())
	return err == nil && os.SameFile(ours, theirs)
}

// leave puts the machine's settings back, if no other engine runs.
func (m *machine) leave() error {
	var err error
	if m.alone() {
		if err = m.restore(); err == nil { // else the next engine tries
			err = os.Remove(m.lock.Name())
			_ = os.Remove(m.dir) // unless another engine has just begun
		}
	}
	if err := errors.Join(err, m.lock.Close()); err != nil {
		return fmt.Errorf("put the machine's settings back: %w", err)
	}
	return nil
}

// alone takes the lock for this engine alone. One that has it shared loses that when it
// does not get it; of two that ask at the same time, one gets it with the next try.
func (m *machine) alone() bool {
	for range 3 {
		if syscall.Flock(int(m.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func (m *machine) file() string { return filepath.Join(m.dir, "before.json") }

// note writes down how the machine is.
func (m *machine) note() error {
	s := state{Sysctls: map[string]string{}}
	for _, name := range sharedSysctls {
		b, err := os.ReadFile(filepath.Join(m.sysctls, name))
		if err != nil {
			return err
		}
		s.Sysctls[name] = string(b)
	}
	for _, dir := range madeFolders {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			s.Missing = append(s.Missing, dir)
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.file()+".tmp", b, 0o644); err != nil {
		return err
	}
	return os.Rename(m.file()+".tmp", m.file())
}

// restore puts back what was noted, if something was, and forgets it.
func (m *machine) restore() error {
	b, err := os.ReadFile(m.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read %s: %w", m.file(), err)
	}
	var errs []error
	for name, value := range s.Sysctls {
		path := filepath.Join(m.sysctls, name)
		if now, err := os.ReadFile(path); err == nil && string(now) == value {
			continue
		}
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	for _, dir := range s.Missing {
		if err := removeEmpty(dir); !errors.Is(err, syscall.ENOTEMPTY) { // else it is not ours
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(m.file())
}

// raise lets three nodes' services watch files, beside the machine's own.
func (m *machine) raise() error {
	const enough = 1024
	path := filepath.Join(m.sysctls, inotify)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if now, err := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || now >= enough {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // not cut first: another engine may be reading
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(enough))
	return errors.Join(err, f.Close())
}
