package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutLinks makes the kernel answer to this process as one before TCX does: it makes no
// BPF links of that kind (here of none).
func withoutLinks() error {
	const (
		setModeFilter, allThreads = 1, 1 // linux/seccomp.h
		number, firstArg          = 0, 16
		refuse                    = 0x00050000 | uint32(unix.EINVAL) // SECCOMP_RET_ERRNO
		allow                     = 0x7fff0000
		load, equal, end          = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	)
	code := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_BPF, Jf: 3},
		{Code: load, K: firstArg},
		{Code: equal, K: unix.BPF_LINK_CREATE, Jf: 1},
		{Code: end, K: refuse},
		{Code: end, K: allow},
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("set seccomp filter: %w", errno)
	}
	return nil
}

// A kernel that is too old is named, and so is the one that is needed.
func TestKernelWithoutTCXIsNamed(t *testing.T) {
	t.Parallel()
	const asked = "WEFT_TEST_OLD_KERNEL"
	if dir := os.Getenv(asked); dir != "" { // a process of its own: it cannot be undone
		if err := withoutLinks(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("preflight:", Preflight(dir))
		return
	}
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "-test.run=^TestKernelWithoutTCXIsNamed$")
	cmd.Env = append(os.Environ(), asked+"="+bpffs(t))
	out, err := cmd.CombinedOutput()
	must(t, err)
	for _, want := range []string{"preflight: kernel " + release(), "no TCX", "Linux 6.6 or later is needed"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
}
