package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/bpf"
	"github.com/weftnet/weft/deploy"
	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testkube"
	"github.com/weftnet/weft/internal/testnet"
)

// node is a node on which the containers of the DaemonSet's Pod are run by their specs.
type node struct {
	*testnet.NS
	t      *testing.T
	dir    string // the node's files; below it: the image
	api    *testkube.Cluster
	pod    corev1.PodSpec
	config corev1.ConfigMap
	cgroup string
}

func newNode(t *testing.T) *node {
	t.Helper()
	testnet.Require(t)
	dir, err := os.MkdirTemp("", "node") // a unix socket's path is short
	must(t, err)
	n := &node{NS: testnet.New(t, "node"), t: t, dir: dir}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	unpackImage(t, built(t), n.root())
	n.read()

	// What weftd prepare makes, and a node's own.
	for _, d := range []string{"opt/cni/bin", "etc/cni/net.d", "run/weft", "var/lib/weft", "sys/fs/cgroup", "settings", "account", "etc/kubernetes"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	// The archive of the reference plugins gives the folder to whoever made the archive.
	must(t, os.Chown(filepath.Join(dir, "opt/cni/bin"), 1001, 1001))
	must(t, os.WriteFile(filepath.Join(dir, "run/xtables.lock"), nil, 0o600))
	bpffs, unmount, err := testnet.BPFFS(filepath.Join(dir, "sys/fs"))
	must(t, err)
	must(t, os.Symlink(bpffs, filepath.Join(dir, "sys/fs/bpf")))
	t.Cleanup(func() { must(t, unmount()) })
	top, err := bpf.FindCgroup()
	must(t, err)
	n.cgroup, err = os.MkdirTemp(top, "weft-test-")
	must(t, err)
	t.Cleanup(func() {
		testnet.Until(t, 10*time.Second, func() error { return os.Remove(n.cgroup) })
	})

	must(t, n.IP("link", "add", "up0", "type", "veth", "peer", "name", "up1"))
	for _, args := range []string{"link set up0 up", "link set up1 up", "addr add 192.0.2.1/24 dev up0", "addr add 2001:db8::1/64 dev up0 nodad"} {
		must(t, n.IP(strings.Fields(args)...))
	}
	n.write("settings/weftd.yaml", n.config.Data["weftd.yaml"])
	n.api = testkube.NewCluster(t)
	n.api.Put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.87.1.0/24", "fd87:1::/64"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"}}},
	})
	var l net.Listener
	must(t, n.Do(func() (err error) {
		l, err = net.Listen("tcp", "192.0.2.1:0")
		return err
	}))
	n.api.ServiceAccount(filepath.Join(dir, "account"), "token")
	authority, err := os.ReadFile(filepath.Join(dir, "account/ca.crt"))
	must(t, err)
	// As kubeadm writes it: what it names besides is not in the container.
	n.write("etc/kubernetes/kubelet.conf", fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s", certificate-authority-data: %s, tls-server-name: kubernetes}}]
users: [{name: u, user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: /var/lib/kubelet/pki/kubelet-client-current.pem}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, n.api.ServeBy(l).Addr, base64.StdEncoding.EncodeToString(authority)))
	return n
}

func (n *node) root() string { return filepath.Join(n.dir, "image") }

func (n *node) write(path, text string) {
	n.t.Helper()
	must(n.t, os.WriteFile(filepath.Join(n.dir, path), []byte(text), 0o644))
}

// read takes the Pod and the settings from the manifest.
func (n *node) read() {
	n.t.Helper()
	objects, err := deploy.Render(deploy.Defaults(), deploy.DefaultNamespace)
	must(n.t, err)
	for _, o := range objects {
		switch o.Kind {
		case "DaemonSet":
			var ds appsv1.DaemonSet
			must(n.t, yaml.UnmarshalStrict(o.YAML, &ds))
			n.pod = ds.Spec.Template.Spec
		case "ConfigMap":
			must(n.t, yaml.UnmarshalStrict(o.YAML, &n.config))
		}
	}
}

// source is what a volume is of.
func (n *node) source(volume string) string {
	n.t.Helper()
	switch volume {
	case "settings":
		return filepath.Join(n.dir, "settings")
	case "netns": // the machine's, where the pods' namespaces are
		return "/run/netns"
	case "cgroup":
		return n.cgroup
	}
	for _, v := range n.pod.Volumes {
		if v.Name == volume && v.HostPath != nil {
			return filepath.Join(n.dir, v.HostPath.Path)
		}
	}
	n.t.Fatalf("there is no volume %s of the node", volume)
	return ""
}

