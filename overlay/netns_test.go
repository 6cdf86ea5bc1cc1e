package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newNetns puts the test's thread into a network namespace of its own, which is
// gone when the test ends. Needs root.
func newNetns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	was, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Setns(int(was.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err) // the thread stays locked, and dies with the goroutine
			return
		}
		was.Close()
		runtime.UnlockOSThread()
	})
	sh(t, "ip link set lo up")
}

// sh runs commands, one a line, and returns their output.
func sh(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(script) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		b, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		out.Write(b)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, b)
		}
	}
	return out.String()
}

// ifindex of a device.
func ifindex(t *testing.T, name string) int {
	t.Helper()
	b, err := exec.Command("ip", "-o", "link", "show", "dev", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	var i int
	if _, err := fmt.Sscanf(string(b), "%d:", &i); err != nil {
		t.Fatal(err)
	}
	return i
}
