package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCgroupHierarchiesAreMountedAgainAsTheyAre(t *testing.T) {
	const both = `26 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 27 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
34 26 0:30 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
`
	want := []cgroupMount{
		{"/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"},
		{"/sys/fs/cgroup/systemd", "cgroup", "xattr,none,name=systemd"},
		{"/sys/fs/cgroup/unified", "cgroup2", ""},
	}
	if diff := cmp.Diff(want, parseMounts(strings.NewReader(both)), cmp.AllowUnexported(cgroupMount{})); diff != "" {
		t.Errorf("both versions (-want +got):\n%s", diff)
	}
	const v2 = "30 27 0:26 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	want = []cgroupMount{{"/sys/fs/cgroup", "cgroup2", ""}}
	if diff := cmp.Diff(want, parseMounts(strings.NewReader(v2)), cmp.AllowUnexported(cgroupMount{})); diff != "" {
		t.Errorf("version 2 (-want +got):\n%s", diff)
	}
}

func TestOnlyEmptyFoldersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"ours/bin/x", "ours/lib", "theirs/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "theirs/bin/tool"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is gone already is no error
		if err := removeEmpty(filepath.Join(dir, "ours")); err != nil {
			t.Errorf("remove empty folders: %v", err)
		}
	}
	if err := removeEmpty(filepath.Join(dir, "theirs")); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove a folder with a file = %v, want %v", err, syscall.ENOTEMPTY)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != "theirs" {
		t.Errorf("left are %v, want theirs", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "theirs/bin/tool")); err != nil {
		t.Error(err)
	}
}
