package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// ErrNoCgroup is returned by [FindCgroup] where no cgroup2 file system is mounted.
var ErrNoCgroup = errors.New("no cgroup2 file system is mounted: run `mount -t cgroup2 none /sys/fs/cgroup/unified` (or mount the host's /sys/fs/cgroup into the daemon's container)")

// FindCgroup returns the folder of the highest cgroup that this process can see: where
// cgroup2 is mounted, be it /sys/fs/cgroup or, beside version 1, /sys/fs/cgroup/unified.
// In a container whose runtime gives it a cgroup namespace that is a mount of the
// host's folder, if there is one; in a node that is a container itself (kind), it is
// that container's.
func FindCgroup() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer f.Close()
	return highestCgroup(f)
}

// highestCgroup reads mountinfo (proc(5)): "36 35 98:0 ROOT MOUNTPOINT OPTIONS - TYPE …".
// ROOT is seen from the process's cgroup namespace: "/" is the namespace's own, each
// ".." is one above.
func highestCgroup(mountinfo io.Reader) (string, error) {
	found, height := "", 0
	lines := bufio.NewScanner(mountinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		h := 0
		for part := range strings.SplitSeq(fields[3], "/") {
			switch part {
			case "":
			case "..":
				h++
			default:
				h--
			}
		}
		if found == "" || h > height {
			found, height = unescape(fields[4]), h
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find cgroup2: read mounts: %w", err)
	}
	if found == "" {
		return "", ErrNoCgroup
	}
	return found, nil
}

// unescape undoes the octal escapes of white space in mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