// daemon is the container of the daemon, as a runtime makes it, without some of its
// capabilities.
func (n *node) daemon(without ...corev1.Capability) container {
	n.t.Helper()
	spec := n.pod.Containers[0]
	c := container{Root: n.root(), Env: []string{"PATH=/usr/bin:/usr/sbin", "NODE_NAME=node-1"}, Capabilities: []int{}}
	for _, arg := range spec.Command {
		c.Args = append(c.Args, strings.ReplaceAll(arg, "$(NODE_NAME)", "node-1"))
	}
	for _, add := range spec.SecurityContext.Capabilities.Add {
		if slices.Contains(without, add) {
			continue
		}
		number, ok := capabilities[add]
		if !ok {
			n.t.Fatalf("unknown capability %s", add)
		}
		c.Capabilities = append(c.Capabilities, number)
	}
	for _, m := range spec.VolumeMounts {
		follow := m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer
		c.Mounts = append(c.Mounts, mount{From: n.source(m.Name), To: m.MountPath, ReadOnly: m.ReadOnly, Follow: follow})
	}
	// What the API server adds to each Pod with a service account.
	c.Mounts = append(c.Mounts, mount{From: filepath.Join(n.dir, "account"), To: "/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true})
	for _, m := range c.Mounts { // as runc makes them
		at := filepath.Join(c.Root, m.To)
		if i, err := os.Stat(m.From); err == nil && i.IsDir() {
			must(n.t, os.MkdirAll(at, 0o755))
			continue
		}
		must(n.t, os.MkdirAll(filepath.Dir(at), 0o755))
		must(n.t, os.WriteFile(at, nil, 0o644))
	}
	return c
}

var capabilities = map[corev1.Capability]int{
	"BPF": unix.CAP_BPF, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "NET_ADMIN": unix.CAP_NET_ADMIN, "NET_BROADCAST": unix.CAP_NET_BROADCAST, "NET_RAW": unix.CAP_NET_RAW,
	"PERFMON": unix.CAP_PERFMON, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

// process is a container that runs.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

func (n *node) start(c container) *process {
	n.t.Helper()
	self, err := os.Executable()
	must(n.t, err)
	text, err := json.Marshal(c)
	must(n.t, err)
	log, err := os.CreateTemp(n.dir, "log")
	must(n.t, err)
	defer log.Close()
	p := &process{cmd: exec.Command(self), log: log.Name(), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asContainer+"="+string(text))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	must(n.t, n.NS.Start(p.cmd))
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	n.t.Cleanup(func() {
		p.end(n.t, unix.SIGKILL)
		if n.t.Failed() {
			n.t.Logf("log:\n%s", p.text(n.t))
		}
	})
	return p
}

func (p *process) text(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.log)
	must(t, err)
	return string(b)
}

// end sends the signal, unless it has ended, and waits.
func (p *process) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the container does not end")
	}
}

// probe asks as the kubelet does.
func (n *node) probe(p *corev1.Probe) error {
	var answer string
	err := n.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.HTTPGet.Host, p.HTTPGet.Port.String()), time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", p.HTTPGet.Path)
		b, err := io.ReadAll(conn)
		answer = string(b)
		return err
	})
	if err == nil && !strings.Contains(answer, " 200 ") {
		err = fmt.Errorf("probe %s: %s", p.HTTPGet.Path, answer)
	}
	return err
}

func (n *node) client() *api.Client {
	return api.NewClient(filepath.Join(n.dir, "run/weft/weftd.sock"))
}

// attach asks for an interface as the plugin does, by a path as containerd has it. Each
// pod has a host port of its own: two that want the same are a problem of the node's.
func (n *node) attach(pod *testnet.NS) error {
	n.api.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod.Name, UID: types.UID(pod.Name)}, Spec: corev1.PodSpec{NodeName: "node-1"}})
	_, err := n.client().Add(context.Background(), api.Attach{
		PodNamespace: "default", PodName: pod.Name, PodUID: pod.Name,
		ContainerID: pod.Name, IfName: "eth0", Netns: "/var/run/netns/" + pod.Name, Network: "weft",
		PortMappings: []api.PortMapping{{HostPort: uint16(8080 + len(n.api.Pods())), ContainerPort: 80, Protocol: "tcp"}},
		Bandwidth:    &api.Bandwidth{IngressRate: 1e9, IngressBurst: 1e7, EgressRate: 1e9, EgressBurst: 1e7},
	})
	return err
}

// verdict says whether the node serves: it is ready, a pod can be attached and reaches
// it, nothing is wrong. It is asked until that is so, the daemon ends, or time is up.
func (n *node) verdict(p *process, pod *testnet.NS, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var ended error
	attached := false
	err := testnet.Wait(ctx, func() error {
		select {
		case <-p.ended:
			ended = fmt.Errorf("weftd ended: %s", p.text(n.t))
			return nil
		default:
		}
		if err := n.probe(n.pod.Containers[0].ReadinessProbe); err != nil {
			return err
		}
		if !attached {
			if err := n.attach(pod); err != nil {
				return fmt.Errorf("attach: %w", err)
			}
			attached = true
		}
		return n.well(pod)
	})
	return errors.Join(ended, err)
}

// well says what is wrong with an attached pod, or with the node.
func (n *node) well(pod *testnet.NS) error {
	if !slices.ContainsFunc(n.api.Pods(), func(p *corev1.Pod) bool { return p.Name == pod.Name && p.Annotations["weft.dev/pod-ips"] != "" }) {
		return errors.New("the pod's addresses are not announced")
	}
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		err := pod.Do(func() error {
			_, err := net.DialTimeout("tcp", net.JoinHostPort(address, "9"), time.Second)
			return err
		})
		if !errors.Is(err, unix.ECONNREFUSED) { // the node's own answer
			return fmt.Errorf("the pod asks the node: %w", err)
		}
	}
	s, err := n.client().Status(context.Background())
	if err != nil {
		return err
	}
	for _, p := range s.Problems {
		return fmt.Errorf("problem %s: %s", p.What, p.Text)
	}
	for _, t := range s.Tables {
		if t.Error != "" {
			return fmt.Errorf("table %s: %s", t.Name, t.Error)
		}
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
