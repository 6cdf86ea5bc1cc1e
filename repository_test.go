// Package weft_test holds the rules of the repository that a compiler does not know.
package weft_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weftnet/weft"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		pkgs[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
	return pkgs
}

// The import law of docs/ARCHITECTURE.md: which packages of ours a package may import.
func TestImportLaw(t *testing.T) {
	free := []string{"internal/api", "internal/crash", "internal/pace", "internal/reconcile", "internal/testnet"}
	law := map[string][]string{
		"plugin":              {"internal/api", "internal/crash", "internal/pace"},
		"bpf":                 {"internal/crash", "internal/reconcile"},
		"ipam":                {"internal/crash", "internal/reconcile"},
		"overlay":             {"internal/crash", "internal/pace", "internal/reconcile"},
		"internal/api":        {"internal/crash"},
		"internal/crash":      {},
		"internal/pace":       {},
		"internal/reconcile":  {},
		"internal/testkube":   {},
		"internal/testnet":    {},
		"deploy":              {"internal/api"},
		"deploy/fake":         {},
		"deploy/image":        {},
		"deploy/mkimage":      {"deploy/image"},
		"deploy/mkmanifest":   {"deploy"},
		"cmd/weft":            {"deploy", "internal/api", "internal/web"},
		"cmd/weft-cni":        {"plugin"},
		"cmd/weftd":           {"daemon"},
		"examples":            {},
		"daemon/source":       free,
		"daemon/source/kube":  append([]string{"daemon/source"}, free...),
		"daemon/announce":     append([]string{"daemon/source"}, free...),
		"daemon/returns":      {},
		"daemon/loadbalancer": append([]string{"daemon/source"}, free...),
		"daemon/policy":       append([]string{"bpf", "daemon/source", "overlay"}, free...),
		"internal/web":        {"internal/api", "internal/api/server"},
		// It judges the compiler, so that it must not share anything with it.
		"daemon/policy/oracle": {"daemon/source"},
		// Tests in kind see Weft as a user does: by its binaries, image and manifest.
		"e2e/kind/build":     {"e2e/kind/proc", "e2e/kind/progress", "internal/testnet"},
		"e2e/kind/cluster":   {"e2e/kind/engine", "e2e/kind/proc", "e2e/kind/progress"},
		"e2e/kind/engine":    {"e2e/kind/proc", "e2e/kind/progress", "internal/testnet"},
		"e2e/kind/proc":      {},
		"e2e/kind/progress":  {},
		"e2e/kind/reference": {"e2e/kind/cluster", "e2e/kind/proc"},
		"e2e/kind/scenario":  {"e2e/kind/build", "e2e/kind/cluster", "e2e/kind/echo", "e2e/kind/proc", "e2e/kind/progress", "e2e/kind/reference", "internal/testnet"},
		"e2e/kind/upstream":  {"e2e/kind/build", "e2e/kind/cluster", "e2e/kind/proc", "e2e/kind/progress"},
	}
	pkgs := list(t)
	for name, allowed := range law {
		p, ok := pkgs[name]
		if !ok {
			t.Errorf("package %s of the import law does not exist", name)
			continue
		}
		for _, imp := range p.Imports {
			ours, is := strings.CutPrefix(imp, module+"/")
			if is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; it may import of Weft only %v", name, ours, allowed)
			}
		}
	}
}

// Only the daemon and what stands above it may carry Kubernetes; the plugin, which
// the kubelet starts for every pod, carries neither netlink nor BPF.
func TestHeavyImportsStayWhereTheyBelong(t *testing.T) {
	banned := map[string][]string{
		"bpf":     {"k8s.io/"},
		"ipam":    {"k8s.io/", "github.com/cilium/", "github.com/vishvananda/"},
		"overlay": {"k8s.io/", "github.com/cilium/"},
		// Typed clients and informers would triple the CLI.
		"cmd/weft":     {"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "github.com/cilium/", "github.com/vishvananda/"},
		"cmd/weft-cni": {"k8s.io/", "github.com/cilium/", "github.com/vishvananda/netlink", "github.com/prometheus/", "github.com/spf13/"},
	}
	pkgs := list(t)
	for name, prefixes := range banned {
		for _, dep := range pkgs[name].Deps {
			for _, prefix := range prefixes {
				if strings.HasPrefix(dep, prefix) {
					t.Errorf("%s depends on %s", name, dep)
				}
			}
		}
	}
}

// Whoever wants something of a cluster asks the source. A client of the Kubernetes API has
// a scheme, caches and goroutines of its own; one is enough for a small daemon. The CLI
// has none of it: it asks by itself.
func TestOneClientOfTheAPI(t *testing.T) {
	allowed := []string{"daemon/source/kube", "deploy"}
	for name, p := range list(t) {
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "k8s.io/client-go/") && !slices.Contains(allowed, name) {
				t.Errorf("%s imports %s; only %v may", name, imp, allowed)
			}
		}
	}
}

// BPF C is dual-licensed, so that it may be loaded and so that others may use it.
func TestBPFSourcesSayTheirLicense(t *testing.T) {
	files, err := filepath.Glob("bpf/src/*.[ch]")
	if err != nil || len(files) == 0 {
		t.Fatalf("no BPF sources found: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		if !strings.Contains(line, "SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause") {
			t.Errorf("%s: first line is %q, without the SPDX identifier", f, line)
		}
	}
}

// A file that a person cannot hold in mind is two files.
func TestFilesStayShort(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "*.go", "*.c", "*.h").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, f := range strings.Fields(string(out)) {
		if strings.Contains(f, "_bpfe") {
			continue // generated
		}
		b, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 400 {
			t.Errorf("%s has %d lines, more than 400", f, n)
		}
	}
}
