package load

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// count is what this end has done; the parent asks for it.
var count atomic.Uint64

// work is an end's life: kind, role, address. It ends when the parent closes its
// standard input, or kills it.
func work(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want kind, role and address, got %q", args)
	}
	kind, role := Kind(args[0]), args[1]
	at, err := netip.ParseAddrPort(args[2])
	if err != nil {
		return err
	}
	begin := time.Now()
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			n, now := count.Load(), time.Since(begin)
			fmt.Println(n, int64(now))
		}
		os.Exit(0)
	}()
	runtime.LockOSThread()
	loops := map[string]func(netip.AddrPort) error{
		"rr server": serveRR, "rr client": askRR, "crr server": serveCRR, "crr client": askCRR,
		"stream server": serveStream, "stream client": askStream, "udp server": serveUDP, "udp client": askUDP,
	}
	loop := loops[string(kind)+" "+role]
	if loop == nil {
		return fmt.Errorf("unknown load %s %s", kind, role)
	}
	return loop(at)
}

// The loops use raw system calls: the Go scheduler learns nothing of them and adds
// nothing to them. The thread that answers the parent is another one.

func read(fd int, b []byte) int {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if e == 0 {
			return int(n)
		} else if e != unix.EINTR {
			return -1
		}
	}
}

func write(fd int, b []byte) int {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if e == 0 {
			return int(n)
		} else if e != unix.EINTR {
			return -1
		}
	}
}

// socket makes a socket of the address's family. TCP uses cubic, whatever the machine's
// default is: BBR halves single streams on veth.
func socket(at netip.AddrPort, typ int) (int, unix.Sockaddr, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().Unmap().As16Tail()}
	return 0, sa, nil
}
