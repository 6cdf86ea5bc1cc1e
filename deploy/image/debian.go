package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Package is a Debian package in a file.
type Package struct {
	Name, Version string
	SHA256        string
	path          string
}

// Fetch gets packages of the release that this machine's apt knows, and returns them in
// the order of the names. What is in the folder cache already, with the checksum that
// apt knows, is not downloaded again. It installs nothing.
func Fetch(ctx context.Context, cache string, names ...string) ([]Package, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	// apt does not name what is in its working folder already.
	empty, err := os.MkdirTemp(cache, "ask-")
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	defer os.Remove(empty)
	// 'URL' FILE SIZE SHA256:SUM, one line for each package.
	known, err := run(ctx, empty, "apt-get", append([]string{"-qq", "--print-uris", "download"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("ask apt for packages: %w (apt-get update may help)", err)
	}
	byName := map[string]Package{}
	for line := range strings.Lines(string(known)) {
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("ask apt for packages: answer %q has not four fields", line)
		}
		sum, ok := strings.CutPrefix(f[3], "SHA256:")
		name, rest, _ := strings.Cut(f[1], "_")
		version, _, _ := strings.Cut(rest, "_")
		if !ok || filepath.Base(f[1]) != f[1] {
			return nil, fmt.Errorf("ask apt for packages: answer %q has no SHA256 or no name", line)
		}
		byName[name] = Package{Name: name, Version: strings.ReplaceAll(version, "%3a", ":"), SHA256: sum, path: filepath.Join(cache, f[1])}
	}
	var out []Package
	for _, name := range names {
		p, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("ask apt for packages: it does not name %s", name)
		}
		if p.check() != nil {
			if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if _, err := run(ctx, cache, "apt-get", "-qq", "download", name); err != nil {
				return nil, fmt.Errorf("download package %s: %w", name, err)
			}
			if err := p.check(); err != nil {
				return nil, fmt.Errorf("download package %s: %w", name, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// check says whether the file is there and whole.
func (p Package) check() error {
	b, err := os.ReadFile(p.path)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.SHA256 {
		return fmt.Errorf("%s has another checksum than apt says", p.path)
	}
	return nil
}

// Files are the files of the package, folders left out. A hard link is a copy.
func (p Package) Files(ctx context.Context) (Tree, error) {
	out, err := run(ctx, "", "dpkg-deb", "--fsys-tarfile", p.path)
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", p.Name, err)
	}
	t := Tree{}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, fmt.Errorf("read package %s: %w", p.Name, err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		f := File{Mode: fs.FileMode(h.Mode).Perm()}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.Content, err = io.ReadAll(r); err != nil {
				return nil, fmt.Errorf("read %s of package %s: %w", name, p.Name, err)
			}
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeLink:
			f = t[path.Clean(strings.TrimPrefix(h.Linkname, "/"))]
		default:
			continue
		}
		t[name] = f
	}
}

// Control is the package's entry in dpkg's database, by which scanners know what an
// image without dpkg has in it.
func (p Package) Control(ctx context.Context) ([]byte, error) {
	b, err := run(ctx, "", "dpkg-deb", "--field", p.path)
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", p.Name, err)
	}
	return append([]byte("Status: install ok installed\n"), b...), nil
}

// Copyright is where Debian keeps the license of a package.
func (p Package) Copyright() string { return "usr/share/doc/" + p.Name + "/copyright" }

// run returns what a program writes; an error has its standard error in it.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Closure adds to t what its programs need to run, from the files in all: their loader
// and shared libraries, and what these need, with the links that lead to them. A
// library that all does not have is an error.
func (t Tree) Closure(all Tree) error {
	var todo []string
	for name, f := range t {
		if f.Link == "" && isELF(f.Content) {
			todo = append(todo, name)
		}
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		needs, err := needed(t[name].Content)
		if err != nil {
			return fmt.Errorf("read what %s needs: %w", name, err)
		}
		for _, need := range needs {
			added, err := t.take(all, need)
			if err != nil {
				return fmt.Errorf("find what %s needs: %w", name, err)
			}
			todo = append(todo, added...)
		}
	}
	return nil
}

// libraryPaths is the files of a name where the loader looks (ld.so(8)): below lib and
// usr/lib, in the machine's folder whatever its name is, and in lib64.
func libraryPaths(all Tree, soname string) []string {
	var out []string
	for name := range all {
		dir := path.Dir(name)
		if path.Base(name) == soname && (path.Dir(dir) == "lib" || path.Dir(dir) == "usr/lib" || dir == "lib64") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// take copies a library, or a file by its absolute path, and what it is a link to. It
// returns which files are new.
func (t Tree) take(all Tree, need string) ([]string, error) {
	name := strings.TrimPrefix(need, "/")
	if !strings.Contains(need, "/") {
		found := libraryPaths(all, need)
		if len(found) == 0 {
			return nil, fmt.Errorf("no package has %s", need)
		}
		name = found[0]
	}
	var added []string
	for {
		f, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("no package has /%s", name)
		}
		if _, have := t[name]; have {
			return added, nil
		}
		t[name] = f
		if f.Link == "" {
			return append(added, name), nil
		}
		if path.IsAbs(f.Link) {
			name = strings.TrimPrefix(f.Link, "/")
		} else {
			name = path.Join(path.Dir(name), f.Link)
		}
	}
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte(elf.ELFMAG)) }

// needed is the names of the libraries and the path of the loader of a program.
func needed(content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := bufio.NewReader(p.Open()).ReadString(0)
		if err != nil {
			return nil, fmt.Errorf("read loader's path: %w", err)
		}
		names = append(names, strings.TrimSuffix(loader, "\x00"))
	}
	return names, nil
}
