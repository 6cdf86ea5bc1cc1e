package plugin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// isBusy says whether who listens on a unix socket waits for a processor: some thread of
// it can run, and still can a moment later. One that is stopped or blocked cannot; one that
// turns in a circle can, and is its liveness probe's matter. False also if the process is not
// to be seen from here.
func isBusy(socket string) bool {
	pid, err := listener(socket)
	if err != nil {
		return false
	}
	if !canRun(pid) {
		return false
	}
	time.Sleep(2 * time.Millisecond)
	return canRun(pid)
}

// listener is the process that listens on a unix socket (unix(7), SO_PEERCRED). It is an
// error if no more connections fit into its queue.
func listener(socket string) (int32, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return 0, fmt.Errorf("connect to %s: %w", socket, err)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("getsockopt SO_PEERCRED: %w", err)
	}
	return cred.Pid, nil
}

// canRun says whether a thread of a process runs or is ready to (proc(5), state R).
func canRun(pid int32) bool {
	if pid <= 0 {
		return false
	}
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // the thread has ended
		}
		if _, rest, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(" ")); ok && bytes.HasPrefix(rest, []byte("R")) {
			return true
		}
	}
	return false
}
