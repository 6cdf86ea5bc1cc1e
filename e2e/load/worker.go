package load

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
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
	answer := func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			n, now := count.Load(), time.Since(begin)
			fmt.Println(n, int64(now))
		}
		os.Exit(0)
	}
	ready := func(port uint16) {
		fmt.Println(port)
		go answer()
	}
	runtime.LockOSThread()
	loops := map[string]func(netip.AddrPort, func(uint16)) error{
		"rr server": serveRR, "rr client": askRR, "crr server": serveCRR, "crr client": askCRR,
		"stream server": serveStream, "stream client": askStream,
		"answer server": serveAnswer, "answer client": askAnswer, "udp server": serveUDP, "udp client": askUDP,
	}
	loop := loops[string(kind)+" "+role]
	if loop == nil {
		return fmt.Errorf("unknown load %s %s", kind, role)
	}
	return loop(at, ready)
}

func serveRR(at netip.AddrPort, ready func(uint16)) error {
	l, err := listen(at, ready)
	if err != nil {
		return err
	}
	fd, err := accept(l)
	if err != nil {
		return err
	}
	if err := noDelay(fd); err != nil {
		return err
	}
	var b [1]byte
	for {
		if err := readFull(fd, b[:]); err != nil {
			return err
		}
		if err := write(fd, b[:]); err != nil {
			return err
		}
	}
}

func askRR(at netip.AddrPort, ready func(uint16)) error {
	fd, err := dial(at)
	if err != nil {
		return err
	}
	if err := noDelay(fd); err != nil {
		return err
	}
	ready(0)
	var b [1]byte
	for {
		if err := write(fd, b[:]); err != nil {
			return err
		}
		if err := readFull(fd, b[:]); err != nil {
			return err
		}
		count.Add(1)
	}
}

// serveCRR closes first, so that the closed connections that must be remembered
// (TIME_WAIT) are the server's and the client does not run out of ports.
func serveCRR(at netip.AddrPort, ready func(uint16)) error {
	l, err := listen(at, ready)
	if err != nil {
		return err
	}
	var b [1]byte
	for {
		fd, err := accept(l)
		if err != nil {
			return err
		}
		if err := readFull(fd, b[:]); err != nil {
			return err
		}
		if err := write(fd, b[:]); err != nil {
			return err
		}
		closeFD(fd)
	}
}

func askCRR(at netip.AddrPort, ready func(uint16)) error {
	ready(0)
	var b [1]byte
	for {
		fd, err := dial(at)
		if err != nil {
			return err
		}
		if err := write(fd, b[:]); err != nil {
			return err
		}
		if err := readFull(fd, b[:]); err != nil {
			return err
		}
		if n, _ := read(fd, b[:]); n > 0 {
			return fmt.Errorf("%d bytes after the answer", n)
		}
		closeFD(fd)
		count.Add(1)
	}
}

// chunk is how much one system call moves: as iperf3 does.
const chunk = 128 << 10

func serveStream(at netip.AddrPort, ready func(uint16)) error {
	fd, err := acceptOne(at, ready)
	if err != nil {
		return err
	}
	return drain(fd)
}

func askStream(at netip.AddrPort, ready func(uint16)) error {
	fd, err := dial(at)
	if err != nil {
		return err
	}
	ready(0)
	return pour(fd)
}

func serveAnswer(at netip.AddrPort, ready func(uint16)) error {
	fd, err := acceptOne(at, ready)
	if err != nil {
		return err
	}
	return pour(fd)
}

func askAnswer(at netip.AddrPort, ready func(uint16)) error {
	fd, err := dial(at)
	if err != nil {
		return err
	}
	ready(0)
	return drain(fd)
}

func acceptOne(at netip.AddrPort, ready func(uint16)) (int, error) {
	l, err := listen(at, ready)
	if err != nil {
		return -1, err
	}
	return accept(l)
}

// pour writes without end.
func pour(fd int) error {
	b := make([]byte, chunk)
	for {
		if err := write(fd, b); err != nil {
			return err
		}
	}
}

// drain counts what it reads until the other end closes.
func drain(fd int) error {
	b := make([]byte, chunk)
	for {
		n, err := read(fd, b)
		if err != nil || n == 0 {
			return err
		}
		count.Add(uint64(n))
	}
}
