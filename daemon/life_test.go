package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
	"github.com/weftnet/weft/internal/web"
)

// converge is how long drift may last.
const converge = 10 * time.Second

func TestTwoNodesJoinTheirPods(t *testing.T) {
	l := newLab(t)
	a, b := l.add(), l.add()
	for _, m := range []*machine{a, b} {
		m.usual()
		m.start()
	}
	a.ready()
	b.ready()
	p, q, r := a.attach(), a.attach(), b.attach()
	l.reach(converge, p.NS, q)
	l.reach(converge, p.NS, r)
	l.reach(converge, a.NS, r)

	t.Run("killed and restarted", func(t *testing.T) {
		a.stop(syscall.SIGKILL)
		if err := askOnce(p.NS, r.addrs...); err != nil {
			t.Errorf("without daemon: %v", err)
		}
		a.start()
		a.ready()
		l.reach(converge, p.NS, r)
		if list, err := a.client().Endpoints(context.Background()); err != nil || len(list) != 2 {
			t.Errorf("endpoints after restart: %v, %v", list, err)
		}
	})
	t.Run("drift", func(t *testing.T) {
		for _, damage := range [][]string{
			{"link", "del", "weft-vxlan"},
			{"link", "set", "weft-vxlan", "down"},
			{"link", "set", "weft-vxlan", "address", "02:00:00:00:00:01"},
			{"addr", "flush", "dev", "weft-vxlan"},
			{"route", "flush", "proto", "87"},
			{"-6", "route", "flush", "proto", "87"},
		} {
			l.must(a.IP(damage...))
			l.reach(converge, a.NS, r)
			l.reach(converge, p.NS, r)
		}
		testnet.Until(t, converge, func() error { return os.RemoveAll(filepath.Join(a.cfg.BPFDir, "links")) })
		l.reach(converge, p.NS, r)
		a.ready()
	})
	t.Run("another MTU", func(t *testing.T) {
		l.must(a.IP("link", "set", "up0", "mtu", "1400"))
		testnet.Until(t, converge, func() error {
			out, err := p.Output("ip", "route", "show", "default")
			if err == nil && !strings.Contains(out, "mtu 1350") {
				err = errors.New("the pod's route is " + out)
			}
			return err
		})
	})
	t.Run("another address", func(t *testing.T) {
		l.must(a.IP("addr", "del", "192.0.2.1/24", "dev", "up0"))
		l.must(a.IP("addr", "add", "192.0.2.99/24", "dev", "up0"))
		a.object("10.87.1.0/24 fd87:1::/64", "192.0.2.99 2001:db8::1")
		l.reach(converge, p.NS, r)
		l.reach(converge, r.NS, p)
	})
	t.Run("another MAC", func(t *testing.T) {
		l.must(a.IP("link", "set", "up0", "address", "02:00:00:00:00:aa"))
		l.reach(converge, p.NS, r)
		l.reach(converge, r.NS, p)
	})
	t.Run("the Node is deleted", func(t *testing.T) {
		l.must(os.Remove(filepath.Join(l.dir, "objects", a.name()+".yaml")))
		a.until("no node", func(s api.Status) bool { return !s.Ready && problem(s, problemNoNode) })
		if err := askOnce(p.NS, q.addrs...); err != nil {
			t.Errorf("pods of a node without Node: %v", err)
		}
		a.stop(syscall.SIGKILL) // it must remember who it was
		a.start()
		a.until("no node after restart", func(s api.Status) bool { return !s.Ready && problem(s, problemNoNode) && s.Pods == 2 })
		if err := askOnce(p.NS, q.addrs...); err != nil {
			t.Errorf("after a restart without Node: %v", err)
		}
	})
	t.Run("another prefix", func(t *testing.T) {
		a.object("10.87.9.0/24 fd87:9::/64", "192.0.2.99 2001:db8::1")
		a.until("new pool", func(s api.Status) bool {
			return s.Ready && len(s.Pools) == 2 && s.Pools[0].Prefix == prefix("10.87.9.0/24")
		})
		late := a.attach()
		if late.addrs[0] != addr("10.87.9.2") {
			t.Errorf("address: got %v", late.addrs)
		}
		l.reach(converge, late.NS, r)
		if err := askOnce(p.NS, q.addrs...); err != nil {
			t.Errorf("pods with addresses of the former prefix: %v", err)
		}
	})
}

