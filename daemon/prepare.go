package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// bpfMount is where a node has its BPF file system (bpf-helpers(7) and all tools).
	bpfMount = "/sys/fs/bpf"
	// preparedFile, in the state folder, says what [Prepare] made.
	preparedFile = "prepared.json"
	// netnsDir is where runtimes keep the pods' network namespaces.
	netnsDir = "/var/run/netns"
	// xtablesLock is the file by which users of the legacy iptables wait for each
	// other (iptables(8), --wait).
	xtablesLock = "/run/xtables.lock"
)

// prepared is what of the node's folders, files and mounts Weft has made before its
// daemon started, so that [Unprepare] removes this and no more.
type prepared struct {
	Folders []string `json:"folders,omitempty"`
	Files   []string `json:"files,omitempty"`
	// Mounts are gone with the boot in which they were made.
	Boot   string   `json:"boot,omitempty"`
	Mounts []string `json:"mounts,omitempty"`

	noted []byte // as the file has it
}

// Prepare makes on the node what a container that runs the daemon has mounted into it:
// the folders of the settings, a BPF file system, and where the node has none a cgroup2
// file system. It works in the mount namespace of the node's first process, found in
// proc, which is the node's /proc: so it does not depend on how the node's mounts are
// shared with containers. It notes what was not there. It may be repeated.
func Prepare(cfg Config, proc string) error {
	if os.Geteuid() != 0 {
		return errors.New("weftd prepare must run as root, in a privileged container")
	}
	boot, err := bootID(proc)
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "1", "mountinfo"))
	if err != nil {
		return fmt.Errorf("read the node's mounts: %w", err)
	}
	return onNode(proc, func() error {
		p, err := readPrepared(cfg.StateDir)
		if err != nil {
			return err
		}
		if p.Boot != boot {
			p.Boot, p.Mounts = "", nil
		}
		if err := p.make(cfg); err != nil {
			return err
		}
		if err := p.mountBPF(cfg, boot); err != nil {
			return err
		}
		return p.mountCgroup(cfg, boot, bytes.NewReader(mounts))
	})
}

