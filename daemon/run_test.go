package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// asDaemon makes the test's binary the daemon; its value is the Config as JSON. The
// daemon works in the network namespace of its process, so it must be one.
const asDaemon = "WEFT_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asNode) != "" {
		if err := beNode(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	text := os.Getenv(asDaemon)
	if text == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var cfg Config
	err := json.Unmarshal([]byte(text), &cfg)
	if err == nil && os.Getenv(asDaemon+"_VERB") == "uninstall" {
		err = Uninstall(ctx, cfg, false)
	} else if err == nil {
		err = Run(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// lab is some nodes on one wire, and the folder of their objects.
type lab struct {
	t     testing.TB
	dir   string
	bpf   string
	wire  *testnet.NS
	nodes int
}

// machine is one node.
type machine struct {
	*testnet.NS
	lab    *lab
	cfg    Config
	number int
	cmd    *exec.Cmd
	ended  chan struct{}
	log    *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLab(t testing.TB) *lab {
	t.Helper()
	testnet.Require(t, "iptables")
	// A unix socket's path is short, and t.TempDir has the test's name in it.
	dir, err := os.MkdirTemp("", "weftd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bpf, unmount, err := testnet.BPFFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, dir: dir, bpf: bpf, wire: testnet.New(t, "wire")}
	l.must(os.Mkdir(filepath.Join(dir, "objects"), 0o755))
	l.must(os.WriteFile(filepath.Join(dir, "weft-cni"), []byte("#!/bin/sh\nexit 0\n"), 0o755))
	l.must(l.wire.IP("link", "add", "br0", "type", "bridge"))
	l.must(l.wire.IP("link", "set", "br0", "up"))
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// add makes a machine, without a Node object and without a daemon.
func (l *lab) add() *machine {
	l.t.Helper()
	l.nodes++
	i := l.nodes
	m := &machine{NS: testnet.New(l.t, "node"), lab: l, number: i, log: &lockedBuffer{}}
	l.must(testnet.Veth(m.NS, "up0", l.wire, fmt.Sprintf("port%d", i), 1500))
	l.must(l.wire.IP("link", "set", fmt.Sprintf("port%d", i), "master", "br0"))
	l.must(m.IP("addr", "add", fmt.Sprintf("192.0.2.%d/24", i), "dev", "up0"))
	l.must(m.IP("addr", "add", fmt.Sprintf("2001:db8::%d/64", i), "dev", "up0", "nodad"))
	home := filepath.Join(l.dir, m.name())
	m.cfg = DefaultConfig()
	m.cfg.NodeName = m.name()
	m.cfg.Cgroup = noSockets // machines share a kernel; sockets are tested in package bpf and in e2e
	m.cfg.Source = "dir:" + filepath.Join(l.dir, "objects")
	m.cfg.Socket = filepath.Join(home, "s.sock")
	m.cfg.StateDir = filepath.Join(home, "state")
	m.cfg.BPFDir = filepath.Join(l.bpf, m.name())
	m.cfg.ConfDir, m.cfg.BinDir = filepath.Join(home, "net.d"), filepath.Join(home, "bin")
	m.cfg.CNIBinary = filepath.Join(l.dir, "weft-cni")
	return m
}

func (m *machine) name() string { return fmt.Sprintf("node-%d", m.number) }

// object writes the machine's Node object; empty strings leave things out.
func (m *machine) object(podCIDRs, addrs string) {
	m.lab.t.Helper()
	var list []string
	for _, a := range strings.Fields(addrs) {
		list = append(list, fmt.Sprintf("{type: InternalIP, address: %q}", a))
	}
	text := fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {podCIDRs: [%s]}\nstatus: {addresses: [%s]}\n",
		m.name(), `"`+strings.Join(strings.Fields(podCIDRs), `", "`)+`"`, strings.Join(list, ", "))
	text = strings.ReplaceAll(text, `[""]`, "[]")
	path := filepath.Join(m.lab.dir, "objects", m.name()+".yaml")
	m.lab.must(os.WriteFile(path+".tmp", []byte(text), 0o644))
	m.lab.must(os.Rename(path+".tmp", path))
}

// usual writes the usual object.
func (m *machine) usual() {
	m.lab.t.Helper()
	m.object(fmt.Sprintf("10.87.%[1]d.0/24 fd87:%[1]d::/64", m.number), fmt.Sprintf("192.0.2.%[1]d 2001:db8::%[1]d", m.number))
}

// command is the daemon, or another verb, as a process.
func (m *machine) command(verb string) *exec.Cmd {
	self, err := os.Executable()
	m.lab.must(err)
	cfg, err := json.Marshal(m.cfg)
	m.lab.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asDaemon+"="+string(cfg), asDaemon+"_VERB="+verb)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	return cmd
}

// start starts the daemon; it is killed with the test, and its log shown if that failed.
func (m *machine) start() {
	m.lab.t.Helper()
	cmd, ended := m.command("run"), make(chan struct{})
	m.lab.must(m.Start(cmd))
	m.cmd, m.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is in its log
	}()
	m.lab.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if ended != m.ended {
			return // the last one shows the log
		}
		if m.lab.t.Failed() {
			m.lab.t.Logf("log of %s:\n%s", m.name(), m.log)
		}
	})
}

// stop ends the daemon and waits for it.
func (m *machine) stop(sig syscall.Signal) {
	m.lab.t.Helper()
	m.lab.must(m.cmd.Process.Signal(sig))
	select {
	case <-m.ended:
	case <-time.After(15 * time.Second):
		m.lab.t.Fatalf("%s does not end", m.name())
	}
}

func (m *machine) client() *api.Client { return api.NewClient(m.cfg.Socket) }

// until waits for a state of the daemon.
func (m *machine) until(what string, f func(api.Status) bool) {
	m.lab.t.Helper()
	testnet.Until(m.lab.t, time.Minute, func() error {
		s, err := m.client().Status(context.Background())
		if err == nil && !f(s) {
			err = fmt.Errorf("%s: not so: %+v", what, s)
		}
		return err
	})
}

func (m *machine) ready() {
	m.lab.t.Helper()
	m.until("ready", func(s api.Status) bool { return s.Ready && len(s.Problems) == 0 })
}

// problem says whether a status has a problem of a kind.
func problem(s api.Status, what string) bool {
	for _, p := range s.Problems {
		if p.What == what {
			return true
		}
	}
	return false
}

// pod is a namespace with an interface from a daemon, which answers UDP on port 7.
type pod struct {
	*testnet.NS
	addrs []netip.Addr
	id    string
}

// attach makes a pod. Its request may be changed before it is made.
func (m *machine) attach(change ...func(*api.Attach)) *pod {
	t := m.lab.t
	t.Helper()
	p := &pod{NS: testnet.New(t, "pod")}
	p.id = p.Name
	request := p.request()
	for _, f := range change {
		f(&request)
	}
	raw, err := m.client().Add(context.Background(), request)
	if err != nil {
		t.Fatalf("add: %v", err)
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	m.lab.must(json.Unmarshal(raw, &result))
	for _, ip := range result.IPs {
		p.addrs = append(p.addrs, ip.Address.Addr())
	}
	m.lab.must(p.Do(func() error {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: 7})
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			go echo(conn)
		}
		return err
	}))
	return p
}

