package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Image is what [Image.Write] writes.
type Image struct {
	Name   string // NAME:TAG, as in a Pod
	Config Config
	Layers []Tree // the lowest first
}

// Config is how a container of the image is started where the Pod does not say (the
// part of the OCI image configuration that is used here).
type Config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

// Media types (OCI image specification 1.1).
const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// Write writes the image as a tar file that is both an OCI image layout and what
// `docker save` writes, for this machine's architecture: `ctr images import`,
// `docker load`, `podman load` and `kind load image-archive` take it. It returns the
// digest of the manifest, by which a registry would know it.
func (i Image) Write(w io.Writer) (string, error) {
	full, err := Normal(i.Name)
	if err != nil {
		return "", err
	}
	blobs := tar.NewWriter(w)
	add := func(name string, b []byte) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := blobs.WriteHeader(h); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		if _, err := blobs.Write(b); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		return nil
	}
	blob := func(mediaType string, b []byte) (descriptor, error) {
		d := descriptor{MediaType: mediaType, Digest: digest(b), Size: len(b)}
		return d, add(blobPath(d.Digest), b)
	}
	machine := platform{Architecture: runtime.GOARCH, OS: "linux"}
	var layers []descriptor
	var diffIDs []string
	for _, t := range i.Layers {
		l, err := t.Layer()
		if err != nil {
			return "", err
		}
		d, err := blob(typeLayer, l.Blob)
		if err != nil {
			return "", err
		}
		layers, diffIDs = append(layers, d), append(diffIDs, l.DiffID)
	}
	config, err := blob(typeConfig, encode(map[string]any{
		"created": "1970-01-01T00:00:00Z", "architecture": machine.Architecture, "os": machine.OS,
		"config": i.Config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	if err != nil {
		return "", err
	}
	manifest, err := blob(typeManifest, encode(map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers,
	}))
	if err != nil {
		return "", err
	}
	manifest.Platform = &machine
	_, tag, _ := strings.Cut(full[strings.LastIndex(full, "/")+1:], ":")
	manifest.Annotations = map[string]string{
		"io.containerd.image.name":          full,
		"org.opencontainers.image.ref.name": tag,
	}
	var paths []string
	for _, l := range layers {
		paths = append(paths, blobPath(l.Digest))
	}
	for _, f := range []struct {
		name    string
		content any
	}{
		{"oci-layout", map[string]any{"imageLayoutVersion": "1.0.0"}},
		{"index.json", map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}},
		{"manifest.json", []map[string]any{{"Config": blobPath(config.Digest), "RepoTags": []string{i.Name}, "Layers": paths}}},
	} {
		if err := add(f.name, encode(f.content)); err != nil {
			return "", err
		}
	}
	if err := blobs.Close(); err != nil {
		return "", fmt.Errorf("write image: %w", err)
	}
	return manifest.Digest, nil
}

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// encode is JSON in which maps have the order of their keys.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data, always encodable
	}
	return b
}

// imageName is a name with a tag (distribution's grammar of references, without digest).
var imageName = regexp.MustCompile(`^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// Normal is the name as container runtimes keep it: with a registry, and where that is
// Docker's, with the folder of its own images.
func Normal(name string) (string, error) {
	if !imageName.MatchString(name) {
		return "", fmt.Errorf("image name %q: %w", name, errImageName)
	}
	registry, rest, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name, nil
	case strings.ContainsAny(registry, ".:") || registry == "localhost":
		return registry + "/" + rest, nil
	}
	return "docker.io/" + name, nil
}

var errImageName = errors.New("want [REGISTRY/]NAME:TAG, as in ghcr.io/weftnet/weft:v1")