// metrics is what the daemon serves at its metrics address.
func (m *machine) metrics() string { return m.answerAt(m.cfg.MetricsAddress, api.PathMetrics) }

// answerAt is an answer of the daemon by TCP, with its headers.
func (m *machine) answerAt(address, path string) (text string) {
	m.lab.t.Helper()
	m.lab.must(m.Do(func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, address)
		b, err := io.ReadAll(conn)
		text = string(b)
		return err
	}))
	return text
}

func TestMetricsAreServed(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.cfg.MetricsAddress = "127.0.0.1:9087"
	a.usual()
	a.start()
	a.ready()
	a.attach()
	text := a.metrics()
	for _, line := range []string{
		`weft_cni_calls_total{code="0",verb="add"} 1`,
		`weft_cni_duration_seconds_count{verb="add"} 1`,
		`weft_pool_used{pool="10.87.1.0/24"} 1`,
		`weft_pool_size{pool="10.87.1.0/24"} 253`,
		`weft_ready 1`,
		`weft_mtu_bytes 1450`,
		`weft_packets_total{kind="drop",reason="spoofed-address"} 0`,
		`weft_table_repairs_total{table="routes"} 0`,
		`weft_table_failing{table="chains"} 0`,
		`weft_build_info{`,
		`weft_services 0`,
		`weft_service_backends 0`,
		`weft_service_problems 0`,
		`weft_service_program_seconds_count 0`,
		`weft_policy_policies{kind="NetworkPolicy"} 0`,
		`weft_policy_sets 0`,
		`weft_policy_pods{state="open"} 1`,
		`weft_policy_pods{state="closed"} 0`,
		`weft_policy_records_lost_total 0`,
		`weft_policy_flows 0`,
		`weft_policy_change_seconds_count 0`,
		`weft_packets_total{kind="drop",reason="policy-ingress"} 0`,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// The daemon serves the page only where it is told to.
func TestPageIsServedOnRequest(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	a.start()
	a.ready()
	if err := a.Do(func() error { _, err := net.Dial("tcp", web.DefaultAddress); return err }); err == nil {
		t.Errorf("somebody answers at %s without the setting", web.DefaultAddress)
	}
	a.stop(syscall.SIGTERM)
	a.cfg.WebAddress = web.DefaultAddress
	a.start()
	a.ready()
	testnet.Until(t, converge, func() error {
		return a.Do(func() error {
			conn, err := net.Dial("tcp", web.DefaultAddress)
			if err == nil {
				conn.Close()
			}
			return err
		})
	})
	if text := a.answerAt(web.DefaultAddress, "/"); !strings.Contains(text, "<title>Weft</title>") {
		t.Errorf("the page is %q", text)
	}
	if text := a.answerAt(web.DefaultAddress, "/api/state"); !strings.Contains(text, `"node":"`+a.cfg.NodeName+`"`) {
		t.Errorf("its state is %q, want that of %s", text, a.cfg.NodeName)
	}
}

// A daemon that cannot do as its settings say tells that in one line, and why it waits.
func TestStartSaysWhatIsWrong(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	a.cfg.MetricsAddress = "203.0.113.9:9087"
	a.start()
	<-a.ended
	lines := strings.Split(strings.TrimSpace(a.log.String()), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "metrics-address: ") || !strings.Contains(last, "choose an address of this node") {
		t.Errorf("got %q, want what is wrong with metrics-address as the last line", last)
	}
	a.cfg.MetricsAddress = ""
	missing := filepath.Join(l.dir, "missing")
	a.cfg.Source = "dir:" + missing
	a.start()
	testnet.Until(t, converge, func() error {
		if text := a.log.String(); !strings.Contains(text, "was not read completely yet: ") || !strings.Contains(text, missing+": no such file") {
			return fmt.Errorf("the log does not say why the source is not read:\n%s", text)
		}
		return nil
	})
}

func TestNodeWaitsForWhatItNeeds(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.start()
	cniStatus := func() uint {
		var e *api.Error
		if err := a.client().CNIStatus(context.Background()); errors.As(err, &e) {
			return e.Code
		} else if err != nil {
			return 999
		}
		return 0
	}
	for _, step := range []struct{ prefixes, addrs, problem string }{
		{"", "192.0.2.1", problemNoPodCIDR},
		{"10.87.1.0/24", "", problemNoAddress},
	} {
		a.object(step.prefixes, step.addrs)
		a.until(step.problem, func(s api.Status) bool { return !s.Ready && problem(s, step.problem) })
		if got := cniStatus(); got != api.CodeNotAvailable {
			t.Errorf("%s: CNI STATUS %d, want %d", step.problem, got, api.CodeNotAvailable)
		}
	}
	a.usual()
	a.ready()
	if got := cniStatus(); got != 0 {
		t.Errorf("ready: CNI STATUS %d", got)
	}
	second := a.command("run")
	var out lockedBuffer
	second.Stderr = &out
	l.must(a.Start(second))
	if err := second.Wait(); err == nil || !strings.Contains(out.String(), "another weftd runs") {
		t.Errorf("a second daemon: %v, %s", err, out.String())
	}
	// Another node whose name sorts before ours claims our prefix.
	l.must(os.WriteFile(filepath.Join(l.dir, "objects", "thief.yaml"), []byte("apiVersion: v1\nkind: Node\nmetadata: {name: a-thief}\n"+
		"spec: {podCIDRs: [10.87.1.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.77}]}\n"), 0o644))
	a.until("conflict", func(s api.Status) bool { return !s.Ready && problem(s, problemConflict) })
	l.must(os.Remove(filepath.Join(l.dir, "objects", "thief.yaml")))
	a.until("conflict is over", func(s api.Status) bool { return s.Ready && !problem(s, problemConflict) })
}

func TestUninstallLeavesNoTrace(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	digest := func() string {
		var out strings.Builder
		for _, args := range [][]string{
			{"ip", "-o", "link"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
			{"ip", "neigh", "show", "nud", "permanent"}, {"iptables-save"}, {"ip6tables-save"}, {"nft", "list", "ruleset"},
			{"sh", "-c", "sysctl -a 2>/dev/null | grep -E '^net.(ipv4|ipv6).conf|ip_forward' | grep -v mtu"},
		} {
			text, err := a.Output(args[0], args[1:]...)
			l.must(err)
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "#") { // times
					out.WriteString(line)
				}
			}
		}
		home := filepath.Join(l.dir, a.name())
		l.must(filepath.Walk(home, func(path string, _ os.FileInfo, err error) error {
			out.WriteString(path + "\n")
			return err
		}))
		return out.String()
	}
	l.must(os.Mkdir(filepath.Join(l.dir, a.name()), 0o755))
	testnet.Until(t, 20*time.Second, func() error { // the kernel gives addresses their routes when it likes
		for _, addr := range []string{"2001:db8::1", "fe80::"} {
			if out, err := a.Output("ip", "-6", "route", "show", "table", "local", "type", "local"); err != nil || !strings.Contains(out, addr) {
				return fmt.Errorf("no local route of %s yet: %v", addr, err)
			}
		}
		return nil
	})
	before := digest()
	a.start()
	a.ready()
	a.attach()
	a.attach()
	refused := a.command("uninstall")
	l.must(a.Start(refused))
	if err := refused.Wait(); err == nil {
		t.Error("uninstall beside a running daemon succeeded")
	}
	a.stop(syscall.SIGKILL)
	for range 2 { // may be repeated
		cmd := a.command("uninstall")
		l.must(a.Start(cmd))
		if err := cmd.Wait(); err != nil {
			t.Fatalf("uninstall: %v\n%s", err, a.log)
		}
	}
	os.Mkdir(filepath.Join(l.dir, a.name()), 0o755) // the socket's folder, removed because it was empty
	if d := cmp.Diff(before, digest()); d != "" {
		t.Errorf("what is left or missing (-before +after):\n%s", d)
	}
}
