package bpf

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onCgroup returns the ids of the programs that a cgroup has of its own at one place.
func onCgroup(t testing.TB, dir string, at ebpf.AttachType) []ebpf.ProgramID {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	r, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
	must(t, err)
	ids := []ebpf.ProgramID{}
	for _, p := range r.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func wantOnCgroup(t *testing.T, when, dir string, want map[Program]ebpf.ProgramID) {
	t.Helper()
	for p, at := range socketTypes {
		ids := []ebpf.ProgramID{}
		if id, ok := want[p]; ok {
			ids = append(ids, id)
		}
		got := onCgroup(t, dir, at)
		// The kernel ends a link whose pin was removed a moment after.
		for deadline := time.Now().Add(10 * time.Second); len(got) > len(ids) && time.Now().Before(deadline); got = onCgroup(t, dir, at) {
			time.Sleep(10 * time.Millisecond)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("%s: %s runs %v, want %v", when, p, got, ids)
		}
	}
}

func dumpSocketHooks(t *testing.T, n *sockNode) map[Program]struct{} {
	t.Helper()
	got, err := n.SocketHooks(n.cgroup).Dump()
	must(t, err)
	return got
}

func TestSocketHooksAreAdoptedAndRemoved(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	must(t, n.Commit())
	tcpServer(t, n.host, at(backend4(1), 8080))
	n.serve(Place{service4, 80, TCP}, Frontend{}, at(backend4(1), 8080))
	c, _, err := n.dial(n.host, "tcp", at(service4, 80))
	must(t, err)
	wantOnCgroup(t, "at first", n.cgroup, n.ids)
	old := n.ids
	must(t, n.Datapath.Close())
	if _, _, err := n.dial(n.host, "tcp", at(service4, 80)); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	n.start()
	if diff := cmp.Diff(dumpSocketHooks(t, n), SocketPrograms()); diff != "" {
		t.Errorf("hooks after restart (-got +want):\n%s", diff)
	}
	wantOnCgroup(t, "after restart", n.cgroup, old)
	must(t, n.Commit())
	wantOnCgroup(t, "after Commit", n.cgroup, n.ids)
	// The links of devices are another table.
	if got := dumpLinks(t, n.Datapath); len(got) != 0 {
		t.Errorf("links of devices: %v, want none", got)
	}
	if got := remoteOf(t, c); got != at(service4, 80).String() {
		t.Errorf("peer of an old connection is %s, want %s", got, at(service4, 80))
	}
	must(t, n.SocketHooks(n.cgroup).Delete(SockRecv4))
	must(t, n.SocketHooks(n.cgroup).Delete(SockRecv4))
	if got := onCgroup(t, n.cgroup, ebpf.AttachCGroupUDP4Recvmsg); len(got) != 0 {
		t.Errorf("after Delete runs %v", got)
	}
	if err := n.Links().Set(Hook{Program: SockConnect4, IfIndex: 1}, struct{}{}); err == nil {
		t.Error("attaching a program of sockets to a device succeeded")
	}
	for _, p := range []Program{FromPod, "other"} {
		if err := n.SocketHooks(n.cgroup).Set(p, struct{}{}); err == nil {
			t.Errorf("attaching %s to a cgroup succeeded", p)
		}
	}
	if err := n.SocketHooks(n.cgroup+"-not-there").Set(SockPeer4, struct{}{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("attaching to a cgroup that is not there: %v", err)
	}
	must(t, Remove(n.o.Dir))
	wantOnCgroup(t, "after Remove", n.cgroup, nil)
	if exists(n.o.Dir) {
		t.Error("after Remove the folder is still there")
	}
}

// remoteOf asks the kernel for a connection's peer.
func remoteOf(t *testing.T, c net.Conn) string {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	must(t, err)
	var peer string
	must(t, raw.Control(func(fd uintptr) {
		sa, err := unix.Getpeername(int(fd))
		must(t, err)
		in4, ok := sa.(*unix.SockaddrInet4)
		if !ok {
			t.Fatalf("peer %+v", sa)
		}
		peer = (&net.TCPAddr{IP: in4.Addr[:], Port: in4.Port}).String()
	}))
	return peer
}

// An upgrade to another layout moves the links at Commit, and what the programs have
// remembered goes with them: peers' names, answers of UDP, backends to end.
func TestSocketHooksMoveAtUpgrade(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	must(t, n.Commit())
	fill := func() {
		for _, p := range []Protocol{TCP, UDP} {
			n.serve(Place{service4, 80, p}, Frontend{}, at(backend4(1), 8080), at(backend4(2), 8080))
		}
	}
	fill()
	for i := 1; i <= 2; i++ {
		tcpServer(t, n.host, at(backend4(i), 8080))
		udpServer(t, n.host, at(backend4(i), 8080))
	}
	c, _, err := n.dial(n.host, "tcp", at(service4, 80))
	must(t, err)
	var s *net.UDPConn
	n.do(n.host, func() { s = udpSocket(t, n.host, at(netip.IPv4Unspecified(), 0)) })
	_, err = s.WriteToUDPAddrPort([]byte("?"), at(service4, 80)) // answered after the upgrade
	must(t, err)
	old, layout := n.ids, n.Layout()
	n.o.MaxPeers = 32
	n.start()
	if n.Layout() == layout {
		t.Fatal("the layout did not change")
	}
	if diff := cmp.Diff(dumpSocketHooks(t, n), SocketPrograms()); diff != "" {
		t.Errorf("hooks before Commit (-got +want):\n%s", diff)
	}
	wantOnCgroup(t, "before Commit", n.cgroup, old)
	fill()
	must(t, n.Commit())
	wantOnCgroup(t, "after Commit", n.cgroup, n.ids)
	_, from, err := s.ReadFromUDPAddrPort(make([]byte, 100))
	must(t, err)
	if from = at(from.Addr().Unmap(), from.Port()); from != at(service4, 80) {
		t.Errorf("an answer to what was sent before the upgrade came from %s, want %s", from, at(service4, 80))
	}
	if got := remoteOf(t, c); got != at(service4, 80).String() {
		t.Errorf("peer of an old connection is %s, want %s", got, at(service4, 80))
	}
	if ended, err := n.EndSockets(func(Place, uint32) bool { return true }, nsPath(n.host)); err != nil || ended != 1 {
		t.Errorf("ended %d sockets, error %v; want 1", ended, err)
	}
	// Maps of another size are others; the former ones go at Commit.
	n.o.MaxSockets = 1000
	n.start()
	must(t, n.Commit())
	entries, err := os.ReadDir(lastingDir(n.o.Dir))
	must(t, err)
	if len(entries) != len(lastingMaps) {
		t.Errorf("lasting maps %v, want one of each of %v", entries, lastingMaps)
	}
}

func TestDriftOfSocketHooksIsSeen(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	must(t, n.Commit())
	h := Hook{Program: SockConnect4}
	pin := n.linkPin(h)
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sock_connect4", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer foreign.Close()
	load := func() link.Link {
		l, err := link.LoadPinnedLink(pin, nil)
		must(t, err)
		return l
	}
	lasting := n.pins[weftMapSockets]
	must(t, os.Remove(lasting))
	if dumpSocketHooks(t, n); !exists(lasting) {
		t.Error("the pin of a lasting map was gone and is not back")
	}
	elsewhere := newCgroup(t)
	for name, harm := range map[string]func(){
		"program replaced":   func() { l := load(); defer l.Close(); must(t, l.Update(foreign)) },
		"link detached":      func() { l := load(); defer l.Close(); must(t, l.Detach()) },
		"pin removed":        func() { must(t, os.Remove(pin)) },
		"pin folder removed": func() { must(t, os.RemoveAll(n.linkDir())) },
		"on another cgroup": func() {
			must(t, detach(pin))
			must(t, n.SocketHooks(elsewhere).Set(SockConnect4, struct{}{}))
		},
	} {
		harm()
		got := dumpSocketHooks(t, n)
		if _, ok := got[SockConnect4]; ok {
			t.Errorf("%s: hooks %v, want no %s", name, got, SockConnect4)
		}
		n.attach()
		if diff := cmp.Diff(dumpSocketHooks(t, n), SocketPrograms()); diff != "" {
			t.Errorf("%s: hooks after repair (-got +want):\n%s", name, diff)
		}
		wantOnCgroup(t, name, n.cgroup, n.ids)
		wantOnCgroup(t, name+", elsewhere", elsewhere, nil)
	}
}

// Nodes of one kernel have cgroups beside each other: one Service's address, two
// tables.
func TestSocketHooksOfSiblings(t *testing.T) {
	t.Parallel()
	a, b := newSockNode(t), newSockNode(t)
	for i, n := range []*sockNode{a, b} {
		place := at(backend4(i+1), 8080)
		n.serve(Place{service4, 80, TCP}, Frontend{}, place)
		for _, m := range []*sockNode{a, b} {
			tcpServer(t, m.host, place)
		}
	}
	for i, n := range []*sockNode{a, b} {
		for range 10 {
			if _, got, err := n.dial(n.host, "tcp", at(service4, 80)); err != nil || got != backend4(i+1).String() {
				t.Fatalf("node %d: server %q, error %v; want %s", i+1, got, err, backend4(i+1))
			}
		}
	}
	must(t, Remove(a.o.Dir))
	if _, got, err := b.dial(b.host, "tcp", at(service4, 80)); err != nil || got != backend4(2).String() {
		t.Errorf("after the other node's end: server %q, error %v", got, err)
	}
}

// Where one node's cgroup is inside of another's, the inner one's Services come first.
func TestSocketHooksOfNested(t *testing.T) {
	t.Parallel()
	outer := newSockNode(t)
	inner := &sockNode{t: t, host: outer.host, cgroup: newCgroupIn(t, outer.cgroup), o: Options{Dir: bpffs(t)}}
	inner.start()
	t.Cleanup(func() { must(t, Remove(inner.o.Dir)) })
	for i, n := range []*sockNode{outer, inner} {
		place := at(backend4(i+1), 8080)
		tcpServer(t, outer.host, place)
		n.serve(Place{service4, 80, TCP}, Frontend{}, place)
	}
	for i, n := range []*sockNode{outer, inner} {
		c, got, err := n.dial(n.host, "tcp", at(service4, 80))
		if err != nil || got != backend4(i+1).String() {
			t.Fatalf("server %q, error %v; want %s", got, err, backend4(i+1))
		}
		if got := remoteOf(t, c); got != at(service4, 80).String() {
			t.Errorf("peer %s, want %s", got, at(service4, 80))
		}
	}
}

// While a daemon goes and another one comes, of another layout too, every connect is
// translated.
func TestSocketUpgradeLosesNoConnect(t *testing.T) {
	t.Parallel()
	n := newSockNode(t)
	tcpServer(t, n.host, at(backend4(1), 8080))
	fill := func() { n.serve(Place{service4, 80, TCP}, Frontend{}, at(backend4(1), 8080)) }
	fill()
	must(t, n.Commit())
	stop, ended := make(chan struct{}), make(chan error)
	connects := 0
	go n.do(n.host, func() {
		var err error
		for err == nil {
			var c net.Conn
			if c, err = net.DialTimeout("tcp", at(service4, 80).String(), 5*time.Second); err == nil {
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
				connects++
			}
			select {
			case <-stop:
				ended <- err
				return
			default:
			}
		}
		ended <- err
	})
	for i := range 6 {
		n.o.MaxPeers = uint32(16 + i/2)
		must(t, n.Datapath.Close())
		n.start()
		fill()
		must(t, n.Commit())
	}
	close(stop)
	if err := <-ended; err != nil || connects < 10 {
		t.Errorf("after %d connects: %v", connects, err)
	}
}

func TestHighestCgroupIsFound(t *testing.T) {
	t.Parallel()
	got, err := FindCgroup()
	must(t, err)
	if !exists(filepath.Join(got, "cgroup.procs")) {
		t.Errorf("FindCgroup() = %s, which is no cgroup2", got)
	}
	for _, c := range []struct{ name, mounts, want string }{
		{"version 2", "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{"both versions", "30 24 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n" +
			"31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n" +
			"32 30 0:26 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		{"container with the host's", "30 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n" +
			"40 24 0:26 /../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n" +
			"41 24 0:26 /../other /other rw - cgroup2 cgroup2 rw\n", "/host/sys/fs/cgroup"},
		{"odd name", `30 24 0:26 / /a\040b rw - cgroup2 cgroup2 rw` + "\n", "/a b"},
		{"none", "30 24 0:25 / / rw - ext4 /dev/sda rw\nshort\n", ""},
	} {
		got, err := highestCgroup(strings.NewReader(c.mounts))
		if got != c.want || (c.want == "") != errors.Is(err, ErrNoCgroup) {
			t.Errorf("%s: %q, error %v; want %q", c.name, got, err, c.want)
		}
	}
}
