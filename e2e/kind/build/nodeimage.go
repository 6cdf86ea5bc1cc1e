package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// NodeImage is the archive, node.tar, of the image that kind's nodes run: what kind's own
// image is made of, with the images of the control plane and of the tests in containerd's
// store, so that a cluster pulls nothing.
type NodeImage struct {
	Revision   int // counts up when Make changes
	Image      string
	Tree       DebianTree
	Kubernetes GoBuild
	Etcd       GoBuild
	CoreDNS    GoBuild
	Containerd GoBuild
	Runc       GoBuild
	Crictl     GoBuild
	Plugins    GoBuild
	KindFiles  ModuleFiles
	Tests      TestImages
}

// Node is the image of this Kubernetes.
func Node() NodeImage {
	return NodeImage{
		Revision: 3,
		Image:    "weft.local/kind-node:" + kubernetes,
		Tree: DebianTree{Label: "debian-node", Suite: debianSuite, Packages: []string{
			"bash", "ca-certificates", "conntrack", "curl", "ethtool", "hostname", "iproute2", "ipset", "iptables", "iputils-ping",
			"jq", "kmod", "libseccomp2", "mount", "nftables", "openssl", "procps", "socat", "systemd", "tcpdump", "util-linux",
		}, Remove: []string{
			// Services that would act on the machine, or that no container needs.
			"lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
			"lib/systemd/system/multi-user.target.wants/*", "etc/systemd/system/*.wants/*",
			"lib/systemd/system/local-fs.target.wants/*", "lib/systemd/system/sockets.target.wants/*udev*",
			"lib/systemd/system/sockets.target.wants/*initctl*", "lib/systemd/system/basic.target.wants/*",
			"etc/machine-id",
		}},
		Kubernetes: Kubernetes(), Etcd: Etcd(), CoreDNS: CoreDNS(), Containerd: Containerd(), Runc: Runc(),
		Crictl: Crictl(), Plugins: Plugins(), KindFiles: kindFiles(), Tests: Tests(),
	}
}

// Name is node-image.
func (NodeImage) Name() string { return "node-image" }

// Needs are the node's programs.
func (n NodeImage) Needs() []Recipe {
	return []Recipe{n.Tree, n.Kubernetes, n.Etcd, n.CoreDNS, n.Containerd, n.Runc, n.Crictl, n.Plugins, n.KindFiles, n.Tests}
}

// Archive is the file that Make made.
func (n NodeImage) Archive(s *Store) string { return filepath.Join(s.Path(n), "node.tar") }

// Make puts the node's tree together and writes the archive.
func (n NodeImage) Make(ctx context.Context, s *Store, dir string) error {
	if err := n.checkNames(ctx, s); err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := n.assemble(ctx, s, root); err != nil {
		return err
	}
	if err := n.fillImageStore(ctx, s, filepath.Join(root, "var/lib/containerd"), filepath.Join(dir, "scratch")); err != nil {
		return err
	}
	a, err := newArchive(filepath.Join(dir, "node.tar"))
	if err != nil {
		return err
	}
	return errors.Join(n.write(s, a, root), a.Close(), os.RemoveAll(root), os.RemoveAll(filepath.Join(dir, "scratch")))
}

