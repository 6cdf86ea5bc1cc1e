package build

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ModuleFiles are some files of a Go module's sources, below their paths there.
type ModuleFiles struct {
	Label   string
	Module  string
	Version string
	Paths   []string // of files, or of folders, which are taken whole
}

// Name is the label.
func (m ModuleFiles) Name() string { return m.Label }

// Needs nothing.
func (ModuleFiles) Needs() []Recipe { return nil }

// Make copies them.
func (m ModuleFiles) Make(ctx context.Context, s *Store, dir string) error {
	at, err := s.download(ctx, m.Module, m.Version)
	if err != nil {
		return err
	}
	for _, path := range m.Paths {
		err := filepath.WalkDir(filepath.Join(at.Dir, path), func(from string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, strings.TrimPrefix(from, at.Dir))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, b, 0o644)
		})
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
	}
	return nil
}

// kubernetesFiles are what the images need of Kubernetes' sources.
func kubernetesFiles() ModuleFiles {
	return ModuleFiles{Label: "kubernetes-files", Module: "k8s.io/kubernetes", Version: kubernetes,
		Paths: []string{"build/pause/linux", "test/images/agnhost/porter"}}
}

// kindFiles are the scripts and configuration of kind's node image.
func kindFiles() ModuleFiles {
	return ModuleFiles{Label: "kind-files", Module: "sigs.k8s.io/kind", Version: kind, Paths: []string{"images/base/files"}}
}
