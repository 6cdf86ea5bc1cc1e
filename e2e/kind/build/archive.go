package build

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// epoch is the time of all that an archive holds.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// imageConfig is what of an image's configuration is ours to say (OCI image-spec,
// config.md, "config").
type imageConfig struct {
	User       string   `json:",omitempty"`
	Env        []string `json:",omitempty"`
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	StopSignal string   `json:",omitempty"`
}

// layer is one layer of images in an archive.
type layer struct {
	file   string // in the archive
	digest string // of its tar, which is not compressed
}

// archive writes a file of images as `docker save` does: manifest.json, a configuration
// for each image, and layers, which images may share. Image stores of Docker and of
// containerd read it.
type archive struct {
	f        *os.File
	manifest []manifestEntry
	layers   int
	has      map[string]bool // names of configurations, and of layers that were streamed
}

type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// newArchive creates the file.
func newArchive(path string) (*archive, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create image archive: %w", err)
	}
	return &archive{f: f, has: map[string]bool{}}, nil
}

// Layer adds the file tree below root as a layer. A second call with the same tree makes
// the same layer, bit by bit.
func (a *archive) Layer(root string) (layer, error) {
	l := layer{file: fmt.Sprintf("layer-%d.tar", a.layers)}
	a.layers++
	// How long the layer is, its header in the archive must say, and nobody knows before
	// it is written. A header has a fixed length: write it again afterwards.
	at, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return l, fmt.Errorf("add layer: %w", err)
	}
	if err := a.header(l.file, 0); err != nil {
		return l, err
	}
	begin, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return l, fmt.Errorf("add layer: %w", err)
	}
	sum := sha256.New()
	if err := writeTree(io.MultiWriter(a.f, sum), root); err != nil {
		return l, fmt.Errorf("add layer: %w", err)
	}
	end, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return l, fmt.Errorf("add layer: %w", err)
	}
	if _, err := a.f.Seek(at, io.SeekStart); err != nil {
		return l, fmt.Errorf("add layer: %w", err)
	}
	if err := a.header(l.file, end-begin); err != nil {
		return l, err
	}
	if _, err := a.f.Seek(end, io.SeekStart); err != nil { // tar's end is a whole number of blocks
		return l, fmt.Errorf("add layer: %w", err)
	}
	l.digest = digest(sum)
	return l, nil
}

// Image adds an image of these layers, lowest first.
func (a *archive) Image(names []string, config imageConfig, layers ...layer) error {
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	type history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
	image := struct {
		Architecture string      `json:"architecture"`
		OS           string      `json:"os"`
		Created      time.Time   `json:"created"`
		Config       imageConfig `json:"config"`
		RootFS       rootfs      `json:"rootfs"`
		History      []history   `json:"history"`
	}{runtime.GOARCH, "linux", epoch, config, rootfs{Type: "layers"}, nil}
	entry := manifestEntry{RepoTags: names}
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.digest)
		image.History = append(image.History, history{epoch, "weft"})
		entry.Layers = append(entry.Layers, l.file)
	}
	b, err := json.Marshal(image)
	if err != nil {
		return fmt.Errorf("add image: %w", err)
	}
	sum := sha256.Sum256(b)
	entry.Config = hex.EncodeToString(sum[:]) + ".json"
	a.manifest = append(a.manifest, entry)
	if a.has[entry.Config] {
		return nil
	}
	return a.stream(entry.Config, int64(len(b)), bytes.NewReader(b))
}

// Close writes the manifest and closes the file.
func (a *archive) Close() error {
	b, err := json.Marshal(a.manifest)
	if err == nil {
		err = a.stream("manifest.json", int64(len(b)), bytes.NewReader(b))
	}
	if err == nil {
		_, err = a.f.Write(make([]byte, 1024)) // the end of a tar
	}
	return errors.Join(err, a.f.Close())
}

// stream adds a file of a known size.
func (a *archive) stream(name string, size int64, r io.Reader) error {
	if err := a.header(name, size); err != nil {
		return err
	}
	n, err := io.Copy(a.f, r)
	if err == nil && n != size {
		err = fmt.Errorf("got %d bytes, want %d", n, size)
	}
	if err == nil {
		const block = 512
		_, err = a.f.Write(make([]byte, (block-size%block)%block))
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	a.has[name] = true
	return nil
}

func (a *archive) header(name string, size int64) error {
	// A Writer that is not closed and gets no content writes just the header.
	err := tar.NewWriter(a.f).WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch, Format: tar.FormatGNU})
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}
