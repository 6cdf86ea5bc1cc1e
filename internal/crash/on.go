//go:build weft_crash

// Package crash lets tests kill a Weft process right after any single write.
package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// EnvArm names the file that arms the counter. While it does not exist nothing
// is counted. Its content is the number n >= 1 of the write to die after; 0
// only counts. The name of each write is appended to the file EnvArm + ".log".
const EnvArm = "WEFT_CRASH_ARM"

var (
	mu    sync.Mutex
	armed bool
	left  int
)

// Point counts one write and, if it is the armed one, kills the process.
func Point(name string) {
	path := os.Getenv(EnvArm)
	if path == "" {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	b, err := os.ReadFile(path)
	if err != nil {
		armed = false
		return
	}
	if !armed {
		armed = true
		left, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if f, err := os.OpenFile(path+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintln(f, name)
		f.Close()
	}
	if left > 0 {
		if left--; left == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
