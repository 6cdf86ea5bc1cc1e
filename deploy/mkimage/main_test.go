package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weftnet/weft/internal/testnet"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(asContainer); text != "" {
		fmt.Fprintln(os.Stderr, becomeContainer(text)) // it returns only if that fails
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// build makes the binaries as `make build` does.
func build(dir string) error {
	for _, name := range []string{"weftd", "weft-cni", "weft"} {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), "github.com/weftnet/weft/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// once is the image of this test run.
var once = sync.OnceValues(func() ([]byte, error) { return buildImage() })

// buildImage builds the binaries and the image anew.
func buildImage() ([]byte, error) {
	dir, err := os.MkdirTemp("", "weft-image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "image.tar")
	cmd := exec.Command("go", "run", ".", "-bin", dir, "-name", "ghcr.io/weftnet/weft:test", "-out", out, "weft")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make image: %w: %s", err, text)
	}
	return os.ReadFile(out)
}

func built(t *testing.T) []byte {
	t.Helper()
	b, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestImageIsReproducibleAndSmall(t *testing.T) {
	first := built(t)
	second, err := buildImage()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two images of the same sources differ")
	}
	// Its layers are compressed, so this is what a node downloads.
	const most = 40 << 20
	if len(first) > most {
		t.Errorf("the image has %d bytes, more than %d", len(first), most)
	}
	t.Logf("%.1f MB", float64(len(first))/1e6)
}

// unpackImage writes the files of an image's layers below dir.
func unpackImage(t *testing.T, archive []byte, dir string) {
	t.Helper()
	blobs := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			blobs[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var manifest []struct{ Layers []string }
	if err := json.Unmarshal(blobs["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest[0].Layers {
		z, err := gzip.NewReader(bytes.NewReader(blobs[layer]))
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := unpackFile(filepath.Join(dir, h.Name), h, r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func unpackFile(path string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode())
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(f, r)
	return err
}

// Nothing of the machine helps: the commands find their loader, libraries and modules in
// the image.
func TestIptablesOfTheImageWorks(t *testing.T) {
	testnet.Require(t)
	root := t.TempDir()
	unpackImage(t, built(t), root)
	n := testnet.New(t, "image")
	chroot := func(args ...string) string {
		t.Helper()
		out, err := n.Output("chroot", append([]string{root}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, backend := range []string{"nft", "legacy"} {
		for _, command := range []string{"iptables", "ip6tables"} {
			tool := "/usr/sbin/" + command + "-" + backend
			chroot(tool, "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "test", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "MASQUERADE")
			chroot(tool, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-m", "mark", "--mark", "0x1/0x1", "-j", "ACCEPT")
			out := chroot(tool+"-save", "-t", "nat") + chroot(tool, "-S", "FORWARD")
			for _, part := range []string{"-A POSTROUTING -m comment --comment test -m addrtype --dst-type LOCAL -j MASQUERADE", "--ctstate ESTABLISHED", "--mark 0x1/0x1 -j ACCEPT"} {
				if !strings.Contains(out, part) {
					t.Errorf("%s does not show %q:\n%s", tool, part, out)
				}
			}
		}
	}
	if out := chroot("/usr/bin/weftd", "version"); !strings.HasPrefix(out, "weftd ") {
		t.Errorf("weftd version: %q", out)
	}
	chroot("/usr/bin/weft", "install", "--dry-run")
}

func TestDynamicBinariesAreRefused(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "example"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := example(dir); err == nil || !strings.Contains(err.Error(), "is not static") {
		t.Errorf("got %v, want that the binary is not static", err)
	}
	if _, err := example(t.TempDir()); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v, want how to make the binary", err)
	}
}
