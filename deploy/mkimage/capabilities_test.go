package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// The daemon's container, with the image, mounts and rights of the manifest and no more,
// does the daemon's work: BPF, iptables, sockets of a cgroup, pods that came after it,
// bandwidth and host ports, a restart.
func TestDaemonRunsWithTheManifestsRights(t *testing.T) {
	n := newNode(t)
	p := n.start(n.daemon())
	testnet.Until(t, 30*time.Second, func() error { return n.probe(n.pod.Containers[0].StartupProbe) })
	pod := testnet.New(t, "pod") // mounted on the node after the container's start
	if err := n.verdict(p, pod, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"opt/cni/bin/weft-cni", "etc/cni/net.d/05-weft.conflist"} {
		if _, err := os.Stat(filepath.Join(n.dir, f)); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []string{"iptables", "ip6tables"} {
		if out, err := n.Output(c+"-save", "-t", "nat"); err != nil || !strings.Contains(out, "WEFT-POSTROUTING") {
			t.Errorf("%s has no chain of ours: %v\n%s", c, err, out)
		}
	}
	if out, err := n.Output("bpftool", "cgroup", "show", n.cgroup); err != nil || !strings.Contains(out, "sock_connect4") {
		t.Errorf("the sockets of the node's cgroup are not served: %v\n%s", err, out)
	}
	p.end(t, unix.SIGTERM)
	p = n.start(n.daemon())
	if err := n.verdict(p, testnet.New(t, "pod"), 30*time.Second); err != nil {
		t.Fatal("after a restart:", err)
	}
	if err := n.client().Del(context.Background(), api.Attach{
		ContainerID: pod.Name, IfName: "eth0", Netns: "/var/run/netns/" + pod.Name, Network: "weft"}); err != nil {
		t.Error(err)
	}
	if text := p.text(t); strings.Contains(text, "operation not permitted") || strings.Contains(text, "permission denied") {
		t.Errorf("something was not permitted:\n%s", text)
	}
}

// The clean-up's container, privileged and with the daemon's mounts, removes what the
// daemon has made; the mounts themselves stay.
func TestUninstallInAContainerCleansTheNode(t *testing.T) {
	n := newNode(t)
	p := n.start(n.daemon())
	pod := testnet.New(t, "pod")
	if err := n.verdict(p, pod, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	c := n.daemon()
	c.Capabilities = nil
	c.Args = []string{"/usr/bin/weftd", "uninstall", "--node-name=node-1"}
	refused := n.start(c)
	<-refused.ended
	if text := refused.text(t); !strings.Contains(text, "another weftd runs") {
		t.Errorf("uninstall beside a daemon: %s", text)
	}
	p.end(t, unix.SIGTERM)
	for range 2 {
		u := n.start(c)
		<-u.ended
		if u.cmd.ProcessState.ExitCode() != 0 {
			t.Fatalf("uninstall: %s", u.text(t))
		}
	}
	for _, dir := range []string{"opt/cni/bin", "etc/cni/net.d", "run/weft", "var/lib/weft", "sys/fs/bpf"} {
		entries, err := os.ReadDir(filepath.Join(n.dir, dir))
		if err != nil || len(entries) > 0 && dir != "sys/fs/bpf" {
			t.Errorf("%s: left %v, %v", dir, entries, err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".debug") { // the kernel's own
				t.Errorf("%s: left %s", dir, e.Name())
			}
		}
	}
	for _, args := range []string{"ip -o link", "ip route show table all proto 87", "iptables-save", "ip6tables-save", "nft list ruleset", "bpftool cgroup show " + n.cgroup} {
		f := strings.Fields(args)
		out, err := n.Output(f[0], f[1:]...)
		if err != nil || strings.Contains(strings.ToLower(out), "weft") || strings.Contains(out, "sock_connect") {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}

// None of them is there for nothing: without it something does not work. To the kernel
// SYS_ADMIN implies BPF and PERFMON, so these two are looked at without it.
func TestEachCapabilityIsNeeded(t *testing.T) {
	for _, tc := range []struct {
		name        string
		without     []corev1.Capability
		openSysctls bool
		want        string
	}{
		{"DAC_OVERRIDE", []corev1.Capability{"DAC_OVERRIDE"}, false, "not written yet"},
		{"NET_ADMIN", []corev1.Capability{"NET_ADMIN"}, false, "operation not permitted"},
		{"NET_BROADCAST", []corev1.Capability{"NET_BROADCAST"}, false, "listen to all namespaces (needs CAP_NET_BROADCAST): operation not permitted"},
		{"NET_RAW", []corev1.Capability{"NET_RAW"}, false, "operation not permitted"},
		{"SYS_ADMIN, to write sysctls", []corev1.Capability{"SYS_ADMIN"}, false, "make /proc/sys writable: operation not permitted"},
		{"SYS_ADMIN, to enter pods", []corev1.Capability{"SYS_ADMIN"}, true, "enter /var/run/netns"},
		{"BPF", []corev1.Capability{"SYS_ADMIN", "BPF"}, true, "load a BPF program: load program: operation not permitted"},
		{"PERFMON", []corev1.Capability{"SYS_ADMIN", "PERFMON"}, true, "load programs: program "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			c := n.daemon(tc.without...)
			c.OpenSysctls = tc.openSysctls
			err := n.verdict(n.start(c), testnet.New(t, "pod"), 10*time.Second)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("without %v: got %v, want %q", tc.without, err, tc.want)
			}
		})
	}
}
