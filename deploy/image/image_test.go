package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unpack lists a tar file: names with what they are.
func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h.FileInfo().Mode().String() + " " + string(b) + h.Linkname
	}
}

func TestLayerHasTheFilesAndTheFoldersAboveThem(t *testing.T) {
	l, err := Tree{
		"usr/bin/a": {Mode: 0o755, Content: []byte("A")},
		"var/run":   {Link: "/run"},
		"tmp":       {Mode: fs.ModeDir | 0o777},
	}.Layer()
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(l.Blob))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/": "drwxr-xr-x ", "usr/bin/": "drwxr-xr-x ", "usr/bin/a": "-rwxr-xr-x A",
		"var/": "drwxr-xr-x ", "var/run": "Lrwxrwxrwx /run", "tmp/": "drwxrwxrwx ",
	}
	if diff := cmp.Diff(want, unpack(t, z)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(l.Digest, "sha256:") || l.Digest == l.DiffID {
		t.Errorf("digests %s and %s", l.Digest, l.DiffID)
	}
}

func TestLayerRefusesPathsThatAreNone(t *testing.T) {
	for _, tree := range []Tree{
		{"/abs": {}}, {"../up": {}}, {"a/../b": {}}, {".": {}}, {"": {}},
		{"a": {Mode: 0o644}, "a/b": {Mode: 0o644}},
		{"a": {Link: "/x"}, "a/b": {Mode: 0o644}},
	} {
		if _, err := tree.Layer(); err == nil {
			t.Errorf("%v: no error", tree)
		}
	}
}

func TestImageIsTheSameWhoeverWritesIt(t *testing.T) {
	write := func() (string, []byte) {
		var b bytes.Buffer
		digest, err := Image{
			Name: "weftnet/weft:v1", Config: Config{Cmd: []string{"run"}, Labels: map[string]string{"b": "2", "a": "1"}},
			Layers: []Tree{{"x/1": {Mode: 0o644}, "y/2": {Mode: 0o644}, "z": {Mode: 0o644}}, {"top": {Mode: 0o755}}},
		}.Write(&b)
		if err != nil {
			t.Fatal(err)
		}
		return digest, b.Bytes()
	}
	digest, first := write()
	for range 20 { // a map's order is another each time
		if d, b := write(); d != digest || !bytes.Equal(b, first) {
			t.Fatal("two images of the same content differ")
		}
	}
	files := unpack(t, bytes.NewReader(first))
	content := func(name string) string {
		text, ok := strings.CutPrefix(files[name], "-rw-r--r-- ")
		if !ok {
			t.Fatalf("there is no %s in %v", name, files)
		}
		return text
	}
	var docker []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal([]byte(content("manifest.json")), &docker); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(content("index.json")), &index); err != nil {
		t.Fatal(err)
	}
	m := index.Manifests[0]
	if m.Digest != digest || m.Annotations["io.containerd.image.name"] != "docker.io/weftnet/weft:v1" {
		t.Errorf("index: %+v, want digest %s", m, digest)
	}
	if docker[0].RepoTags[0] != "weftnet/weft:v1" || len(docker[0].Layers) != 2 {
		t.Errorf("manifest.json: %+v", docker)
	}
	for _, blob := range append(docker[0].Layers, docker[0].Config, blobPath(digest)) {
		if digestOf := "sha256/" + strings.TrimPrefix(digestText(content(blob)), "sha256:"); !strings.HasSuffix(blob, digestOf) {
			t.Errorf("%s has the content of %s", blob, digestOf)
		}
	}
}

func digestText(s string) string { return digest([]byte(s)) }

func TestNamesAreAsRuntimesKeepThem(t *testing.T) {
	for name, want := range map[string]string{
		"weft:v1":                       "docker.io/library/weft:v1",
		"weftnet/weft:v1":               "docker.io/weftnet/weft:v1",
		"ghcr.io/weftnet/weft:v0.1.0-1": "ghcr.io/weftnet/weft:v0.1.0-1",
		"localhost/a/b:x":               "localhost/a/b:x",
		"localhost:5000/weft:x":         "localhost:5000/weft:x",
		"weft":                          "",
		"weft:":                         "",
		"Weft:v1":                       "",
		"weft:v1@sha256:00":             "",
		"weft:-v":                       "",
		"":                              "",
	} {
		got, err := Normal(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Normal(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}
