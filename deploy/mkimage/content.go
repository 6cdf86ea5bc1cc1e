package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/deploy/image"
)

// packages is where iptables, its modules and their libraries come from.
var packages = []string{
	"iptables", "libxtables12", "libip4tc2", "libip6tc2", "libmnl0", "libnftnl11",
	"libnetfilter-conntrack3", "libnfnetlink0", "libc6",
}

// weft is the image of the node: what is Debian's below, what is ours above, so that
// an upgrade brings the upper layer only.
func weft(ctx context.Context, bin, cache string) (image.Image, error) {
	base, err := iptables(ctx, cache)
	if err != nil {
		return image.Image{}, err
	}
	maps.Copy(base, skeleton())
	ours, err := binaries(bin, "weftd", "weft-cni", "weft")
	if err != nil {
		return image.Image{}, err
	}
	return image.Image{
		Config: image.Config{
			Env:        []string{"PATH=/usr/bin:/usr/sbin"},
			Entrypoint: []string{"/usr/bin/weftd"},
			Cmd:        []string{"run"},
			Labels:     labels("Weft, a Kubernetes network in eBPF: daemon, CNI plugin and CLI", "Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later"),
		},
		Layers: []image.Tree{base, ours},
	}, nil
}

// example is the image of examples/: one static program, run by nobody in particular.
func example(bin string) (image.Image, error) {
	ours, err := binaries(bin, "example")
	if err != nil {
		return image.Image{}, err
	}
	return image.Image{
		Config: image.Config{
			User: "65532:65532", Env: []string{"PATH=/usr/bin"}, Entrypoint: []string{"/usr/bin/example"},
			Labels: labels("Weft's example: two microservices in one program", "Apache-2.0"),
		},
		Layers: []image.Tree{ours},
	}, nil
}

func labels(description, licenses string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.source":      "https://github.com/weftnet/weft",
		"org.opencontainers.image.licenses":    licenses,
		"org.opencontainers.image.description": description,
	}
}

// skeleton is the folders on which a runtime mounts. CNI_NETNS is often a path below
// /var/run, which must lead to /run, as on the node.
func skeleton() image.Tree {
	t := image.Tree{"var/run": {Link: "/run"}, "tmp": {Mode: fs.ModeDir | 0o777}}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys"} {
		t[dir] = image.File{Mode: fs.ModeDir | 0o755}
	}
	return t
}

// binaries are programs of ours. One that is linked to libraries is refused: the
// image has them only for iptables.
func binaries(bin string, names ...string) (image.Tree, error) {
	t := image.Tree{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			return nil, fmt.Errorf("read binary: %w (make build makes it)", err)
		}
		alone := image.Tree{name: {Content: b}}
		if err := alone.Closure(nil); err != nil {
			return nil, fmt.Errorf("binary is not static: %w (build it with CGO_ENABLED=0)", err)
		}
		t["usr/bin/"+name] = image.File{Mode: 0o755, Content: b}
	}
	return t, nil
}

// iptables is both back ends with their modules and libraries, and what tells of the
// packages that they are from.
func iptables(ctx context.Context, cache string) (image.Tree, error) {
	from, err := image.Fetch(ctx, cache, packages...)
	if err != nil {
		return nil, err
	}
	all, about := image.Tree{}, image.Tree{}
	for _, p := range from {
		files, err := p.Files(ctx)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, files)
		control, err := p.Control(ctx)
		if err != nil {
			return nil, err
		}
		about["var/lib/dpkg/status.d/"+p.Name] = image.File{Mode: 0o644, Content: control}
		c, ok := files[p.Copyright()]
		if !ok {
			return nil, fmt.Errorf("package %s has no %s", p.Name, p.Copyright())
		}
		about[p.Copyright()] = c
	}
	t := image.Tree{}
	for name, f := range all {
		if wanted(name) {
			t[name] = f
		}
	}
	if err := t.Closure(all); err != nil {
		return nil, err
	}
	maps.Copy(t, about)
	return t, nil
}

// wanted says whether a file of a package is a command of iptables or a module. Bridge
// and ARP tables are not our concern.
func wanted(name string) bool {
	dir, base := path.Split(name)
	switch {
	case dir == "usr/sbin/":
		return tables(base, "iptables-") || tables(base, "ip6tables-") ||
			strings.HasPrefix(base, "xtables-") && strings.HasSuffix(base, "-multi")
	case path.Base(path.Clean(dir)) == "xtables":
		return strings.HasSuffix(base, ".so") && !strings.HasPrefix(base, "libebt_") && !strings.HasPrefix(base, "libarpt_")
	}
	return false
}

// tables says whether a command is one of the multi-call binaries; the scripts beside
// them need a shell.
func tables(name, prefix string) bool {
	return strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, "-apply")
}
