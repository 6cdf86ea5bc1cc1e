package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// cniVersions are those that a configuration may have.
var cniVersions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestEveryCNIVersion(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	for _, version := range cniVersions {
		t.Run(version, func(t *testing.T) {
			p := newPod(t, n, version)
			add := callPod("ADD", p)
			add.Version = version
			a := call(t, n, add).succeed(t)
			var result struct {
				CNIVersion string
				IPs        []struct {
					Version string
					Address string
				}
				Interfaces []map[string]any
			}
			if err := json.Unmarshal(a.Stdout, &result); err != nil {
				t.Fatal(err)
			}
			if result.CNIVersion != version || len(result.IPs) != 2 || len(result.Interfaces) != 2 {
				t.Errorf("result of version %s:\n%s", version, a.Stdout)
			}
			// ips.version was in the results before 1.0.0, mtu of interfaces is since 1.1.0.
			if old := strings.HasPrefix(version, "0."); (result.IPs[0].Version == "4") != old {
				t.Errorf("version %s: ips are %+v", version, result.IPs)
			}
			if _, mtu := result.Interfaces[0]["mtu"]; mtu != (version == "1.1.0") {
				t.Errorf("version %s: interfaces are %v", version, result.Interfaces)
			}
			check := add.with("prevResult", a.prev())
			check.Verb = "CHECK"
			if version == "0.3.1" {
				call(t, n, check).fails(t, api.CodeIncompatible, "") // CHECK came with 0.4.0
			} else {
				call(t, n, check).succeed(t)
			}
			del := check
			del.Verb = "DEL"
			call(t, n, del).succeed(t)
			freed(t, n, p.ID)
		})
	}
}

func TestSecondAddIsRefusedWithoutSideEffect(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	p := newPod(t, n, "p")
	first := call(t, n, callPod("ADD", p)).succeed(t)
	before := attachments(t, n)[p.ID]
	call(t, n, callPod("ADD", p)).fails(t, api.CodeExists, "eth0")
	if after := attachments(t, n)[p.ID]; fmt.Sprint(after.IPs) != fmt.Sprint(before.IPs) {
		t.Errorf("addresses: got %v, want %v", after.IPs, before.IPs)
	}
	call(t, n, callPod("CHECK", p).with("prevResult", first.prev())).succeed(t)

	// An interface of somebody else, and a container that was never ours.
	other := newPod(t, n, "other")
	if err := other.NS.IP("link", "add", "eth0", "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	call(t, n, callPod("ADD", other)).fails(t, api.CodeExists, "eth0")
	freed(t, n, other.ID)
	if err := other.NS.IP("link", "show", "eth0", "type", "bridge"); err != nil {
		t.Errorf("the foreign interface is gone: %v", err)
	}
}

func TestDelAlwaysSucceeds(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	steady := addPod(t, n, "steady")
	for _, tt := range []struct {
		name    string
		noAdd   bool
		prepare func(p *cluster.Pod, del *cniCall) error
	}{
		{name: "with prevResult", prepare: func(*cluster.Pod, *cniCall) error { return nil }},
		{name: "without prevResult", prepare: func(_ *cluster.Pod, del *cniCall) error { del.Conf = nil; return nil }},
		{name: "empty netns", prepare: func(_ *cluster.Pod, del *cniCall) error { del.Netns = ""; return nil }},
		{name: "vanished netns", prepare: func(p *cluster.Pod, _ *cniCall) error { return p.NS.Close() }},
		{name: "path that is no netns", prepare: func(_ *cluster.Pod, del *cniCall) error { del.Netns = "/etc/hostname"; return nil }},
		{name: "interface gone", prepare: func(p *cluster.Pod, _ *cniCall) error { return p.NS.IP("link", "del", "eth0") }},
		{name: "interface moved away", prepare: func(p *cluster.Pod, _ *cniCall) error {
			return p.NS.IP("link", "set", "eth0", "netns", c.Outside.Name, "name", "stolen")
		}},
		{name: "address gone", prepare: func(p *cluster.Pod, _ *cniCall) error { return p.NS.IP("addr", "flush", "dev", "eth0") }},
		{name: "never added", noAdd: true, prepare: func(*cluster.Pod, *cniCall) error { return nil }},
		{name: "never added, empty netns", noAdd: true, prepare: func(_ *cluster.Pod, del *cniCall) error { del.Netns = ""; return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod(t, n, "p")
			del := callPod("DEL", p)
			if !tt.noAdd {
				a := call(t, n, callPod("ADD", p)).succeed(t)
				del = del.with("prevResult", a.prev())
			}
			if err := tt.prepare(p, &del); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				call(t, n, del).succeed(t)
				freed(t, n, p.ID)
			}
		})
	}
	if err := steady.Check(t.Context()); err != nil {
		t.Errorf("CHECK of another pod: %v", err)
	}
}

