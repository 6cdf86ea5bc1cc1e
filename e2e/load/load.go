// Package load makes load in network namespaces and measures it: requests on one
// connection, connections, streams, datagrams. It is what benchmarks and the demo
// compare ways through the kernel with, so it adds as little of its own as it can:
// each end is a process of one busy thread, pinned to a CPU, in blocking system calls.
//
// A program that uses the package calls [Main] first: the ends are that program again.
package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/internal/testnet"
)

// Kind is what is measured.
type Kind string

// The kinds, after netperf's names.
const (
	RR     Kind = "rr"     // requests of one byte, one after the other on one TCP connection
	CRR    Kind = "crr"    // TCP connections, each for one request
	Stream Kind = "stream" // bytes over TCP
	Answer Kind = "answer" // bytes over TCP, from the server to the client
	UDP    Kind = "udp"    // received datagrams of 18 bytes
)

// Path is two namespaces and the address of the second.
type Path struct {
	From, To *testnet.NS
	Addr     netip.Addr
	Port     uint16 // of the server, if there is only one load; 0: any
	// Service is where the client goes to reach Addr and Port; zero: to them.
	Service netip.AddrPort
	// Join is told of the client's command before it starts, and what it returns is
	// called when that has started; nil: nothing is.
	Join func(*exec.Cmd) (func(), error)
}

// envWorker marks a process as an end; its arguments are in it.
const envWorker = "WEFT_LOAD_WORKER"

// Main turns the process into an end if it was started as one. It returns otherwise.
func Main() {
	if spec := os.Getenv(envWorker); spec != "" {
		if err := work(strings.Fields(spec)); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// worker is one end.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	err strings.Builder // what it wrote to standard error; readable once it has ended
}

// start starts an end and waits until it is ready; it says on which port.
func start(ns *testnet.NS, cpu int, kind Kind, role string, at netip.AddrPort, join func(*exec.Cmd) (func(), error)) (*worker, uint16, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	w := &worker{cmd: exec.Command(exe)}
	w.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOGC=off",
		fmt.Sprintf("%s=%s %s %s", envWorker, kind, role, at))
	w.cmd.Stderr = &w.err
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, 0, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	w.out = bufio.NewScanner(out)
	if join != nil {
		joined, err := join(w.cmd)
		if err != nil {
			return nil, 0, err
		}
		defer joined()
	}
	if err := ns.Do(func() error { return pinned(cpu, w.cmd.Start) }); err != nil {
		return nil, 0, fmt.Errorf("start %s %s: %w", kind, role, err)
	}
	var port uint16
	if !w.out.Scan() {
		w.stop()
		return nil, 0, fmt.Errorf("%s %s did not start: %s", kind, role, &w.err)
	}
	if _, err := fmt.Sscan(w.out.Text(), &port); err != nil {
		w.stop()
		return nil, 0, fmt.Errorf("%s %s says %q, want a port", kind, role, w.out.Text())
	}
	return w, port, nil
}

// pinned runs f, and what it starts, on one CPU. The thread must be locked.
func pinned(cpu int, f func() error) error {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read affinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	err := f()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// sample asks the end how much it has done, and when that was (its own clock).
func (w *worker) sample() (count uint64, at time.Duration, err error) {
	if _, err := io.WriteString(w.in, "\n"); err != nil {
		return 0, 0, fmt.Errorf("ask for the count: %w", err)
	}
	if !w.out.Scan() {
		w.stop()
		return 0, 0, fmt.Errorf("the load ended early: %s", &w.err)
	}
	_, err = fmt.Sscan(w.out.Text(), &count, (*int64)(&at))
	return count, at, err
}

// stop ends the end. It can be repeated.
func (w *worker) stop() {
	w.in.Close()
	w.cmd.Process.Kill()
	w.cmd.Wait()
}

// Measure runs n loads side by side for the time, after a short warm-up, and returns
// their sum per second: requests, connections, bytes or datagrams. Load i has both ends
// on CPU i modulo the number of CPUs, beginning with the last, so that what is
// measured is the cost of the way and not the scheduler's luck.
func Measure(p Path, kind Kind, n int, d time.Duration) (perSecond float64, err error) {
	var all, counting []*worker
	defer func() {
		for _, w := range slices.Backward(all) { // a client before its server
			w.stop()
		}
	}()
	cpus := CPUs()
	for i := range n {
		cpu := cpus[(len(cpus)-1+i)%len(cpus)]
		server, port, err := start(p.To, cpu, kind, "server", netip.AddrPortFrom(p.Addr, p.Port), nil)
		if err != nil {
			return 0, err
		}
		all = append(all, server)
		to := netip.AddrPortFrom(p.Addr, port)
		if p.Service.IsValid() {
			to = p.Service
		}
		client, _, err := start(p.From, cpu, kind, "client", to, p.Join)
		if err != nil {
			return 0, err
		}
		all = append(all, client)
		if kind == RR || kind == CRR || kind == Answer {
			counting = append(counting, client)
		} else {
			counting = append(counting, server)
		}
	}
	time.Sleep(warmUp)
	type mark struct {
		count uint64
		at    time.Duration
	}
	first := make([]mark, len(counting))
	for i, w := range counting {
		if first[i].count, first[i].at, err = w.sample(); err != nil {
			return 0, err
		}
	}
	time.Sleep(d)
	for i, w := range counting {
		count, at, err := w.sample()
		if err != nil {
			return 0, err
		}
		perSecond += float64(count-first[i].count) / (at - first[i].at).Seconds()
	}
	return perSecond, nil
}

const warmUp = 150 * time.Millisecond

// CPUs are those the process may use.
func CPUs() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return []int{0}
	}
	var cpus []int
	for i := range 1024 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}
