package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/internal/testnet"
)

// asNode makes the test's binary the first process of a node: it has a mount namespace
// of its own, in which what Prepare touches is empty, and a cgroup namespace, as in kind.
// It lives until its input ends.
const asNode = "WEFT_TEST_NODE"

// beNode mounts empty file systems over what Prepare touches.
func beNode() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib", "/opt", "/etc", "/sys/fs"} {
		if err := unix.Mount("none", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount over %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/sys/fs/bpf", "/sys/fs/cgroup"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	fmt.Println(unix.Gettid())
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// fakeNode is a node with nothing on it.
type fakeNode struct {
	t      *testing.T
	proc   string // as a container sees the node's /proc
	root   string // the node's files
	cgroup string // that its processes are in
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	testnet.Require(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asNode+"=1")
	top, err := bpf.FindCgroup()
	if err != nil {
		t.Fatal(err)
	}
	cgroup, err := os.MkdirTemp(top, "weft-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testnet.Until(t, converge, func() error { return os.Remove(cgroup) }) })
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the node's process: %v", err)
		}
	})
	var thread int
	if _, err := fmt.Fscanln(stdout, &thread); err != nil {
		t.Fatal("the node's process does not come up:", err)
	}
	n := &fakeNode{t: t, proc: t.TempDir(), root: fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), cgroup: cgroup}
	n.must(os.Symlink(fmt.Sprintf("/proc/%d/task/%d", cmd.Process.Pid, thread), filepath.Join(n.proc, "1")))
	n.must(os.Symlink("/proc/sys", filepath.Join(n.proc, "sys")))
	return n
}

func (n *fakeNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// files is all files below what the node's process has mounted, with their modes, and
// what is mounted where.
func (n *fakeNode) files() map[string]string {
	n.t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"/run", "/var/lib", "/opt", "/etc", "/sys/fs"} {
		n.must(filepath.WalkDir(n.root+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, n.root)
			switch st.Type {
			case unix.BPF_FS_MAGIC:
				if slices.Contains(bpfOwn, d.Name()) {
					return nil
				}
				out[name] = "bpf"
			case unix.CGROUP2_SUPER_MAGIC:
				out[name] = "cgroup2"
				return fs.SkipDir
			default:
				out[name] = info.Mode().String()
			}
			return nil
		}))
	}
	return out
}

// do runs f in the node's mount namespace.
func (n *fakeNode) do(f func() error) {
	n.t.Helper()
	n.must(onNode(n.proc, f))
}

func TestPrepareMakesWhatIsMissingAndUnprepareRemovesIt(t *testing.T) {
	n := newFakeNode(t)
	cfg := DefaultConfig()
	before := n.files()
	n.must(Prepare(cfg, n.proc))
	want := map[string]string{
		"/var/lib/weft": "drwx------", "/var/lib/weft/prepared.json": "-rw-------",
		"/run/weft": "drwxr-xr-x", "/run/weft/cgroup2": "cgroup2", "/run/netns": "drwxr-xr-x", "/run/xtables.lock": "-rw-------",
		"/opt/cni": "drwxr-xr-x", "/opt/cni/bin": "drwxr-xr-x", "/etc/cni": "drwxr-xr-x", "/etc/cni/net.d": "drwxr-xr-x",
		"/sys/fs/bpf": "bpf",
	}
	for name, mode := range before {
		if _, ok := want[name]; !ok {
			want[name] = mode
		}
	}
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Errorf("after Prepare (-want +got):\n%s", diff)
	}
	// It is the node's own cgroup, not that of all nodes on the machine.
	var own, mounted unix.Stat_t
	n.must(unix.Stat(n.cgroup, &own))
	n.must(unix.Stat(n.root+"/run/weft/cgroup2", &mounted))
	if own.Ino != mounted.Ino {
		t.Errorf("the cgroup2 of the node is %d, the node's processes are in %d", mounted.Ino, own.Ino)
	}
	n.must(Prepare(cfg, n.proc)) // the container was restarted
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Errorf("after Prepare again (-want +got):\n%s", diff)
	}
	n.must(Unprepare(cfg, n.proc))
	if diff := cmp.Diff(before, n.files()); diff != "" {
		t.Errorf("after Unprepare (-want +got):\n%s", diff)
	}
	n.must(Unprepare(cfg, n.proc))
	if diff := cmp.Diff(before, n.files()); diff != "" {
		t.Errorf("after Unprepare again (-want +got):\n%s", diff)
	}
}

