package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/e2e/kind/proc"
)

// DebianTree is the file tree of a small Debian with some packages more.
type DebianTree struct {
	Label    string
	Suite    string
	Packages []string
	Remove   []string // what to remove of it: patterns of [filepath.Match] for paths below its root
}

// Name is the label.
func (d DebianTree) Name() string { return d.Label }

// Needs nothing.
func (DebianTree) Needs() []Recipe { return nil }

// bulk is what no container needs of a Debian.
var bulk = []string{
	"dev/*", "var/cache/apt/*", "var/cache/debconf/*", "var/lib/apt/lists/*", "var/log/*",
	"usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/zoneinfo/*",
}

// Make runs debootstrap.
func (d DebianTree) Make(ctx context.Context, s *Store, dir string) error {
	log, err := s.buildLog(d.Name())
	if err != nil {
		return err
	}
	debs := s.path("work", "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return fmt.Errorf("make a folder for packages: %w", err)
	}
	args := []string{"--variant=minbase", "--cache-dir=" + debs, "--include=" + strings.Join(d.Packages, ","), d.Suite, dir}
	if site := debianMirror(ctx); site != "" {
		args = append(args, site)
	}
	err = proc.Logged(proc.Command(ctx, "debootstrap", args...), log)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	for _, pattern := range append(bulk, d.Remove...) {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("remove %s: %w", pattern, err)
		}
		for _, p := range paths {
			if err := os.RemoveAll(p); err != nil {
				return fmt.Errorf("remove %s: %w", pattern, err)
			}
		}
	}
	return os.Chmod(dir, 0o755)
}

// debianMirror is where this machine's apt gets Debian from; empty, if it is not Debian.
func debianMirror(ctx context.Context) string {
	out, err := proc.Output(proc.Command(ctx, "apt-get", "indextargets",
		"--format", "$(SITE) $(CODENAME)", "Created-By: Packages", "Origin: Debian"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		site, codename, _ := strings.Cut(strings.TrimSpace(line), " ")
		if site != "" && !strings.Contains(codename, "-") { // not -security, -updates, -backports
			return site
		}
	}
	return ""
}
