package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// TestImages is one archive, tests.tar, of the images that the network tests of upstream
// run, and of pause, which all pods need. The programs are upstream's where these are Go
// or C, else Debian's of the same name.
type TestImages struct {
	Revision   int // counts up when Make changes
	Tree       DebianTree
	Kubernetes GoBuild
	Helpers    GoBuild
	CoreDNS    GoBuild // in agnhost, which tests configure as a name server
	Files      ModuleFiles
	Agnhost    string // image names
	GlibcDNS   string
	Nginx      string
	Iptables   string
	BusyBox    string
	Regression string // of issue 74839: a server that provokes an invalid conntrack state
	Pause      string
}

// Tests are the images of the names that this Kubernetes' tests ask for
// (test/utils/image/manifest.go).
func Tests() TestImages {
	const at = "registry.k8s.io/e2e-test-images/"
	return TestImages{
		Revision: 3,
		Tree: DebianTree{Label: "debian-tests", Suite: debianSuite, Packages: []string{
			"bind9-dnsutils", "busybox-static", "ca-certificates", "conntrack", "curl", "iperf", "iperf3", "iproute2",
			"iptables", "iputils-ping", "netcat-openbsd", "nftables", "nginx-light", "procps", "socat", "tcpdump", "wget",
		}},
		Kubernetes: Kubernetes(),
		Helpers:    Helpers(),
		CoreDNS:    CoreDNS(),
		Files:      kubernetesFiles(),
		Agnhost:    at + "agnhost:2.66.1",
		GlibcDNS:   at + "glibc-dns-testing:2.1.1",
		Nginx:      at + "nginx:1.27.0-2",
		Iptables:   "registry.k8s.io/build-image/distroless-iptables:v0.9.9",
		BusyBox:    at + "busybox:1.37.0-2",
		Regression: at + "regression-issue-74839:1.5",
		Pause:      pauseImage,
	}
}

// Name is tests.
func (TestImages) Name() string { return "test-images" }

// Needs are the programs and the Debian.
func (t TestImages) Needs() []Recipe {
	return []Recipe{t.Tree, t.Kubernetes, t.Helpers, t.CoreDNS, t.Files}
}

// Archive is the file that Make made.
func (t TestImages) Archive(s *Store) string { return filepath.Join(s.Path(t), "tests.tar") }

// Make writes the archive.
func (t TestImages) Make(ctx context.Context, s *Store, dir string) error {
	a, err := newArchive(filepath.Join(dir, "tests.tar"))
	if err != nil {
		return err
	}
	return errors.Join(t.add(ctx, s, a, filepath.Join(dir, "root")), a.Close(), os.RemoveAll(filepath.Join(dir, "root")))
}

func (t TestImages) add(ctx context.Context, s *Store, a *archive, scratch string) error {
	debian, err := a.Layer(s.Path(t.Tree))
	if err != nil {
		return err
	}
	built := func(g GoBuild, name string) string { return filepath.Join(s.Path(g), name) }
	porter := filepath.Join(s.Path(t.Files), "test/images/agnhost/porter")
	busybox := filepath.Join(s.Path(t.Tree), "bin/busybox")
	names, err := applets(ctx, busybox)
	if err != nil {
		return err
	}
	// Upstream's agnhost stands on Alpine: what Debian has no program for, busybox is.
	var all, missing []entry
	for _, name := range names {
		all = append(all, entry{path: "bin/" + name, link: "busybox"})
		if !inTree(s.Path(t.Tree), name) {
			missing = append(missing, entry{path: "usr/bin/" + name, link: "busybox"})
		}
	}
	pause := filepath.Join(scratch, "pause.bin")
	if err := compilePause(ctx, pause, filepath.Join(s.Path(t.Files), "build/pause/linux/pause.c")); err != nil {
		return err
	}
	// A layer for itself, as in CoreDNS' own image: a node's store holds it once.
	coredns, err := addLayer(a, scratch, entry{path: "coredns", from: built(t.CoreDNS, "coredns")})
	if err != nil {
		return err
	}
	path := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, image := range []struct {
		name    string
		base    []layer
		entries []entry
		config  imageConfig
	}{
		{t.Agnhost, []layer{debian, coredns}, append([]entry{
			{path: "agnhost", from: built(t.Kubernetes, "agnhost")},
			{path: "agnhost-2", link: "agnhost"},
			{path: "localhost.crt", from: filepath.Join(porter, "localhost.crt")},
			{path: "localhost.key", from: filepath.Join(porter, "localhost.key")},
			{path: "uploads"},
		}, missing...), imageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: path}},
		{t.GlibcDNS, []layer{debian}, nil, imageConfig{Cmd: []string{"sh"}, Env: path}},
		{t.Nginx, []layer{debian}, []entry{{path: "var/log/nginx"}},
			imageConfig{Cmd: []string{"nginx", "-g", "daemon off;"}, Env: path, StopSignal: "SIGQUIT"}},
		{t.Iptables, []layer{debian}, nil, imageConfig{Env: path}},
		{t.BusyBox, nil, append([]entry{{path: "bin/busybox", from: busybox}, {path: "root"}, {path: "tmp", mode: 0o777 | fs.ModeSticky}}, all...),
			imageConfig{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}},
		{t.Regression, nil, []entry{{path: "regression-issue-74839", from: built(t.Helpers, "regression-issue-74839")}},
			imageConfig{Entrypoint: []string{"/regression-issue-74839"}}},
		{t.Pause, nil, []entry{{path: "pause", from: pause}},
			imageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
	} {
		layers := image.base
		if image.entries != nil {
			l, err := addLayer(a, scratch, image.entries...)
			if err != nil {
				return fmt.Errorf("image %s: %w", image.name, err)
			}
			layers = append(layers, l)
		}
		if err := a.Image([]string{image.name}, image.config, layers...); err != nil {
			return fmt.Errorf("image %s: %w", image.name, err)
		}
	}
	return nil
}

// addLayer adds a layer of entries, which it assembles below scratch.
func addLayer(a *archive, scratch string, entries ...entry) (layer, error) {
	root := filepath.Join(scratch, "layer")
	if err := assemble(root, entries...); err != nil {
		return layer{}, err
	}
	l, err := a.Layer(root)
	return l, errors.Join(err, os.RemoveAll(root))
}

// applets are the names of the programs that busybox can be.
func applets(ctx context.Context, busybox string) ([]string, error) {
	out, err := proc.Output(proc.Command(ctx, busybox, "--list"))
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool { return name == "busybox" }), nil
}

// inTree tells whether a Debian has a program. Links in it are the Debian's, not ours.
func inTree(root, name string) bool {
	for _, dir := range []string{"usr/bin", "usr/sbin"} {
		if _, err := os.Lstat(filepath.Join(root, dir, name)); err == nil {
			return true
		}
	}
	return false
}

// compilePause compiles upstream's C program that holds a pod's namespaces.
func compilePause(ctx context.Context, to, source string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("compile pause: %w", err)
	}
	version := pauseImage[strings.LastIndex(pauseImage, ":")+1:]
	if err := proc.Run(proc.Command(ctx, "gcc", "-Os", "-static", "-DVERSION=v"+version, "-o", to, source)); err != nil {
		return fmt.Errorf("compile pause: %w", err)
	}
	return nil
}