// make makes the folders and the lock file.
func (p *prepared) make(cfg Config) error {
	for _, dir := range []string{cfg.StateDir, filepath.Dir(cfg.Socket), cfg.BinDir, cfg.ConfDir, netnsDir} {
		var missing []string
		for d := filepath.Clean(dir); !exists(d) && d != "/"; d = filepath.Dir(d) {
			missing = append(missing, d)
		}
		if len(missing) == 0 {
			continue
		}
		p.Folders = union(p.Folders, missing)
		mode := fs.FileMode(0o755)
		if dir == cfg.StateDir {
			mode = 0o700
		}
		// Noted before it is made: a folder that is noted and not there does no harm.
		// The state folder is the first, and known by its name.
		if dir != cfg.StateDir {
			if err := p.store(cfg.StateDir); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if !exists(xtablesLock) {
		p.Files = union(p.Files, []string{xtablesLock})
		if err := p.store(cfg.StateDir); err != nil {
			return err
		}
		f, err := os.OpenFile(xtablesLock, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("make lock of iptables: %w", err)
		}
		f.Close()
	}
	return p.store(cfg.StateDir)
}

func (p *prepared) mountBPF(cfg Config, boot string) error {
	if rel, err := filepath.Rel(bpfMount, cfg.BPFDir); err != nil || strings.HasPrefix(rel, "..") {
		return nil // elsewhere: whoever set bpf-dir has a file system there
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bpfMount, &st); err != nil {
		return fmt.Errorf("look at %s: %w: the kernel needs CONFIG_BPF_SYSCALL", bpfMount, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	return p.mount(cfg, boot, bpfMount, "bpf", "mode=700")
}

// mountCgroup gives what is served at the socket a cgroup2 where the node has none that the
// daemon sees; beside version 1 it does no harm, as it has no controllers.
func (p *prepared) mountCgroup(cfg Config, boot string, mountinfo io.Reader) error {
	if cfg.Cgroup != "" {
		return nil
	}
	at := cgroupMount(cfg)
	there, err := hasCgroup2(mountinfo, "/sys/fs/cgroup", at)
	if there || err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return p.mount(cfg, boot, at, "cgroup2", "")
}

// cgroupMount is where [Prepare] mounts a cgroup2: the daemon's container has the
// socket's folder.
func cgroupMount(cfg Config) string { return filepath.Join(filepath.Dir(cfg.Socket), "cgroup2") }

// hasCgroup2 says whether a cgroup2 is mounted at or below one of the paths, by the text
// of a mountinfo (proc(5)).
func hasCgroup2(mountinfo io.Reader, paths ...string) (bool, error) {
	lines := bufio.NewScanner(mountinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		for _, path := range paths {
			if fields[4] != path && !strings.HasPrefix(fields[4], path+"/") {
				continue
			}
			var st unix.Statfs_t // another mount may cover it
			if unix.Statfs(fields[4], &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
				return true, nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("read the node's mounts: %w", err)
	}
	return false, nil
}

func (p *prepared) mount(cfg Config, boot, at, typ, data string) error {
	p.Boot, p.Mounts = boot, union(p.Mounts, []string{at})
	if err := p.store(cfg.StateDir); err != nil {
		return err
	}
	if err := unix.Mount(typ, at, typ, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", typ, at, err)
	}
	return nil
}

// Unprepare removes what [Prepare] has made and nobody else uses, after [Uninstall]. It
// may be repeated, also where nothing was prepared.
func Unprepare(cfg Config, proc string) error {
	if os.Geteuid() != 0 {
		return errors.New("weftd unprepare must run as root, in a privileged container")
	}
	boot, err := bootID(proc)
	if err != nil {
		return err
	}
	return onNode(proc, func() error {
		p, err := readPrepared(cfg.StateDir)
		if err != nil {
			return err
		}
		var errs []error
		if p.Boot == boot {
			for _, at := range p.Mounts {
				errs = append(errs, unmount(at))
			}
		}
		for _, f := range p.Files {
			errs = append(errs, removeUnlocked(f))
		}
		if err := errors.Join(errs...); err != nil {
			return err // the note stays for the next attempt
		}
		if err := os.Remove(filepath.Join(cfg.StateDir, preparedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// Without Prepare, too, these two are ours.
		own := []string{cgroupMount(cfg), filepath.Dir(cfg.Socket), filepath.Clean(cfg.StateDir)}
		folders := union(p.Folders, own)
		slices.SortFunc(folders, func(a, b string) int { return strings.Compare(b, a) }) // the deepest first
		for _, d := range folders {
			errs = append(errs, removeEmpty(d))
		}
		return errors.Join(errs...)
	})
}

// unmount unmounts a file system of ours, unless somebody else keeps something in it.
func unmount(at string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at %s: %w", at, err)
	}
	switch st.Type {
	case unix.BPF_FS_MAGIC:
		entries, err := os.ReadDir(at)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !slices.Contains(bpfOwn, e.Name()) }) {
			return nil
		}
	case unix.CGROUP2_SUPER_MAGIC: // another way to the one hierarchy
	default:
		return nil // unmounted already
	}
	// Containers that have it mounted, too, must not keep the node from losing it.
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// bpfOwn is what the kernel puts into every BPF file system (kernel/bpf/preload).
var bpfOwn = []string{"maps.debug", "progs.debug"}

// removeUnlocked removes a lock file that nobody holds.
func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return os.Remove(path)
}

func readPrepared(stateDir string) (prepared, error) {
	var p prepared
	b, err := os.ReadFile(filepath.Join(stateDir, preparedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return prepared{}, nil // cut short by a crash of the machine: what it named stays
	}
	p.noted = b
	return p, nil
}

// store replaces the note in one step, unless it says this already: a full disk must not
// keep a node that was booted anew from having a network.
func (p *prepared) store(stateDir string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("note what was made: %w", err)
	}
	if bytes.Equal(b, p.noted) {
		return nil
	}
	path := filepath.Join(stateDir, preparedFile)
	if err := writeSynced(path+".tmp", b); err != nil {
		return fmt.Errorf("note what was made: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("note what was made: %w", err)
	}
	p.noted = b
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// union is a with what of b it lacks.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