func (n NodeImage) write(s *Store, a *archive, root string) error {
	debian, err := a.Layer(s.Path(n.Tree))
	if err != nil {
		return err
	}
	node, err := a.Layer(root)
	if err != nil {
		return err
	}
	return a.Image([]string{n.Image}, imageConfig{
		Env:        []string{"container=docker", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
		StopSignal: "SIGRTMIN+3", // systemd's for halting
	}, debian, node)
}

// checkNames compares the names of our images with those that kubeadm will ask for.
func (n NodeImage) checkNames(ctx context.Context, s *Store) error {
	out, err := proc.Output(proc.Command(ctx, filepath.Join(s.Path(n.Kubernetes), "kubeadm"),
		"config", "images", "list", "--kubernetes-version", kubernetes))
	if err != nil {
		return fmt.Errorf("list kubeadm's images: %w", err)
	}
	ours := []string{pauseImage, etcdImage, corednsImage}
	for _, part := range controlPlane {
		ours = append(ours, controlPlaneImage(part))
	}
	theirs := strings.Fields(string(out))
	slices.Sort(ours)
	slices.Sort(theirs)
	if !slices.Equal(ours, theirs) {
		return fmt.Errorf("images have other names than kubeadm of %s asks for: got %q, want %q", kubernetes, ours, theirs)
	}
	return nil
}

// assemble makes what the image has above Debian.
func (n NodeImage) assemble(ctx context.Context, s *Store, root string) error {
	if err := n.copyKindFiles(s, root); err != nil {
		return err
	}
	spec, err := n.containerSpec(ctx, s)
	if err != nil {
		return err
	}
	entries := []entry{
		{path: "etc/containerd/cri-base.json", text: spec},
		{path: "etc/kubernetes/manifests"},
		{path: "etc/systemd/journald.conf.d/kind.conf", text: "[Journal]\nReadKMsg=no\n"},
		{path: "etc/systemd/system/multi-user.target.wants/containerd.service", link: "/etc/systemd/system/containerd.service"},
		{path: "etc/systemd/system/multi-user.target.wants/kubelet.service", link: "/etc/systemd/system/kubelet.service"},
		{path: "etc/systemd/system/multi-user.target.wants/undo-mount-hacks.service", link: "/etc/systemd/system/undo-mount-hacks.service"},
		{path: "etc/systemd/system/systemd-binfmt.service", link: "/dev/null"}, // it would act on the machine's kernel
		{path: "kind/manifests"},
		{path: "kind/version", text: kubernetes},
		{path: "usr/sbin/init", link: "/usr/lib/systemd/systemd"},
	}
	for _, from := range []struct {
		built GoBuild
		to    string
		names []string
	}{
		{n.Kubernetes, "usr/bin", []string{"kubelet", "kubeadm", "kubectl"}},
		{n.Containerd, "usr/local/bin", []string{"containerd", "containerd-shim-runc-v2", "ctr"}},
		{n.Crictl, "usr/local/bin", []string{"crictl"}},
		{n.Runc, "usr/local/sbin", []string{"runc"}},
		{n.Plugins, "opt/cni/bin", []string{"host-local", "loopback", "ptp", "portmap"}}, // as kind's image has
	} {
		for _, name := range from.names {
			entries = append(entries, entry{path: filepath.Join(from.to, name), from: filepath.Join(s.Path(from.built), name)})
		}
	}
	return assemble(root, entries...)
}

// sandboxImage is what containerd starts pods with.
var sandboxImage = regexp.MustCompile(`(?m)^( *sandbox_image =) .*$`)

// serviceLimits are settings of containerd's service that a machine without
// CAP_SYS_RESOURCE cannot grant, so that the service would not start.
var serviceLimits = regexp.MustCompile(`(?m)^(Limit\w+|OOMScoreAdjust)=.*\n`)

// copyKindFiles copies kind's scripts and configuration, with the modes that its
// Dockerfile gives them.
func (n NodeImage) copyKindFiles(s *Store, root string) error {
	from := filepath.Join(s.Path(n.KindFiles), "images/base/files")
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, from+"/")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "usr/local/bin/") || strings.HasPrefix(name, "kind/bin/") {
			mode = 0o755
		}
		switch name {
		case "etc/containerd/config.toml":
			b = sandboxImage.ReplaceAll(b, []byte(`$1 "`+pauseImage+`"`))
		case "etc/systemd/system/containerd.service":
			b = serviceLimits.ReplaceAll(b, nil)
		}
		return assemble(root, entry{path: name, text: string(b), mode: mode})
	})
}

// containerSpec is what containerd's containers start from: its own default, with kind's
// hook that gives each node its own product name, and without limits.
func (n NodeImage) containerSpec(ctx context.Context, s *Store) (string, error) {
	out, err := proc.Output(proc.Command(ctx, filepath.Join(s.Path(n.Containerd), "ctr"), "oci", "spec"))
	if err != nil {
		return "", fmt.Errorf("ask for containerd's default spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(out, &spec); err != nil {
		return "", fmt.Errorf("read containerd's default spec: %w", err)
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return "", fmt.Errorf("containerd's default spec has no process: %s", out)
	}
	delete(process, "rlimits")
	spec["hooks"] = map[string]any{"createContainer": []any{map[string]any{"path": "/kind/bin/mount-product-files.sh"}}}
	b, err := json.Marshal(spec)
	return string(b), err
}
