package engine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/e2e/kind/progress"
	"github.com/weftnet/weft/internal/testnet"
)

const dirtyName = "dirty" // a file that is there while an engine runs

// cgroupName is the folder, in each cgroup hierarchy, of the engine whose files are in dir.
func cgroupName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "weft-kind-" + hex.EncodeToString(sum[:4])
}

// cleanLeftovers removes what a run that was killed left. Its processes are gone, or
// going: what they hold is tried until it is free.
func cleanLeftovers(ctx context.Context, dir string, log *progress.Log) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := removeCgroups(ctx, cgroupName(dir)); err != nil {
		return fmt.Errorf("remove what a killed run left: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, dirtyName)); err == nil {
		log.Say("a former run was killed: removing its containers, cgroups and settings")
		err := testnet.Wait(ctx, func() error { return os.RemoveAll(filepath.Join(dir, "data")) })
		if err != nil {
			return fmt.Errorf("remove what a killed run left: %w", err)
		}
	}
	m, err := recall(filepath.Join(dir, "machine.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.restore()
}

// removeCgroups removes the folder of this name from each cgroup hierarchy, waiting for the
// processes in it to be gone.
func removeCgroups(ctx context.Context, name string) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		root := filepath.Join(m.path, name)
		err := testnet.Wait(ctx, func() error { return removeEmpty(root) })
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", root, err)
		}
	}
	return nil
}

// removeEmpty removes a tree of cgroups without processes, or of empty folders, the deepest
// first.
func removeEmpty(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// cgroupMount is a mounted cgroup hierarchy.
type cgroupMount struct {
	path, kind string // cgroup or cgroup2
	options    string // of version 1: what mount(2) wants to hear
}

// cgroupMounts are the hierarchies below /sys/fs/cgroup.
func cgroupMounts() ([]cgroupMount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer f.Close()
	return parseMounts(f), nil
}

// parseMounts finds the hierarchies in what /proc/self/mountinfo says.
func parseMounts(r io.Reader) []cgroupMount {
	var mounts []cgroupMount
	for in := bufio.NewScanner(r); in.Scan(); {
		// proc_pid_mountinfo(5): fields, optional fields, "-", type, source, super options
		before, after, _ := strings.Cut(in.Text(), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(super) < 3 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			continue
		}
		m := cgroupMount{path: fields[4], kind: super[0]}
		switch m.kind {
		case "cgroup":
			var options []string
			for _, o := range strings.Split(super[2], ",") {
				switch {
				case o == "rw" || o == "ro" || strings.HasPrefix(o, "release_agent="):
				case strings.HasPrefix(o, "name="):
					options = append(options, "none", o)
				default:
					options = append(options, o)
				}
			}
			m.options = strings.Join(options, ",")
			mounts = append(mounts, m)
		case "cgroup2":
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// machine is what of the machine's own state an engine and kind nodes change.
type machine struct {
	Sysctls map[string]string // path below /proc/sys → value before
	Missing []string          // folders that were not there before

	file string
}

// remember notes the machine's state in file.
func remember(file string) (machine, error) {
	m := machine{Sysctls: map[string]string{}, file: file}
	for _, name := range []string{
		// What the kubelet sets, for the whole machine.
		"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
		"vm/overcommit_memory", "vm/panic_on_oom",
		// What we set; see raise.
		inotify,
	} {
		b, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return m, fmt.Errorf("read sysctl: %w", err)
		}
		m.Sysctls[name] = string(b)
	}
	for _, dir := range []string{"/etc/docker", "/usr/lib/modules", "/opt/containerd"} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			m.Missing = append(m.Missing, dir)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return m, fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file+".tmp", b, 0o644); err != nil {
		return m, fmt.Errorf("write %s: %w", file, err)
	}
	return m, os.Rename(file+".tmp", file)
}

// inotify limits how many watchers of files a user may have; systemd, containerd and the
// kubelet of all nodes are root's.
const inotify = "fs/inotify/max_user_instances"

// raise lets three nodes' services watch files, beside the machine's own.
func (m machine) raise() error {
	const enough = 1024
	if now, err := strconv.Atoi(strings.TrimSpace(m.Sysctls[inotify])); err != nil || now >= enough {
		return err
	}
	return os.WriteFile("/proc/sys/"+inotify, []byte(strconv.Itoa(enough)), 0o644)
}

// recall reads what remember wrote.
func recall(file string) (machine, error) {
	m := machine{file: file}
	b, err := os.ReadFile(file)
	if err != nil {
		return m, fmt.Errorf("read the machine's former state: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read the machine's former state from %s: %w", file, err)
	}
	return m, nil
}

// restore puts the machine's state back, and forgets it.
func (m machine) restore() error {
	var errs []error
	for name, value := range m.Sysctls {
		path := "/proc/sys/" + name
		if now, err := os.ReadFile(path); err == nil && string(now) == value {
			continue
		}
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	for _, dir := range m.Missing {
		if err := removeEmpty(dir); !errors.Is(err, syscall.ENOTEMPTY) { // else it is not ours
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("put the machine's settings back: %w", err)
	}
	err := os.Remove(m.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
