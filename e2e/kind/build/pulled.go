package build

import (
	"context"
	"errors"
	"path/filepath"
)

// PulledImages is an archive, images.tar, of images from registries.
type PulledImages struct {
	Label  string
	Images []string
}

// Name is the label.
func (p PulledImages) Name() string { return p.Label }

// Needs nothing.
func (PulledImages) Needs() []Recipe { return nil }

// Archive is the file that Make made.
func (p PulledImages) Archive(s *Store) string { return filepath.Join(s.Path(p), "images.tar") }

// Make fetches the images.
func (p PulledImages) Make(ctx context.Context, _ *Store, dir string) error {
	a, err := newArchive(filepath.Join(dir, "images.tar"))
	if err != nil {
		return err
	}
	var from puller
	for _, image := range p.Images {
		if err = from.pull(ctx, image, a); err != nil {
			break
		}
	}
	return errors.Join(err, a.Close())
}

// publicNodeImage is the node image that this version of kind names
// (pkg/apis/config/defaults/image.go).
const publicNodeImage = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"

// publicNode is that image; the control plane's images are in it.
func publicNode() PulledImages {
	return PulledImages{Label: "public-node-image", Images: []string{publicNodeImage}}
}

// publicTests are upstream's images for the network tests.
func publicTests() PulledImages {
	t := Tests()
	return PulledImages{Label: "public-test-images",
		Images: []string{t.Agnhost, t.GlibcDNS, t.Nginx, t.Iptables, t.BusyBox, t.Regression, t.Pause}}
}
