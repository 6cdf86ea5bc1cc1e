package bpf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Preflight says what this machine lacks for the datapath, and what to do about it;
// nil if nothing. It changes nothing.
func Preflight(dir string) error {
	if err := onBPFFS(dir); err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "weft_probe",
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("load a BPF program: %w: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", err)
	} else if err != nil {
		return fmt.Errorf("load a BPF program: %w: the kernel needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT", err)
	}
	defer prog.Close()
	if err := features.HaveMapType(ebpf.LPMTrie); err != nil {
		return fmt.Errorf("kernel %s has no LPM trie maps: Linux 6.6 or later is needed: %w", release(), err)
	}
	if err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer); err != nil {
		return fmt.Errorf("kernel %s has no bpf_redirect_peer: Linux 6.6 or later is needed: %w", release(), err)
	}
	if err := features.HaveProgramType(ebpf.CGroupSockAddr); err != nil {
		return fmt.Errorf("kernel %s has no BPF programs for sockets of a cgroup: it needs CONFIG_CGROUP_BPF: %w", release(), err)
	}
	// No device has this index, so nothing is attached: the kernel that knows TCX
	// says so, the kernel that does not is told apart by the library.
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress,
	})
	switch {
	case err == nil:
		l.Close()
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("kernel %s has no TCX (BPF links for tc): Linux 6.6 or later is needed: %w", release(), err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("attach a BPF program: %w: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", err)
	case !errors.Is(err, unix.ENODEV):
		return fmt.Errorf("attach a BPF program: %w", err)
	}
	return haveClsact(prog)
}

// haveClsact checks that a program can be run in a filter, on the loopback device of a
// network namespace of its own, which goes at once. Where none may be made, nothing is
// said.
func haveClsact(prog *ebpf.Program) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	if unix.Unshare(unix.CLONE_NEWNET) != nil {
		runtime.UnlockOSThread()
		return nil
	}
	c, err := openTC()
	if err == nil {
		err = c.setFilter(Hook{Program: FromPod, IfIndex: 1}, prog)
		c.close()
	}
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return fmt.Errorf("leave network namespace: %w", back) // the thread is not used again
	}
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("kernel %s cannot run a BPF program in a tc filter: it needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modprobe sch_ingress cls_bpf): %w", release(), err)
	}
	return nil
}

// onBPFFS checks that dir, or where it is to be made, is on a BPF file system.
func onBPFFS(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("folder for BPF pins %q is not an absolute path", dir)
	}
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var fs unix.Statfs_t
		err := unix.Statfs(at, &fs)
		if errors.Is(err, os.ErrNotExist) && at != "/" {
			continue
		} else if err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		if fs.Type == unix.BPF_FS_MAGIC {
			return nil
		}
		return fmt.Errorf("%s is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, or set bpf-dir to a folder on one", dir)
	}
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}