func (p *pod) request() api.Attach {
	return api.Attach{ContainerID: p.id, IfName: "eth0", Netns: p.Path(), Network: "weft"}
}

// echo answers until the socket is closed.
func echo(conn *net.UDPConn) {
	b := make([]byte, 2000)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if _, err := conn.WriteToUDPAddrPort(b[:n], from); err != nil {
			return
		}
	}
}

// ask sends one datagram from a namespace to each address and wants it back at once: for who
// asks again, or wants no answer.
func ask(from *testnet.NS, to ...netip.Addr) error { return askFor(300*time.Millisecond, from, to...) }

// askOnce is ask for who wants the answer to this very datagram: who answers is a goroutine,
// which a busy machine may keep waiting.
func askOnce(from *testnet.NS, to ...netip.Addr) error { return askFor(20*time.Second, from, to...) }

func askFor(within time.Duration, from *testnet.NS, to ...netip.Addr) error {
	for _, a := range to {
		var conn *net.UDPConn
		err := from.Do(func() (err error) {
			conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 7)))
			return err
		})
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(within))
		_, err = conn.Write([]byte("weft"))
		if err == nil {
			_, err = conn.Read(make([]byte, 16))
		}
		conn.Close()
		if err != nil {
			return fmt.Errorf("ask %s: %w", a, err)
		}
	}
	return nil
}

// reach waits until it works.
func (l *lab) reach(within time.Duration, from *testnet.NS, to *pod) {
	l.t.Helper()
	testnet.Until(l.t, within, func() error { return ask(from, to.addrs...) })
}
