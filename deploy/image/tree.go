// Package image writes container images to a file, without a container engine: the
// same content gives the same bytes, whoever makes it, when and where.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Tree is the files of one layer, by their path from the root, without a leading
// slash. All belong to root. Folders above a file need not be named: they are made
// with mode 0755.
type Tree map[string]File

// File is a regular file, or with Link a symbolic link, or with a mode of
// [fs.ModeDir] a folder.
type File struct {
	Mode    fs.FileMode // permissions, and ModeDir
	Link    string
	Content []byte
}

// Layer is a Tree as the layer of an image: a tar file, compressed.
type Layer struct {
	Blob   []byte
	Digest string // of Blob, "sha256:…"
	DiffID string // of the tar file in it
}

// Layer packs the files. A path that leaves the root, or a file in the place of a
// folder, is an error.
func (t Tree) Layer() (Layer, error) {
	all := Tree{}
	for name, f := range t {
		if !fs.ValidPath(name) || name == "." {
			return Layer{}, fmt.Errorf("pack %q: not a path below the root", name)
		}
		all[name] = f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			above, ok := t[dir]
			if ok && !above.Mode.IsDir() {
				return Layer{}, fmt.Errorf("pack %s: %s is no folder", name, dir)
			}
			if !ok {
				all[dir] = File{Mode: fs.ModeDir | 0o755}
			}
		}
	}
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, name := range slices.Sorted(maps.Keys(all)) { // a folder sorts before what is in it
		f := all[name]
		h := &tar.Header{
			Name: name, Mode: int64(f.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
			Typeflag: tar.TypeReg, Size: int64(len(f.Content)),
		}
		switch {
		case f.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return Layer{}, fmt.Errorf("pack %s: %w", name, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return Layer{}, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return Layer{}, fmt.Errorf("pack layer: %w", err)
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression) // its header has neither name nor time
	if err == nil {
		_, err = z.Write(plain.Bytes())
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return Layer{}, fmt.Errorf("compress layer: %w", err)
	}
	return Layer{Blob: packed.Bytes(), Digest: digest(packed.Bytes()), DiffID: digest(plain.Bytes())}, nil
}

// Under returns the paths below a folder.
func (t Tree) Under(dir string) []string {
	var out []string
	for name := range t {
		if strings.HasPrefix(name, dir+"/") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
