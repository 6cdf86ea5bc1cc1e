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
	"time"
)

// EnvArm names the file that arms the counter. While it does not exist nothing
// is counted; another content starts the count again. Its first field is the number
// n >= 1 of the write to act after, or 0 to only count. The second says how to act:
// "die", or "hold", which copies the file to EnvArm + ".held" and waits until EnvArm is
// removed or another, so that the test can kill another process meanwhile. What follows
// only makes the content another. The name of each write is appended to EnvArm + ".log".
// EnvArm + ".lock" is locked (flock) from the look at EnvArm to the name in the log and
// the end: who holds it sees no process between the two.
const EnvArm = "WEFT_CRASH_ARM"

var (
	mu    sync.Mutex
	armed string // content of the file
	hold  bool
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
	unlock := lock(path)
	defer unlock()
	b, err := os.ReadFile(path)
	if err != nil {
		armed = ""
		return
	}
	if armed != string(b) {
		armed = string(b)
		fields := append(strings.Fields(armed), "", "")
		if left, err = strconv.Atoi(fields[0]); err != nil {
			panic(fmt.Sprintf("%s holds %q, want a number", path, b))
		}
		hold = fields[1] == "hold"
	}
	if f, err := os.OpenFile(path+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintln(f, name)
		f.Close()
	}
	if left == 0 {
		return
	}
	if left--; left > 0 {
		return
	}
	if hold {
		unlock()
		wait(path, b)
		return
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// lock returns when no other process acts on path, with what ends that; which may be
// called again.
func lock(path string) (unlock func()) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		panic(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		panic(err)
	}
	return func() { f.Close() }
}

// wait tells that the process holds, and returns when path has other content. (It may
// have by now: then nobody waits for a word of this hold, and nobody would end it.)
func wait(path string, content []byte) {
	held := path + ".held"
	if err := os.WriteFile(held, content, 0o600); err != nil {
		panic(err)
	}
	for {
		if b, err := os.ReadFile(path); err != nil || string(b) != string(content) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_ = os.Remove(held) // the test may have
}
