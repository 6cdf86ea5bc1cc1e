package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSocketConnect is what a connect(2) costs, by itself (UDP: no packet) and with
// a whole TCP connection on one machine: to an address without any program, to one that
// is no Service's with the programs, and through one of 10 and of 30,000 Services. The
// ways take turns; each figure is a median, in ns, and its ratio to the first.
func BenchmarkSocketConnect(b *testing.B) {
	direct := at(backend4(1), 8080)
	few, many := newSockNode(b), newSockNode(b)
	type way struct {
		name   string
		n      *sockNode
		cgroup string
		to     netip.AddrPort
	}
	ways := []way{
		{"no-program", few, newCgroup(b), direct},
		{"no-service", few, few.cgroup, direct},
		{"of-10", few, few.cgroup, fill(few, 10, direct)},
		{"of-30000", many, many.cgroup, fill(many, 30_000, direct)},
	}
	tcpServer(b, few.host, direct)
	tcpServer(b, many.host, direct)
	for what, kind := range map[string]int{"udp": unix.SOCK_DGRAM, "tcp": unix.SOCK_STREAM} {
		b.Run(what, func(b *testing.B) {
			times := make([][]float64, len(ways))
			for b.Loop() {
				for i, w := range ways {
					inCgroup(b, w.cgroup, func() {
						in(b, w.n.host, func() { times[i] = append(times[i], connects(b, kind, w.to)) })
					})
				}
			}
			var first float64
			for i, w := range ways {
				slices.Sort(times[i])
				median := times[i][len(times[i])/2]
				if i == 0 {
					first = median
				}
				b.ReportMetric(median, w.name+"-ns")
				b.ReportMetric(median/first, w.name+"-ratio")
			}
		})
	}
}

// fill gives a node so many Services, and returns the last one's place.
func fill(n *sockNode, services int, backend netip.AddrPort) netip.AddrPort {
	n.t.Helper()
	var last netip.Addr
	for i := range services {
		last = netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		for _, p := range []Protocol{TCP, UDP} {
			id := SetID(i)<<8 | SetID(p)
			must(n.t, n.Alive.Set(Place{backend.Addr(), backend.Port(), p}, 1))
			must(n.t, n.Backends.Set(Slot{id, 0}, Backend{backend.Addr(), backend.Port(), 1}))
			must(n.t, n.Sets.Set(id, Set{Count: 1}))
			must(n.t, n.Frontends.Set(Place{last, 80, p}, Frontend{Inside: id}))
		}
	}
	return at(last, 80)
}

// connects returns the ns that one of many connects takes, with a socket of its own
// for each connection.
func connects(b *testing.B, kind int, to netip.AddrPort) float64 {
	sa := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	fd := -1
	socket := func() {
		var err error
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		must(b, err)
	}
	const count = 300
	socket()
	start := time.Now()
	for range count {
		if err := unix.Connect(fd, sa); err != nil {
			b.Fatal(err)
		}
		if kind == unix.SOCK_STREAM { // a reset at the end, or ports would run out
			must(b, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			must(b, unix.Close(fd))
			socket()
		}
	}
	took := time.Since(start)
	must(b, unix.Close(fd))
	return float64(took.Nanoseconds()) / count
}

// BenchmarkEndSockets is what a backend's end costs on a node with 60,000 translated
// sockets: when none is the backend's, and when one is.
func BenchmarkEndSockets(b *testing.B) {
	n := newSockNode(b)
	tcpServer(b, n.host, at(backend4(1), 8080))
	n.serve(Place{service4, 80, TCP}, Frontend{}, at(backend4(1), 8080))
	for i := range uint64(60_000) {
		row := weftConnected{Backend: toAddr(backend4(2)), BackendPort: uint16(i % 500), Proto: uint8(TCP), Family: unix.AF_INET, Netns: 1}
		must(b, set(n.Datapath, weftMapSockets, 1<<40+i, row))
	}
	dead := func(p Place, _ uint32) bool { return p.Addr == backend4(1) }
	end := func(want int) {
		if got, err := n.EndSockets(dead, nsPath(n.host), nsPath(n.pod)); err != nil || got != want {
			b.Fatalf("ended %d, error %v; want %d", got, err, want)
		}
	}
	b.Run("none", func(b *testing.B) {
		for b.Loop() {
			end(0)
		}
	})
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			_, _, err := n.dial(n.host, "tcp", at(service4, 80))
			must(b, err)
			b.StartTimer()
			end(1)
		}
	})
}