func TestUnprepareLeavesWhatWasThereAndWhatOthersUse(t *testing.T) {
	cfg := DefaultConfig()
	note := filepath.Join(cfg.StateDir, preparedFile)
	dirs := func(list ...string) func() error {
		return func() error {
			for _, d := range list {
				if err := os.MkdirAll(d, 0o755); err != nil {
					return err
				}
			}
			return nil
		}
	}
	mount := func(typ, at string) error { return unix.Mount(typ, at, typ, 0, "") }
	for _, tc := range []struct {
		name          string
		before, after func() error // Prepare
		stays         []string     // besides what was there before
	}{
		{name: "folders were there", before: dirs("/opt/cni/bin", "/etc/cni/net.d", "/run/netns")},
		{name: "file systems were there", before: func() error {
			if err := mount("bpf", "/sys/fs/bpf"); err != nil {
				return err
			}
			if err := dirs("/sys/fs/cgroup/unified")(); err != nil {
				return err
			}
			return mount("cgroup2", "/sys/fs/cgroup/unified")
		}},
		{name: "the lock was there", before: func() error { return os.WriteFile(xtablesLock, nil, 0o600) }},
		{name: "others came", after: dirs("/opt/cni/bin/theirs", "/run/netns/cni-1", "/sys/fs/bpf/theirs"),
			stays: []string{"/opt/cni", "/opt/cni/bin", "/opt/cni/bin/theirs", "/run/netns", "/run/netns/cni-1", "/sys/fs/bpf", "/sys/fs/bpf/theirs"}},
		{name: "noted in a former boot", after: func() error {
			// The mounts of this boot are whoever's.
			b, err := json.Marshal(prepared{Boot: "former", Mounts: []string{bpfMount}})
			if err != nil {
				return err
			}
			return os.WriteFile(note, b, 0o600)
		}, stays: []string{"/sys/fs/bpf", "/run/weft", "/run/weft/cgroup2", "/opt/cni", "/opt/cni/bin", "/etc/cni", "/etc/cni/net.d", "/run/netns", xtablesLock}},
		{name: "the note was cut short", after: func() error { return os.WriteFile(note, []byte(`{"fol`), 0o600) },
			stays: []string{"/sys/fs/bpf", "/run/weft", "/run/weft/cgroup2", "/opt/cni", "/opt/cni/bin", "/etc/cni", "/etc/cni/net.d", "/run/netns", xtablesLock}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newFakeNode(t)
			if tc.before != nil {
				n.do(tc.before)
			}
			want := n.files()
			n.must(Prepare(cfg, n.proc))
			if tc.after != nil {
				n.do(tc.after)
			}
			then := n.files()
			for _, name := range tc.stays {
				want[name] = then[name]
			}
			n.must(Unprepare(cfg, n.proc))
			if diff := cmp.Diff(want, n.files()); diff != "" {
				t.Errorf("after Unprepare (-want +got):\n%s", diff)
			}
		})
	}
}

// What the settings say is elsewhere is not mounted.
func TestPrepareGoesByTheSettings(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no sockets":     func(c *Config) { c.Cgroup = noSockets },
		"another cgroup": func(c *Config) { c.Cgroup = "/sys/fs/cgroup/mine" },
	} {
		n := newFakeNode(t)
		cfg := DefaultConfig()
		cfg.BPFDir, cfg.BinDir = "/run/bpf/weft", "/opt/other"
		change(&cfg)
		n.must(Prepare(cfg, n.proc))
		got := n.files()
		for path, want := range map[string]string{
			"/sys/fs/bpf": "drwxr-xr-x", "/opt/other": "drwxr-xr-x", "/opt/cni": "", "/run/weft/cgroup2": "",
		} {
			if got[path] != want {
				t.Errorf("%s: %s is %q, want %q", name, path, got[path], want)
			}
		}
	}
}

func TestPrepareSaysWhatItsContainerLacks(t *testing.T) {
	testnet.Require(t)
	empty := t.TempDir()
	err := Prepare(DefaultConfig(), empty)
	if err == nil {
		t.Fatal("no error without the node's /proc")
	}
	n := &fakeNode{t: t, proc: empty}
	n.must(os.MkdirAll(filepath.Join(empty, "1"), 0o755))
	n.must(os.WriteFile(filepath.Join(empty, "1", "mountinfo"), nil, 0o644))
	n.must(os.Symlink("/proc/sys", filepath.Join(empty, "sys")))
	if err := Prepare(DefaultConfig(), empty); err == nil || !strings.Contains(err.Error(), "mounted at "+empty) {
		t.Errorf("error %v does not say what to mount", err)
	}
}

// A container that is not privileged has /proc/sys read-only.
func TestSysctlsCanBeWrittenInAContainer(t *testing.T) {
	testnet.Require(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread has mounts of its own
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_FS); err != nil {
				return err
			}
			for _, m := range []struct {
				from  string
				flags uintptr
			}{{"/", unix.MS_REC | unix.MS_PRIVATE}, {"/proc/sys", unix.MS_BIND}, {"/proc/sys", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY}} {
				if err := unix.Mount(m.from, m.from, "", m.flags, ""); err != nil {
					return fmt.Errorf("mount %s: %w", m.from, err)
				}
			}
			write := func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }
			if write() == nil {
				return fmt.Errorf("/proc/sys is writable: the test proves nothing")
			}
			for range 2 {
				if err := openSysctls("/proc/sys"); err != nil {
					return err
				}
			}
			return write()
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
