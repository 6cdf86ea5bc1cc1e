package build

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unpack reads a tar's regular files, and of others what they are.
func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			files[h.Name] = string(b)
		case tar.TypeSymlink, tar.TypeLink:
			files[h.Name] = "→ " + h.Linkname
		case tar.TypeDir:
			files[h.Name] = "folder"
		}
	}
}

func sample(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	err := assemble(root,
		entry{path: "bin/tool", text: "#!/bin/sh\n", mode: 0o755},
		entry{path: "bin/alias", link: "tool"},
		entry{path: "empty"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/twin")); err != nil {
		t.Fatal(err)
	}
	return root
}

func write(t *testing.T, root string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	a, err := newArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.Layer(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Image([]string{"example.com/one:1", "example.com/one:2"}, imageConfig{Cmd: []string{"tool"}}, l); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestArchiveHoldsImagesAsDockerSavesThem(t *testing.T) {
	files := unpack(t, bytes.NewReader(write(t, sample(t))))
	var manifest []manifestEntry
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest is %q, %v", files["manifest.json"], err)
	}
	m := manifest[0]
	if diff := cmp.Diff([]string{"example.com/one:1", "example.com/one:2"}, m.RepoTags); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	config := files[m.Config]
	if sum := sha256.Sum256([]byte(config)); m.Config != hex.EncodeToString(sum[:])+".json" {
		t.Errorf("the configuration's name %s is not its digest", m.Config)
	}
	var c struct {
		Config imageConfig `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	layer := files[m.Layers[0]]
	sum := sha256.Sum256([]byte(layer))
	if diff := cmp.Diff([]string{"sha256:" + hex.EncodeToString(sum[:])}, c.RootFS.DiffIDs); diff != "" {
		t.Errorf("layers' digests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"tool"}, c.Config.Cmd); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	want := map[string]string{
		"bin/": "folder", "bin/alias": "→ tool", "bin/tool": "#!/bin/sh\n", "bin/twin": "→ bin/tool", "empty/": "folder",
	}
	if diff := cmp.Diff(want, unpack(t, bytes.NewReader([]byte(layer)))); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestTheSameFilesMakeTheSameArchive(t *testing.T) {
	if !bytes.Equal(write(t, sample(t)), write(t, sample(t))) {
		t.Error("two archives of the same files differ")
	}
}
