package engine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	return nil
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