// P4: a DEL needs no daemon; what it could not do is done when the daemon is back.
func TestDelWithoutDaemon(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{Flags: []string{"--reuse-delay", "0s"}})
	n := c.Nodes[0]
	var pods []*cluster.Pod
	for i := range 3 {
		pods = append(pods, addPod(t, n, fmt.Sprint("p", i)))
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pods[2].NS.Close(); err != nil {
		t.Fatal(err)
	}
	for i, p := range pods {
		del := callPod("DEL", p)
		if i == 1 {
			del.Netns = ""
		}
		for range 2 {
			if a := call(t, n, del).succeed(t); a.Took > 5*time.Second {
				t.Errorf("DEL without daemon: %s, want less than 5 s", a)
			}
		}
	}
	if _, err := n.ConfList(); err != nil {
		t.Errorf("conflist after the daemon's end: %v", err)
	}
	restart(t, n)
	testnet.Until(t, 10*time.Second, func() error {
		if left := attachments(t, n); len(left) > 0 {
			return fmt.Errorf("still attached: %v", left)
		}
		return nil
	})
	for _, p := range pods {
		freed(t, n, p.ID)
		// The address can be asked for again.
		again := newPod(t, n, "again")
		call(t, n, callPod("ADD", again).with("runtimeConfig", map[string]any{"ips": []string{p.IP4.String()}})).succeed(t)
		call(t, n, callPod("DEL", again)).succeed(t)
	}
	if left, err := os.ReadDir(n.Path("state", api.TombstoneDir)); err != nil || len(left) > 0 {
		t.Errorf("tombstones left: %v %v", left, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	const many = 64
	pods := make([]*cluster.Pod, many)
	for i := range pods {
		pods[i] = newPod(t, n, fmt.Sprint("p", i))
	}
	all := func(verb func(*cluster.Pod) error) {
		t.Helper()
		var wg sync.WaitGroup
		for _, p := range pods {
			wg.Go(func() {
				if err := verb(p); err != nil {
					t.Errorf("%s: %v", p.Name, err)
				}
			})
		}
		wg.Wait()
	}
	for range 2 {
		all(func(p *cluster.Pod) error { return p.Add(t.Context()) })
		seen := map[netip.Addr]string{}
		for _, p := range pods {
			for _, a := range p.Addrs() {
				if seen[a] != "" {
					t.Errorf("%s is of %s and of %s", a, seen[a], p.Name)
				}
				seen[a] = p.Name
			}
		}
		if len(seen) != 2*many {
			t.Errorf("got %d addresses, want %d", len(seen), 2*many)
		}
		all(func(p *cluster.Pod) error { return p.Check(t.Context()) })
		all(func(p *cluster.Pod) error { return p.Detach(t.Context()) })
		if left := attachments(t, n); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// What the runtime may pass beside: each is honoured or, if not ours, ignored.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	p := newPod(t, n, "p")
	p.Capabilities = map[string]any{
		"ips":             []string{"10.244.1.77/24", "fd00:244:1::77"},
		"mac":             "02:11:22:33:44:55",
		"portMappings":    []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}},
		"bandwidth":       map[string]any{"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 40_000_000, "egressBurst": uint64(1<<63 - 1)},
		"dns":             map[string]any{"servers": []string{"10.96.0.10"}, "searches": []string{"a.b"}, "options": []string{"ndots:5"}},
		"cgroupPath":      "/not/ours",
		"infinibandGUID":  "c2:11:22:33:44:55:66:77",
		"io.kubernetes.x": map[string]string{"a": "b"},
	}
	if err := p.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.IP4.String() != "10.244.1.77" || p.IP6.String() != "fd00:244:1::77" {
		t.Errorf("addresses: got %s and %s", p.IP4, p.IP6)
	}
	inside := p.Result.Interfaces[1]
	if inside.Name != "eth0" || inside.Mac != "02:11:22:33:44:55" {
		t.Errorf("interface: got %+v", inside)
	}
	if out, err := p.NS.Output("cat", "/proc/thread-self/net/if_inet6"); err != nil || !strings.Contains(out, "eth0") {
		t.Errorf("addresses inside: %s %v", out, err)
	}
	if d := p.Result.DNS; len(d.Nameservers) != 1 || d.Nameservers[0] != "10.96.0.10" || len(d.Search) != 1 || len(d.Options) != 1 {
		t.Errorf("dns: got %+v", d)
	}
	if b := attachments(t, n)[p.ID].Bandwidth; b == nil || b.IngressRate != 80_000_000 || b.EgressRate != 40_000_000 {
		t.Errorf("bandwidth: got %+v", b)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK: %v", err)
	}

	// The same addresses again, one of a foreign pool, and nonsense.
	for text, ips := range map[string][]string{
		"taken": {"10.244.1.77"}, "pool": {"192.0.2.1"}, "ips": {"nonsense"},
	} {
		q := newPod(t, n, "q")
		a := call(t, n, callPod("ADD", q).with("runtimeConfig", map[string]any{"ips": ips}))
		if a.Exit == 0 || !strings.Contains(a.Msg+a.Details, text) {
			t.Errorf("ips %v: got %s, want an error about %q", ips, a, text)
		}
		freed(t, n, q.ID)
	}
}

func TestConflistAndBinaryStay(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Spec{})
	n := c.Nodes[0]
	binary, conflist := n.Path("bin", api.PluginType), n.Path("net.d", "05-weft.conflist")
	there := func() error {
		if _, err := n.ConfList(); err != nil {
			return err
		}
		i, err := os.Stat(binary)
		if err == nil && i.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is not executable", binary)
		}
		return err
	}
	for _, remove := range []struct {
		name string
		do   func() error
	}{
		{"bin dir wiped", func() error { return wipe(n.Path("bin")) }},
		{"conf dir wiped", func() error { return wipe(n.Path("net.d")) }},
		{"bin dir removed", func() error { return os.RemoveAll(n.Path("bin")) }},
		{"conf dir removed", func() error { return os.RemoveAll(n.Path("net.d")) }},
		{"conflist cut in half", func() error { return os.Truncate(conflist, 20) }},
		{"binary emptied", func() error { return os.Truncate(binary, 0) }},
	} {
		testnet.Until(t, 10*time.Second, remove.do) // what is put back meanwhile hinders it
		ctx, begin := t.Context(), time.Now()
		testnet.Until(t, 10*time.Second, func() error {
			if err := there(); err != nil {
				return fmt.Errorf("%s: %w", remove.name, err)
			}
			a, err := tryCall(ctx, n, cniCall{Verb: "STATUS"})
			if err == nil && a.Exit != 0 {
				err = fmt.Errorf("%s: STATUS: %s", remove.name, a)
			}
			return err
		})
		t.Logf("%s: put back after %s", remove.name, time.Since(begin).Round(time.Millisecond))
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		if err := n.Stop(sig); err != nil {
			t.Fatal(err)
		}
		if err := there(); err != nil {
			t.Errorf("after %s: %v", sig, err)
		}
		restart(t, n)
	}
	list, err := n.ConfList()
	if err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != "1.1.0" || !strings.Contains(string(list.Bytes), "cniVersions") {
		t.Errorf("conflist is\n%s", list.Bytes)
	}
}

// wipe removes what is in a folder.
func wipe(dir string) error {
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range all {
		if err := os.RemoveAll(f); err != nil {
			return err
		}
	}
	return err
}
